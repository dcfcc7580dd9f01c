# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""pymemcgbpf doctor, on machines that are made up."""

from __future__ import annotations

import errno
import json
import os
import platform
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import pytest

from pymemcgbpf import BpfPermissionError, BtfNotFoundError, LibbpfNotFoundError
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import capabilities as _capabilities
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import program as _program
from pymemcgbpf._bpf.counter_slots import Layout
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cli import doctor, pins
from pymemcgbpf._cli.main import main
from pymemcgbpf._pins.find import FoundPin, FoundPins
from pymemcgbpf._sources import choose as _choose
from pymemcgbpf._sources import slot_discovery as _slot_discovery
from pymemcgbpf.errors import BackendUnavailableError, BpfObjectError

from ...published_tree import PublishedTree
from ..commands import Captured, RefuseBpf
from ..conftest import RunPython
from ..directories import make_v1, make_v2
from ..kernels import LINUX_5_10, LINUX_5_15, LINUX_6_1, LINUX_6_18, LINUX_7_3
from ..pin_files import ROW, pinned_file, pinned_tree, published, stream

LOCKDOWN = "/sys/kernel/security/lockdown"
UNPRIVILEGED = "/proc/sys/kernel/unprivileged_bpf_disabled"
ROOT, BPF_ALONE, NONE = (1 << 41) - 1, 1 << 39, 0
FILES = {
    "/proc/self/uid_map": "         0          0 4294967295\n",
    "/proc/self/status": "Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t0\n",
    UNPRIVILEGED: "2\n",
    LOCKDOWN: "none [integrity] confidentiality\n",
}


def raising(error: Exception) -> Callable[..., Any]:
    """A function that raises this."""

    def refuse(*_: object) -> Any:
        raise error

    return refuse


NO_LIBBPF = raising(LibbpfNotFoundError("libbpf.so.1 cannot be loaded: apt-get install libbpf1"))
NO_BTF = raising(BtfNotFoundError("no BTF: it needs CONFIG_DEBUG_INFO_BTF=y"))
NO_OBJECT = raising(BpfObjectError("none", remedy="install pymemcgbpf again", errno=errno.EACCES))
SLOTS = {"NR_ANON_MAPPED": 3, "NR_FILE_PAGES": 4, "PGFAULT": 9}
REBUILT = lambda *_: Layout(SLOTS, True)  # noqa: E731
PARTLY = lambda *_: Layout({"NR_ANON_MAPPED": 3}, True)  # noqa: E731
NO_LAYOUT = raising(BackendUnavailableError("where the counters are is not known"))
NO_PERMISSION = raising(BpfPermissionError("lacks CAP_BPF"))


class Machine:
    """A machine on which all is well, until a test changes it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.files: dict[str, Any] = dict(FILES)
        self.set(doctor, "_read", self._read)
        self.set(platform, "release", lambda: "7.0.3-arm")
        self.set(_btf, "kernel", LINUX_7_3.types)
        self.set(_libbpf, "load", lambda: _Library("1.5"))
        self.set(_program, "read_object", lambda file: b"1234")
        self.set(_capabilities, "effective", lambda: ROOT)
        self.set(_slot_discovery, "find", lambda *_: Layout({}, False))
        self.set(_choose, "BPF_OPENER", _TextAsBpf())
        self.set(doctor, "list_pins", lambda: FoundPins([], 0))
        self.set(doctor, "why_not_seen", lambda _: "")
        self.set(pins, "kernel_timers", lambda _: pins.Timers([], ""))

    def set(self, where: Any, name: str, value: Any) -> None:
        self._monkeypatch.setattr(where, name, value)

    def _read(self, path: str) -> str:
        found = self.files[path]
        if isinstance(found, int):
            raise OSError(found, os.strerror(found), path)
        return str(found)


class _Library(NamedTuple):
    version: str


class _TextAsBpf(_choose.BpfOpener):
    """Reads text, and calls it BPF."""

    def open(self, selector: Any, backend: str) -> Any:
        if backend == "rfc":
            raise BackendUnavailableError("this kernel has no rfc")
        source = selector.factory.text(selector.cgroup, ("anon",))
        transport = selector.request.transport.replace("auto", "run")
        return _choose.Selection(source, ("anon",), backend, transport, "")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def examined(captured: Captured, path: Path, status: int) -> dict[str, tuple[str, str]]:
    """Check → verdict, and what else the line says; as printed, and as JSON."""
    assert main(["doctor", str(path)]) == status
    out, err = captured.readouterr()
    assert err == ""
    shown = {line[16:40].rstrip(): (line[:14].rstrip(), line[42:]) for line in out.splitlines()}
    assert main(["doctor", "--json", str(path)]) == status
    found = json.loads(captured.readouterr().out)
    assert found["bpf"] is (status == 0)
    assert [(one["check"], one["verdict"]) for one in found["checks"]] == [
        (check, verdict) for check, (verdict, _) in shown.items()
    ]
    return shown


def test_all_is_well(machine: Machine, v2: Path, capsys: Captured) -> None:
    shown = examined(capsys, v2, 0)
    assert list(shown)[:16] == [
        *("kernel", "cgroup file system", "memory controller", "BTF", "libbpf", "BPF objects"),
        *("capabilities", "lockdown", "unprivileged BPF", "memcg kfuncs", "cgroup kfuncs"),
        *("flush through BPF", "index tables", "refresh by the kernel"),
        *("removed cgroups", "pins"),
    ]
    ways = [
        f"{what}, {backend}/{transport}"
        for backend in ("kfunc", "rfc", "core")
        for what, transports in (("one cgroup", ("run", "stream")), ("a tree", ("run", "shared")))
        for transport in transports
    ]
    assert list(shown)[16:] == [*ways, "one cgroup, text", "a tree, text", "in use"]
    assert {check for check, (verdict, _) in shown.items() if verdict != "ok"} == {
        way for way in ways if "rfc" in way
    }
    assert shown["in use"][1] == "kfunc/run for one cgroup, kfunc/run for a tree"
    assert shown["lockdown"][1] == "integrity"
    assert "1 items of 1 cgroup in " in shown["a tree, core/shared"][1]
    assert shown["a tree, rfc/run"][1] == "see one cgroup, rfc/run"


def test_removed_cgroups_that_cannot_be_seen(machine: Machine, v2: Path, capsys: Captured) -> None:
    machine.set(doctor, "why_not_seen", lambda _: "departed: this process lacks CAP_PERFMON")
    verdict, said = examined(capsys, v2, 0)["removed cgroups"]
    assert verdict == "no" and said.startswith("departed: this process lacks CAP_PERFMON")
    machine.set(_btf, "kernel", LINUX_5_15.types)
    assert "Linux 6.1 or later" in examined(capsys, v2, 0)["removed cgroups"][1]


def look(
    check: str, verdict: str, said: str, where: object = None, name: str = "", value: object = None
) -> Any:
    """A parameter: what a check says where *name* of a module, or a file, is another."""
    return pytest.param(where, name, value, check, verdict, said, id=f"{check}-{verdict}-{said}")


def capable(effective: Optional[int]) -> tuple[object, str, object]:
    return _capabilities, "effective", lambda: effective


UNKNOWN = "could not tell"
LACKS = "this process lacks"


@pytest.mark.parametrize(
    ("where", "name", "value", "check", "verdict", "said"),
    [
        look("kernel", "no", "Linux 5.10 or later", platform, "release", lambda: "5.9.16"),
        look(
            "kernel",
            "ok",
            "pins and removed cgroups need Linux 6.1",
            platform,
            "release",
            lambda: "5.10.0-46",
        ),
        look(
            "kernel",
            "ok",
            "pins and removed cgroups need Linux 6.1",
            platform,
            "release",
            lambda: "6.0.9",
        ),
        look("kernel", "ok", "6.1", platform, "release", lambda: "6.1"),
        look("kernel", UNKNOWN, "odd", platform, "release", lambda: "odd"),
        look("libbpf", "no", "apt-get install", _libbpf, "load", NO_LIBBPF),
        look("BTF", "no", "CONFIG_DEBUG_INFO_BTF", _btf, "kernel", NO_BTF),
        look("memcg kfuncs", UNKNOWN, "BTF", _btf, "kernel", NO_BTF),
        look("memcg kfuncs", UNKNOWN, "libbpf", _btf, "kernel", NO_LIBBPF),
        look("memcg kfuncs", "no", "Linux 7.0", _btf, "kernel", LINUX_6_18.types),
        look("flush through BPF", "no", "Linux 7.0", _btf, "kernel", LINUX_6_18.types),
        look("flush through BPF", "no", "Linux 7.0", _btf, "kernel", LINUX_5_15.types),
        look("flush through BPF", "ok", "need no flush", _btf, "kernel", LINUX_5_10.types),
        look("index tables", "ok", "has none", _btf, "kernel", LINUX_5_10.types),
        look("index tables", "ok", "has none", _btf, "kernel", LINUX_5_15.types),
        look("cgroup kfuncs", "no", "Linux 6.12", _btf, "kernel", LINUX_6_1.types),
        look("BPF objects", "no", "install", _program, "read_object", NO_OBJECT),
        look("capabilities", "no", f"{LACKS} CAP_BPF and CAP_PERFMON: run as root", *capable(NONE)),
        look("capabilities", "no", f"{LACKS} CAP_PERFMON: run as root", *capable(BPF_ALONE)),
        look("capabilities", "ok", "CAP_BPF and CAP_PERFMON", *capable(3 << 38)),
        look("capabilities", UNKNOWN, "mount /proc", *capable(None)),
        look("capabilities", UNKNOWN, "user namespace", None, "/proc/self/uid_map", "0 1000 1\n"),
        look("capabilities", UNKNOWN, "denied", None, "/proc/self/uid_map", errno.EACCES),
        look("capabilities", "ok", "seccomp", None, "/proc/self/status", "x\nSeccomp:\t2\n"),
        look("lockdown", "no", "lockdown=integrity", None, LOCKDOWN, "none [confidentiality]\n"),
        look("lockdown", "ok", "none", None, LOCKDOWN, "[none] integrity confidentiality\n"),
        look("lockdown", UNKNOWN, "Permission denied", None, LOCKDOWN, errno.EACCES),
        look("unprivileged BPF", UNKNOWN, "No such file", None, UNPRIVILEGED, errno.ENOENT),
        look("index tables", "ok", "proved for 3 items", _slot_discovery, "find", REBUILT),
        look("index tables", "ok", "1 items, but not for 2", _slot_discovery, "find", PARTLY),
        look(
            "index tables",
            "ok",
            "offer: file, pgfault: CAP_SYSLOG",
            _slot_discovery,
            "find",
            PARTLY,
        ),
        look("index tables", "no", "not known", _slot_discovery, "find", NO_LAYOUT),
        look("index tables", UNKNOWN, "CAP_BPF", _slot_discovery, "find", NO_PERMISSION),
    ],
)
def test_a_look(
    where: object,
    name: str,
    value: Any,
    check: str,
    verdict: str,
    said: str,
    machine: Machine,
    v2: Path,
    capsys: Captured,
) -> None:
    if where is None:
        machine.files[name] = value
    else:
        machine.set(where, name, value)
    shown = examined(capsys, v2, 0)
    assert shown[check][0] == verdict
    assert said in shown[check][1]


@pytest.mark.parametrize(
    ("entries", "verdict", "said"),
    [
        (["apparmor"], "ok", "built without"),
        ([], UNKNOWN, "mount -t securityfs"),
        (None, UNKNOWN, ""),
    ],
)
def test_no_lockdown(
    entries: Optional[list[str]],
    verdict: str,
    said: str,
    machine: Machine,
    tmp_path: Path,
    v2: Path,
    capsys: Captured,
) -> None:
    security = tmp_path / "security"
    if entries is not None:
        security.mkdir()
        for name in entries:
            (security / name).mkdir()
    machine.set(doctor, "_SECURITY", str(security))
    machine.files[f"{security}/lockdown"] = errno.ENOENT
    shown = examined(capsys, v2, 0)
    assert shown["lockdown"][0] == verdict and said in shown["lockdown"][1]


def test_btf_is_looked_for_where_there_is_no_libbpf(
    machine: Machine, tmp_path: Path, v2: Path, capsys: Captured
) -> None:
    machine.set(_btf, "kernel", NO_LIBBPF)
    machine.set(_btf, "VMLINUX", str(tmp_path / "vmlinux"))
    assert examined(capsys, v2, 0)["BTF"][0] == "could not tell"
    (tmp_path / "vmlinux").write_bytes(b"12345")
    assert examined(capsys, v2, 0)["BTF"] == ("ok", f"{tmp_path}/vmlinux, 5 bytes")


@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_no_line_advises_an_option_that_doctor_does_not_have(
    json_option: tuple[str, ...], machine: Machine, v2: Path, capsys: Captured
) -> None:
    machine.set(_btf, "kernel", LINUX_6_18.types)
    assert main(["doctor", str(v2), *json_option]) == 0
    out = capsys.readouterr().out
    assert "bpf_get_mem_cgroup (Linux 7.0 or later)" in out
    assert "memcg_node_stat_fetch (which no released kernel has)" in out
    assert "backend=" not in out


@pytest.mark.parametrize("missing", [*_program.OBJECT_FILES, ""])
def test_each_missing_object_is_named(
    missing: str, machine: Machine, v2: Path, capsys: Captured
) -> None:
    gone = [missing] if missing else [_program.RUN_DIR_FILE, _program.TABLES_FILE]

    def read(file: str) -> bytes:
        if file in gone:
            raise BpfObjectError("it is missing", remedy="do this", errno=errno.ENOENT)
        return b"1234"

    machine.set(_program, "read_object", read)
    verdict, said = examined(capsys, v2, 0)["BPF objects"]
    names = ", ".join(f"{os.path.basename(file)} (No such file or directory (2))" for file in gone)
    folder = os.path.dirname(_program.OBJECT_FILE)
    assert (verdict, said) == ("no", f"{names} cannot be read in {folder}: do this")


def test_all_objects_are_checked(machine: Machine, v2: Path, capsys: Captured) -> None:
    named = {file for name, file in vars(_program).items() if name.endswith("_FILE")}
    assert set(_program.OBJECT_FILES) == named
    assert "7 in " in examined(capsys, v2, 0)["BPF objects"][1]


def test_text_alone_is_status_1(machine: Machine, v2: Path, capsys: Captured) -> None:
    machine.set(_choose, "BPF_OPENER", RefuseBpf())
    shown = examined(capsys, v2, 1)
    assert shown["in use"] == (
        "no",
        "one cgroup is read as text: kfunc, rfc, core: lacks CAP_BPF",
    )
    assert shown["a tree, core/shared"] == ("no", "see one cgroup, kfunc/run")
    assert shown["a tree, text"][0] == "ok"


def test_a_path_that_cannot_be_read(machine: Machine, tmp_path: Path, capsys: Captured) -> None:
    shown = examined(capsys, tmp_path / "none", 1)
    assert "no such cgroup" in shown["cgroup file system"][1]
    for check in ("memory controller", "index tables", "one cgroup, text", "in use"):
        assert shown[check] == ("no", "see cgroup file system"), check


def test_a_cgroup_without_the_memory_controller(
    machine: Machine, tmp_path: Path, capsys: Captured
) -> None:
    make_v2(tmp_path / "root", kind=None, current=None)
    path = make_v2(tmp_path / "root" / "a", stat=None, current=None, controllers="pids")
    shown = examined(capsys, path, 1)
    assert shown["cgroup file system"] == ("ok", "mounted")
    assert shown["memory controller"][0] == "no"
    assert "cgroup.subtree_control" in shown["memory controller"][1]


def test_no_cgroup_at_all(
    machine: Machine, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "PROC", "/no/proc")  # nothing is mounted
    assert main(["doctor"]) == 1
    out, err = capsys.readouterr()
    assert "no     " in out and "mount /proc, or name a cgroup" in out and err == ""


def test_default_is_the_nearest_with_statistics(
    machine: Machine, v2: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = make_v2(v2 / "below", stat=None, current=None)
    monkeypatch.setattr(_mounts, "own_cgroup", lambda: str(below))
    assert main(["doctor"]) == 0
    assert f"{v2}/memory.stat\n" in capsys.readouterr().out


def test_with_20_file_descriptors_each_check_still_has_a_line(run_python: RunPython) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)); "
        "from pymemcgbpf._cli.main import main; sys.exit(main())"
    )
    ran = run_python("-c", code, "doctor")
    lines = ran.stdout.splitlines()
    assert ran.stderr == "" and len(lines) == 31
    assert {line[:14].rstrip() for line in lines} <= {"ok", "no", "could not tell"}
    assert lines[-1][16:].startswith("in use ") and ran.returncode == (lines[-1][:2] != "ok")


def test_whatever_machine_this_is_it_is_no_traceback(run_python: RunPython) -> None:
    for prelude in ("", "import pymemcgbpf._bpf.libbpf as lib; lib.SONAME = 'libnone.so.9'; "):
        code = f"{prelude}from pymemcgbpf._cli.main import main; import sys; sys.exit(main())"
        ran = run_python("-c", code, "doctor")
        assert ran.stderr == "" and len(ran.stdout.splitlines()) == 31
        verdicts = {line[:14].rstrip() for line in ran.stdout.splitlines()}
        assert verdicts <= {"ok", "no", "could not tell"}
        assert ran.returncode == (ran.stdout.splitlines()[-1][:2] != "ok")
    assert "libnone.so.9 cannot be loaded" in ran.stdout and ran.returncode == 1


# --- pins -------------------------------------------------------------------------------

PIN = FoundPin(
    path="/bpf/all",
    kind="tree",
    order="pre",
    item_names=("anon", "file"),
    root_id=10,
    cgroup="/cgroup",
    refreshed_by="kernel",
    interval=1.0,
    age=0.25,
    duration=0.0005,
    share=0.0005,
    cgroups=4,
    memory=4 << 20,
    state="alive",
    advice="",
)


def test_the_items_that_are_missing_as_text_on_v1_are_said(
    machine: Machine, v1: Path, capsys: Captured
) -> None:
    machine.set(_choose, "BPF_OPENER", RefuseBpf())
    verdict, said = examined(capsys, v1, 1)["in use"]
    assert verdict == "no" and "lacks CAP_BPF; as text, up to " in said
    assert said.endswith("items are missing (kernel, kernel_stack, pagetables, ...)")


def test_the_items_of_text_that_bpf_does_not_have_are_said(
    machine: Machine, v1: Path, capsys: Captured
) -> None:
    lost = "core does not have 1 of text's items (file)"

    class Losing(_TextAsBpf):
        def open(self, selector: Any, backend: str) -> Any:
            made = super().open(selector, backend)
            made.missing = lost
            return made

    machine.set(_choose, "BPF_OPENER", Losing())
    verdict, said = examined(capsys, v1, 0)["in use"]
    assert verdict == "ok" and said.count(f"/run for one cgroup, where {lost}") == 1


def test_whether_the_kernel_can_refresh_is_said(
    machine: Machine, v2: Path, v1: Path, capsys: Captured
) -> None:
    assert examined(capsys, v2, 0)["refresh by the kernel"][0] == "ok"
    verdict, said = examined(capsys, v1, 0)["refresh by the kernel"]
    assert verdict == "no" and "cgroup v2 only" in said
    assert "the process that pinned the tree refreshes it" in said
    machine.set(_btf, "kernel", LINUX_6_1.types)
    verdict, said = examined(capsys, v2, 0)["refresh by the kernel"]
    assert verdict == "no" and "bpf_wq_start" in said
    machine.set(_btf, "kernel", NO_BTF)
    assert examined(capsys, v2, 0)["refresh by the kernel"][0] == "could not tell"


def test_the_pins_are_said_with_what_they_cost(
    machine: Machine, v2: Path, capsys: Captured
) -> None:
    assert examined(capsys, v2, 0)["pins"] == ("ok", "there are none")
    others = [
        PIN._replace(path="/bpf/mine", refreshed_by="holder", interval=None, share=None),
        PIN._replace(path="/bpf/one", kind="cgroup", refreshed_by="read"),
    ]
    machine.set(doctor, "list_pins", lambda: FoundPins([PIN, *others], 2))
    machine.set(pins, "kernel_timers", lambda _: pins.Timers([8], ""))
    verdict, said = examined(capsys, v2, 0)["pins"]
    assert verdict == "ok"
    all_, mine, one, unreadable, hidden = said.split("; ")
    assert all_ == ("/bpf/all, refreshed by the kernel every 1 s (0.50 ms a walk, 0.05 % of a CPU)")
    assert mine == "/bpf/mine, refreshed by a process"
    assert one == "/bpf/one, read when it is opened"
    assert unreadable == "2 files and directories cannot be read"
    assert hidden.startswith("the kernel refreshes 1 more tree, by the map with the id 8: ")


def test_a_stale_pin_is_said_with_what_to_do(machine: Machine, v2: Path, capsys: Captured) -> None:
    stale = PIN._replace(state="stale", advice="unpin it")
    machine.set(doctor, "list_pins", lambda: FoundPins([stale], 0))
    verdict, said = examined(capsys, v2, 0)["pins"]
    assert verdict == "no" and said.endswith(": /bpf/all is stale: unpin it")


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """A fake cgroup v1 directory."""
    return make_v1(tmp_path / "v1", root=True)


CONTENTS = ["pin", "cgroup", "state", "cost"]


@pytest.mark.usefixtures("on_bpffs")
def test_a_pinned_tree_is_checked(tmp_path: Path, capsys: Captured) -> None:
    path = pinned_tree(tmp_path / "all", published())
    shown = examined(capsys, path, 0)
    assert list(shown) == [*CONTENTS, "read by map", "read by stream", "in use"]
    assert shown["pin"] == ("ok", "a pinned tree, in the order pre, with 2 items: anon, pgscan")
    assert shown["cgroup"] == ("ok", "/sys/fs/cgroup/root, 4 cgroups")
    assert "refreshed by the process that pinned it every 1 s" in shown["state"][1]
    assert "of memory" in shown["cost"][1]
    assert shown["read by map"][0] == "no"  # it is no map
    assert shown["read by stream"][0] == "ok"
    assert shown["in use"][1].startswith("stream, 2 items of 4 cgroups in ")


@pytest.mark.usefixtures("on_bpffs")
def test_a_pin_of_one_cgroup_is_checked(tmp_path: Path, capsys: Captured) -> None:
    path = pinned_file(tmp_path / "one", stream([ROW]))
    shown = examined(capsys, path, 0)
    assert list(shown) == [*CONTENTS, "in use"]
    assert shown["pin"][1].startswith("one cgroup, which the kernel reads whenever")
    assert shown["cgroup"][1] == "id 9, 1 cgroup"
    assert shown["in use"][1].startswith("stream, 2 items in ")


@pytest.mark.usefixtures("on_bpffs")
def test_a_pin_that_cannot_be_read_is_no_traceback(tmp_path: Path, capsys: Captured) -> None:
    shown = examined(capsys, tmp_path / "none", 1)
    assert list(shown) == [*CONTENTS, "in use"]
    assert shown["pin"][0] == "no" and "there is no pin" in shown["pin"][1]
    assert {shown[check][0] for check in CONTENTS[1:]} == {"could not tell"}
    assert shown["in use"] == ("no", "see pin")
    tree = PublishedTree()
    path = pinned_tree(tmp_path / "all", tree)
    shown = examined(capsys, path, 1)
    assert shown["state"][0] == "no" and shown["state"][1].startswith("new, refreshed by")
    assert shown["cost"][0] == "could not tell"
