# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Checks every prerequisite of reading through BPF, and says what can be done about each one."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional, Union

from .. import _options
from .._bpf import btf as _btf
from .._bpf import capabilities as _capabilities
from .._bpf import counter_slots as _counter_slots
from .._bpf import plan as _plan
from .._bpf import program as _program
from .._bpf import terms as _terms
from .._bpf.bindings import libbpf as _libbpf
from .._bpf.features import DEPARTED, KERNEL_REFRESH, KFUNC, NO_FLUSH, RFC, RUN
from .._cgroup import directory as _directory
from .._cgroup.present_items import PresentItems
from .._items import MEMORY_STAT
from .._pins import bpffs as _bpffs
from .._pins.find import FoundPin, list_pins
from .._pins.tree_programs import why_not_by_kernel
from .._sources import flush as _flush
from .._sources import slot_discovery as _slot_discovery
from .._sources.one_bpf import StatSourceFactory
from .._sources.tree_bpf import TreeSourceFactory
from ..errors import (
    BackendUnavailableError,
    BpfObjectError,
    LibbpfNotFoundError,
    LibbpfTooOldError,
    MemcgError,
    MemoryControllerError,
    errno_text,
)
from ..reader import StatsReader, TreeReader
from . import command, doctor_pin, parsers, pins, readers
from .checks import NO, OK, UNKNOWN, Check, CouldNotTellError, as_line, looked

_ONE, _TREE = "one cgroup", "a tree"


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = parsers.plain_parser(
        " doctor",
        "[PATH]",
        "Check every prerequisite of BPF and try each backend once, or check a pin. Each line says "
        "ok, no or could not tell, then what was found, and what can be done.",
        "The last line says what is used; a no above it need not matter. Exit status: 0 if BPF is "
        "used or the pin can be read, 1 if not, 2 for wrong usage.",
    )
    parser.add_argument(
        "path",
        nargs="?",
        metavar="PATH",
        help=f"{parsers.A_CGROUP} (default: this process's own, or the nearest above it that has "
        f"memory statistics){parsers.OR_PIN}",
    )
    parsers.add_pid(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    done: list[Check] = []

    def texts() -> Iterator[str]:
        path = readers.cgroup_of(options.path, options.pid)
        for check in (doctor_pin.checks if _bpffs.leads_to_bpffs(path) else _checks)(path):
            if not options.json:
                yield as_line(check, done)
            done.append(check)
        if options.json:
            checks = [check._asdict() for check in done]
            yield json.dumps({"bpf": _is_well(done), "checks": checks}, indent=2)

    return command.run_each(texts) or (command.OK if _is_well(done) else command.FAILED)


def _is_well(checks: Sequence[Check]) -> bool:
    return checks[-1].verdict == OK


def _checks(path: Optional[str]) -> Iterator[Check]:
    """All checks, each after those that it depends on. The last one says what readers use."""
    looks: dict[str, Callable[[], Check]] = {
        "kernel": _kernel,
        "cgroup file system": lambda: _mount(path),
        "memory controller": lambda: _controller(path),
        "BTF": _type_information,
        "libbpf": _library,
        "BPF objects": _objects,
        "capabilities": _held_capabilities,
        "lockdown": _lockdown,
        "unprivileged BPF": _unprivileged,
        "memcg kfuncs": _memcg_kfuncs,
        "cgroup kfuncs": _cgroup_kfuncs,
        "flush through BPF": _flush_through_bpf,
        "index tables": lambda: _index_tables(path),
        "refresh by the kernel": lambda: _kernel_refresh(path),
        "removed cgroups": lambda: _removed_cgroups(path),
        "pins": _pins,
    }
    for backend in _options.BACKENDS:
        for what, maker in ((_ONE, StatSourceFactory()), (_TREE, TreeSourceFactory("pre", None))):
            for transport in maker.transports if backend != "text" else ("",):
                way = f"{backend}/{transport}".rstrip("/")
                looks[f"{what}, {way}"] = functools.partial(
                    _reads, what, path, backend, transport or _options.AUTO
                )
    looks["in use"] = lambda: _in_use(path)
    for name, look in looks.items():
        yield looked(name, look)


# --- the kernel and its cgroups ---------------------------------------------------------


def _kernel() -> Check:
    release = platform.release()
    found = f"{platform.system()} {release}, {platform.machine()}"
    version = re.match(r"(\d+)\.(\d+)", release)
    if version is None:
        return Check(UNKNOWN, found)
    if (int(version[1]), int(version[2])) < (5, 10):
        return Check(NO, found, "Linux 5.10 or later is needed, or a backport")
    if (int(version[1]), int(version[2])) < (6, 1):
        return Check(OK, found, "pins and removed cgroups need Linux 6.1 or later, or a backport")
    return Check(OK, found)


def _mount(path: Optional[str]) -> Check:
    try:
        with _directory.opened_or_own(path) as cgroup:
            return Check(OK, f"cgroup v{cgroup.version}")
    except MemoryControllerError:
        return Check(OK, "mounted")


def _controller(path: Optional[str]) -> Check:
    with _directory.opened_or_own(path) as cgroup:
        return Check(OK, os.path.join(cgroup.path, MEMORY_STAT))


# --- what BPF takes ---------------------------------------------------------------------


def _type_information() -> Check:
    try:
        _btf.kernel()
    except (LibbpfNotFoundError, LibbpfTooOldError):
        return Check(OK, f"{_btf.VMLINUX}, {os.stat(_btf.VMLINUX).st_size:,} bytes")
    return Check(OK, "libbpf has read it")


def _library() -> Check:
    version = _libbpf.load().version
    return Check(OK, f"{_libbpf.SONAME} is version {version}, and has what is needed")


def _objects() -> Check:
    size, unreadable, advice = 0, [], ""
    for file in _program.OBJECT_FILES:
        try:
            size += len(_program.read_object(file))
        except BpfObjectError as error:
            unreadable.append(f"{os.path.basename(file)} ({errno_text(error.errno or 0)})")
            advice = error.remedy
    folder = os.path.dirname(_program.OBJECT_FILE)
    if unreadable:
        return Check(NO, f"{', '.join(unreadable)} cannot be read in {folder}", advice)
    return Check(OK, f"{len(_program.OBJECT_FILES)} in {folder}, {size:,} bytes")


def _held_capabilities() -> Check:
    effective = _capabilities.effective()
    if effective is None:
        return Check(UNKNOWN, "/proc/self/status cannot be read", "mount /proc")
    missing = _capabilities.missing()
    if missing:
        lacks = f"this process lacks {' and '.join(missing)}"
        return Check(NO, lacks, "run as root, or grant them (containers: --cap-add)")
    if _read("/proc/self/uid_map").split() != ["0", "0", "4294967295"]:
        found = "in a user namespace, where the kernel does not count them"
        return Check(UNKNOWN, found, "run it outside of one")
    found = "CAP_BPF and CAP_PERFMON"
    if effective >> _capabilities.CAP_SYS_ADMIN & 1:
        found = "CAP_SYS_ADMIN"
    else:
        with contextlib.suppress(MemcgError):  # there is no libbpf
            if _capabilities.needs_sys_admin():
                found += "; with this libbpf, all but core/run may need CAP_SYS_ADMIN"
    if "\nSeccomp:\t2\n" in _read("/proc/self/status"):
        found += ", but there is a seccomp filter, which may forbid bpf()"
    return Check(OK, found)


def _lockdown() -> Check:
    try:
        modes = _read(f"{_SECURITY}/lockdown")
    except FileNotFoundError:
        if os.path.isdir(_SECURITY) and os.listdir(_SECURITY):
            return Check(OK, "this kernel is built without")
        advice = f"mount -t securityfs securityfs {_SECURITY}"
        return Check(UNKNOWN, f"{_SECURITY} is not mounted", advice)
    mode = modes.partition("[")[2].partition("]")[0]
    if mode == "confidentiality":
        found = "confidentiality, by which BPF may not read the kernel's memory"
        return Check(NO, found, "boot with lockdown=integrity, or none")
    return Check(OK, mode)


_SECURITY = "/sys/kernel/security"


def _unprivileged() -> Check:
    setting = _read("/proc/sys/kernel/unprivileged_bpf_disabled").strip()
    found = f"kernel.unprivileged_bpf_disabled={setting}"
    return Check(OK, f"{found}, which concerns only a process that gives up its privileges")


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


# --- what this kernel has to offer ------------------------------------------------------


def _kernel_types() -> _btf.KernelTypes:
    try:
        return _btf.kernel()
    except BackendUnavailableError as error:
        raise CouldNotTellError("this can only be seen with BTF and libbpf") from error


def _memcg_kfuncs() -> Check:
    functions = _kernel_types().functions
    found = sorted(functions & {*KFUNC.functions, *RFC.functions})
    if found:
        return Check(OK, f"{' and '.join(found)}, and those that come with it")
    return Check(NO, KFUNC.explain(_kernel_types()), KFUNC.without)


def _cgroup_kfuncs() -> Check:
    types = _kernel_types()
    if not RUN.is_in(types):
        return Check(NO, RUN.explain(types), RUN.without)
    return Check(OK, " and ".join(RUN.functions))


def _flush_through_bpf() -> Check:
    if not _kernel_types().uses_rstat:
        return Check(OK, "this kernel's counters need no flush")
    if _flush.mode_of("core", by_iterator=True) == _terms.FLUSH_NONE:
        advice = "readers first read a file that flushes; a pin needs --no-flush"
        return Check(NO, NO_FLUSH, advice)
    return Check(OK, "this kernel has a flush that BPF may call")


def _index_tables(path: Optional[str]) -> Check:
    types = _kernel_types()
    try:
        with _directory.opened_or_own(path) as cgroup:
            layout = _slot_discovery.find(types, cgroup)
            shown = PresentItems(cgroup, walks=False).counted(MEMORY_STAT)
    except BackendUnavailableError as error:
        if type(error) is BackendUnavailableError:
            raise
        raise CouldNotTellError(f"this can only be seen with a BPF program: {error}") from error
    if _counter_slots.direct(types) is not None:
        return Check(OK, "this kernel has none: BTF tells where its counters are")
    if not layout.rebuilt:
        return Check(OK, "found by the kernel's symbols")
    source = _plan.Planner("core", types, layout)
    proved = [name for name in shown if source.terms_of(name)]
    unproved = [name for name in shown if source.lacks_proof(name)]
    found = (
        "the kernel's symbols do not show them; the order of the counters is rebuilt from BTF, and "
        f"proved for {len(proved)} items"
    )
    if not unproved:
        return Check(OK, found)
    found = f"{found}, but not for {len(unproved)}, which core does not offer"
    return Check(OK, f"{found}: {', '.join(unproved)}", _TO_SEE_TABLES)


_TO_SEE_TABLES = (
    "CAP_SYSLOG, or kernel.kptr_restrict=0, may show the kernel's symbols; a value other than 0 "
    "may prove more of them later"
)


# --- pins


def _kernel_refresh(path: Optional[str]) -> Check:
    _kernel_types()
    with _directory.opened_or_own(path) as cgroup:
        reason = why_not_by_kernel(cgroup)
    if reason:
        return Check(NO, reason, f"of pinned trees, {KERNEL_REFRESH.without}")
    return Check(OK, "the kernel itself can refresh pinned trees")


# --- removed cgroups


def _removed_cgroups(path: Optional[str]) -> Check:
    types = _kernel_types()
    if not DEPARTED.is_in(types):
        return Check(NO, DEPARTED.explain(types))
    with _directory.opened_or_own(path) as cgroup:
        directory = cgroup.path
    reason = why_not_seen(directory)
    if reason:
        return Check(NO, reason)
    return Check(OK, "they are seen, with their last numbers")


def why_not_seen(directory: str) -> str:
    """Why readers cannot see which cgroups are removed below one; "" if they can."""
    with TreeReader(directory, order="self", departed=True) as reader:
        return reader.fallback_reason if reader.read().departed is None else ""


def _pins() -> Check:
    found = list_pins()
    timers = pins.kernel_timers(found.pins)
    ill = [pin for pin in found.pins if pin.advice]
    said = list(map(_about, found.pins)) or ["there are none"]
    if found.unreadable:
        said.append(f"{found.unreadable} files and directories cannot be read")
    if timers.hidden:
        said.append(pins.hidden_text(timers.hidden))
    advice = "; ".join(f"{pin.path} is {pin.state}: {pin.advice}" for pin in ill)
    return Check(NO if ill else OK, "; ".join(said), advice)


def _about(pin: FoundPin) -> str:
    if pin.kind != "tree":
        return f"{pin.path}, read when it is opened"
    by = "the kernel" if pin.refreshed_by == "kernel" else "a process"
    every = "" if pin.interval is None else f" every {pin.interval:g} s"
    cost = ""
    if pin.duration is not None and pin.share is not None:
        walk, share = pins.duration(pin.duration), pins.percentage(pin.share)
        cost = f" ({walk} a walk, {share} of a CPU)"
    return f"{pin.path}, refreshed by {by}{every}{cost}"


# --- backends


def _reads(what: str, path: Optional[str], backend: _options.Backend, transport: str) -> Check:
    if backend in _FEATURES:
        # A reader would advise backend="auto", which does not help here: "in use" tries it anyway.
        with contextlib.suppress(BackendUnavailableError):
            if not _FEATURES[backend].is_in(_btf.kernel()):
                return Check(NO, _FEATURES[backend].explain(_btf.kernel()))
    began = time.perf_counter()
    with _reader(what, path, backend, transport) as reader:
        made = time.perf_counter()
        read = reader.read()
        ended = time.perf_counter()
        items = f"{len(reader.item_names)} items"
        if isinstance(reader, TreeReader):
            items = f"{items} of {len(read)} cgroup{'s' * (len(read) != 1)}"
        return Check(
            OK,
            f"{items} in {(ended - made) * 1e6:,.0f} µs, after a reader was created "
            f"({(made - began) * 1e3:,.1f} ms)",
        )


_FEATURES = {"kfunc": KFUNC, "rfc": RFC}


def _in_use(path: Optional[str]) -> Check:
    said = []
    for what in (_ONE, _TREE):
        with _reader(what, path, _options.AUTO, _options.AUTO) as reader:
            if reader.backend == "text":
                return Check(NO, f"{what} is read as text", reader.fallback_reason)
            missing = f", where {reader._missing}" if reader._missing else ""
            said.append(f"{reader.backend}/{reader.transport} for {what}{missing}")
    return Check(OK, ", ".join(said))


def _reader(
    what: str, path: Optional[str], backend: _options.Backend, transport: Any
) -> Union[StatsReader, TreeReader]:
    with _directory.opened_or_own(path) as cgroup:
        directory = cgroup.path
    kind = StatsReader if what == _ONE else TreeReader
    return kind(directory, backend=backend, transport=transport)
