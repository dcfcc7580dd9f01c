# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prepares a guest such as "6.12@trixie", boots it, and returns the result.

lab = Lab(wheel=Path("dist/pymemcgbpf-1.0-py3-none-any.whl"))
[newest] = lab.prepare(["newest"])
result = lab.boot(newest, Script(Path("tests/bench/guest.py"), icount=True))
print(result.output)
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Union

from tests.seed_kernel import build as seed

from . import guest, kernels, userland
from .cache import default_cache, in_cache, locked, prune, publish, scratch
from .debian import Apt, debian_apt, old_apt
from .errors import LabError
from .kernels import Package
from .records import Expected, GuestResult, Origin, judge
from .spec import (
    DEFAULT_ARCHITECTURE,
    DEFAULT_MATRIX,
    NEWEST,
    OLD_KERNEL_SUITES,
    PART,
    SEED,
    WHOLE_MATRIX,
    Spec,
    parse_spec,
    this_machine,
)
from .userland import Userland

REPOSITORY = Path(__file__).resolve().parents[2]
_GUEST_MODULES = ("__init__.py", "guest_job.py", "guest_plugin.py", "guest_record.py")
DEFAULT_TIMEOUT = 3600.0
_BOOT_RETRIES = 2
# The guest ends its job this many seconds before the host's timeout, so that it can report why.
_REPORT_SECONDS = 30


@dataclass(frozen=True)
class Tests:
    """A folder or file of pytest tests to run in a guest."""

    __test__ = False  # the name is not meant for pytest

    path: Path = REPOSITORY / "tests" / "kernel"
    select: str = ""  # pytest's -k
    icount: bool = False


@dataclass(frozen=True)
class Script:
    """A script, or a folder with a __main__.py, to run with the guest's Python."""

    path: Path
    arguments: tuple[str, ...] = ()
    icount: bool = False


Job = Union[Tests, Script]


@dataclass(frozen=True)
class Prepared:
    """A guest that is ready to boot: everything is in the cache."""

    spec: Spec
    package: Package
    kernel: Path
    userland: Userland
    select: str = ""  # pytest's -k, unless the job has one

    @property
    def series(self) -> str:
        """Return the series that the guest's kernel must be of."""
        return seed.series(self.package) if self.spec.is_seed else self.spec.series


@dataclass
class Lab:
    """Guests that share a wheel, extra files and limits."""

    wheel: Path | None
    timeout: float = DEFAULT_TIMEOUT
    extra: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    results: Path = REPOSITORY / "build" / "lab"
    cache: Path = field(default_factory=default_cache)
    memory: str = "2G"
    refresh: bool = False
    warnings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # guests whose kernel apt does not have
    stop: threading.Event = field(default_factory=threading.Event)
    _apts: dict[tuple[str, str], Apt] = field(default_factory=dict)

    def available(self, architecture: str) -> dict[str, Package]:
        """Return the newest cloud kernel package of every series that apt has."""
        with locked(self.cache):
            old = {
                series: package
                for series in OLD_KERNEL_SUITES
                if (package := self._old_kernel(architecture, series))
            }
            return {**old, **self._available(self._apt(architecture))}

    def _old_kernel(self, architecture: str, series: str) -> Package | None:
        """Return the package of an old series, or None, with a warning, if apt has none."""
        try:
            apt = self._apt(architecture, series)
            return kernels.find_series(series, self._available(apt))[1]
        except LabError as error:
            self.warnings.append(str(error))
            return None

    def prepare(self, specs: Sequence[str]) -> list[Prepared]:
        """Bring kernels and userlands into the cache. Specs of the same guest are merged."""
        wanted = {parse_spec(text): "" for text in specs}
        return self._prepared(lambda: wanted)

    def prepare_default(self) -> list[Prepared]:
        """Prepare the guests that `make test` boots."""
        wanted = {parse_spec(text): select for text, select in DEFAULT_MATRIX.items()}
        return self._prepared(lambda: wanted)

    def prepare_all(self) -> list[Prepared]:
        """Prepare the whole matrix. Guests whose kernel apt does not have go to *missing*."""
        return self._prepared(self._whole_matrix)

    def _whole_matrix(self) -> dict[Spec, str]:
        wanted = {parse_spec(text): select for text, select in WHOLE_MATRIX.items()}
        known = {spec.series for spec in wanted}
        oldest = min(map(kernels.in_order, known - {NEWEST, SEED}))
        for series in self._available(self._apt(DEFAULT_ARCHITECTURE)):
            if series not in known and kernels.in_order(series) > oldest:
                wanted[parse_spec(series)] = PART
        there = {
            spec: select
            for spec, select in wanted.items()
            if spec.series in {NEWEST, SEED, *self._available(self._apt(spec.architecture))}
            or (
                spec.series in OLD_KERNEL_SUITES
                and self._old_kernel(spec.architecture, spec.series)
            )
        }
        self.missing = [str(spec) for spec in wanted if spec not in there]
        return there

    def _prepared(self, wanted: Callable[[], Mapping[Spec, str]]) -> list[Prepared]:
        with locked(self.cache):
            prune(self.cache)
            try:
                return self._prepare(wanted())
            except LabError:
                # The archive replaces point releases, so even recent lists can be outdated.
                old = [apt for apt in self._apts.values() if apt.lists_may_be_old]
                if not old or any(apt.update(force=True) for apt in old):
                    raise
                return self._prepare(wanted())

    def _prepare(self, wanted: Mapping[Spec, str]) -> list[Prepared]:
        ready: dict[Spec, Prepared] = {}
        for one, select in wanted.items():
            apt = self._apt(one.architecture)
            holder = apt
            if one.series in OLD_KERNEL_SUITES:
                holder = self._apt(one.architecture, one.series)
            spec, package = self._find_kernel(holder, one)
            if spec not in ready:
                kernel = self._kernel(holder, spec, package)
                native = self._apt(this_machine().debian)
                packed = userland.prepare(apt, native, self.cache, spec.userland)
                ready[spec] = Prepared(spec, package, kernel, packed, select)
        return list(ready.values())

    def _apt(self, architecture: str, old_series: str = "") -> Apt:
        """Return the suites that all comes from but the kernels of an old series, or theirs."""
        key = architecture, old_series
        if key not in self._apts:
            if not old_series:
                apt = debian_apt(self.cache, architecture)
                warning = apt.update(force=self.refresh)
            else:
                apt = old_apt(self.cache, architecture, old_series)
                try:
                    warning = apt.update(force=self.refresh)
                except LabError as error:
                    suites = " and ".join(OLD_KERNEL_SUITES[old_series])
                    raise LabError(
                        f"Linux {old_series} comes from Debian's {suites}, which the mirror does"
                        f" not serve (name guests to do without it): {error}"
                    ) from error
            if warning:
                self.warnings.append(warning)
            self._apts[key] = apt
        return self._apts[key]

    def _available(self, apt: Apt) -> dict[str, Package]:
        return kernels.newest_of_each_series(apt.kernel_packages(), apt.architecture)

    def _find_kernel(self, apt: Apt, spec: Spec) -> tuple[Spec, Package]:
        """Return the spec with its series filled in, and the package that its kernel comes from.

        The seed kernel comes from the newest source package.
        """
        if spec.is_seed:
            return spec, seed.newest(apt.kernel_sources())
        series, package = kernels.find_series(spec.series, self._available(apt))
        return dataclasses.replace(spec, series=series), package

    def _kernel(self, apt: Apt, spec: Spec, package: Package) -> Path:
        if spec.is_seed:
            return seed.built(self.cache, package)
        place = self.cache / "kernels" / package.filename.replace(".deb", ".vmlinuz")
        if not in_cache(place):
            (deb,) = apt.download([package])
            with scratch(self.cache) as folder:
                image = ["--wildcards", "--no-anchored", "vmlinuz*"]
                userland.extract(deb, folder, image)
                found = [path for path in sorted(folder.rglob("vmlinuz*")) if path.is_file()]
                if not found:
                    raise LabError(f"{package.filename} holds no vmlinuz")
                publish(found[0], place)
            deb.unlink()  # It includes the modules, and is ten times as large as the kernel.
        return place

    def boot(self, prepared: Prepared, job: Job) -> GuestResult:
        """Boot a guest, run the job in it, and return its result."""
        spec, tests_parity = prepared.spec, _tests_parity(job)
        if isinstance(job, Tests) and not job.select:
            job = dataclasses.replace(job, select=prepared.select)
        with tempfile.TemporaryDirectory(prefix="pymemcgbpf-lab-") as name:
            folder = Path(name)
            initramfs = self._initramfs(prepared, job, folder)
            guest.make_disk(folder)
            hardware = guest.Hardware(
                memory=self.memory, icount=job.icount, cpus=1 if job.icount else 2
            )
            command = guest.qemu_command(
                prepared.spec.machine, hardware, prepared.kernel, initramfs, folder
            )
            transcript = guest.run(command, folder, self.timeout, self.stop)
            # A boot can fail under emulation on a busy host, which says nothing about the tests.
            # A guest that did not begin its job is booted again; one that is lost later has failed.
            for _ in range(_BOOT_RETRIES):
                if '"record": "guest"' in transcript.results or self.stop.is_set():
                    break
                end = transcript.console.strip().splitlines()[-1:]
                print(f"{prepared.spec}: did not boot ({''.join(end)}); trying again", flush=True)
                self._save_output(folder, prepared.spec)
                transcript = guest.run(command, folder, self.timeout, self.stop)
            self._save_output(folder, prepared.spec)
        script = job.path.name if isinstance(job, Script) else ""
        expected = Expected(
            label=str(prepared.spec),
            kind="script" if script else "pytest",
            script=script,
            series=prepared.series,
            python=prepared.userland.python,
            libbpf=prepared.userland.libbpf,
            backends=spec.backends if tests_parity else (),
            tree_backends=spec.tree_backends if tests_parity else (),
        )
        result = judge(expected, transcript.results, transcript.console, transcript.ending)
        result.seconds = transcript.seconds
        result.origin = _origin(prepared)
        result.select = job.select if isinstance(job, Tests) else ""
        (self.results / f"{prepared.spec.filename}.dmesg").write_text(
            "\n".join(result.dmesg) + "\n"
        )
        return result

    def _save_output(self, folder: Path, spec: Spec) -> None:
        self.results.mkdir(parents=True, exist_ok=True)
        for port in ("console", "results"):
            if (folder / port).exists():
                shutil.copyfile(folder / port, self.results / f"{spec.filename}.{port}")

    def _initramfs(self, prepared: Prepared, job: Job, folder: Path) -> Path:
        root = folder / "overlay"
        here = Path(__file__).parent
        inside = root / "opt" / "lab" / "lab_guest"
        inside.mkdir(parents=True)
        (root / "lab").mkdir()
        for name in _GUEST_MODULES:
            shutil.copy(here / name, inside / name)
        shutil.copy(here / "init.sh", root / "init")
        (root / "init").chmod(0o755)

        if self.wheel is not None:
            if not self.wheel.is_file():
                raise LabError(f"no wheel: {self.wheel}")
            site = root / prepared.userland.site
            python = prepared.userland.python
            userland.pip_install(site, python, [str(self.wheel)], "--no-deps", "--no-index")
        for path in self.extra:
            _copy(path, root / "extra" / path.resolve().name)
        arguments = _tests_inside(job, root) if isinstance(job, Tests) else _script(job, root)
        kind = "pytest" if isinstance(job, Tests) else "script"
        description = json.dumps({"kind": kind, "arguments": arguments})
        (inside / "job.json").write_text(description, encoding="utf-8")
        (inside.parent / "environment").write_text(self._environment(prepared), encoding="utf-8")

        userland.pack(root, folder / "overlay.cpio")
        whole = folder / "initramfs.cpio"
        userland.concatenate([*prepared.userland.archives, folder / "overlay.cpio"], whole)
        return whole

    def _environment(self, prepared: Prepared) -> str:
        spec = prepared.spec
        variables = {
            "PYMEMCGBPF_LAB": "1",
            "PYMEMCGBPF_LAB_KERNEL": prepared.series,
            "PYMEMCGBPF_LAB_EXPECT_BACKEND": spec.expected_backend,
            "PYMEMCGBPF_LAB_EXPECT_RFC": "1" if spec.is_seed else "0",
            "PYMEMCGBPF_LAB_PYTHON": prepared.userland.python,
            "PYMEMCGBPF_LAB_LIBBPF": prepared.userland.libbpf,
            "PYMEMCGBPF_LAB_FILES": "/mnt/disk",
            "LAB_RESULTS": f"/dev/{spec.machine.results}",
            "LAB_SECONDS": str(max(10, int(self.timeout) - _REPORT_SECONDS)),
            **self.environment,
        }
        return "".join(f"export {name}={shlex.quote(text)}\n" for name, text in variables.items())


def as_data(results: GuestResult) -> dict[str, object]:
    """Return a result as plain data, for JSON."""
    return dataclasses.asdict(results)


def _origin(prepared: Prepared) -> Origin:
    """Return the packages that the guest consists of, with their versions."""
    spec, packages = prepared.spec, (prepared.package, *prepared.userland.packages)
    versions = {package.name: package.version for package in packages}
    return Origin(spec.series, spec.architecture, spec.userland, prepared.package.name, versions)


def _tests_parity(job: Job) -> bool:
    """Tell whether the job must compare every backend's numbers with memory.stat."""
    return isinstance(job, Tests) and not job.select and (job.path / "test_parity.py").exists()


def _tests_inside(job: Tests, root: Path) -> list[str]:
    """Copy the tests and docs/ into the guest; return pytest's arguments."""
    path = job.path.resolve()
    if not path.exists():
        raise LabError(f"no tests: {job.path}")
    inside_repository = REPOSITORY in path.parents
    top = REPOSITORY if inside_repository else path.parent
    name = path.relative_to(top) if inside_repository else Path("tests") / path.name
    folder, place = (path, name) if path.is_dir() else (path.parent, name.parent)
    lab = root / "lab"
    _copy(folder, lab / place)
    # Modules above the tests that they import: conftest.py, __init__.py, shared helpers.
    for parent in place.parents if inside_repository else ():
        if parent != Path():
            for module in sorted((top / parent).glob("*.py")):
                _copy(module, lab / parent / module.name)
    if inside_repository and (top / "docs").is_dir():
        _copy(top / "docs", lab / "docs")  # Tests run the examples of these pages.
    settings = lab / "pytest.ini"
    if inside_repository and (top / "pyproject.toml").is_file():
        settings = lab / "pyproject.toml"  # It has the markers and warning filters.
        _copy(top / "pyproject.toml", settings)
    else:
        settings.write_text("[pytest]\n")
    return [
        *("-c", f"/lab/{settings.name}", "--rootdir=/lab", "-p", "no:cacheprovider"),
        *("--color=no", "-q", "--tb=short", "--continue-on-collection-errors"),
        *(("-k", job.select) if job.select else ()),
        str(name),
    ]


def _script(job: Script, root: Path) -> list[str]:
    path = job.path.resolve()
    _copy(path, root / "lab" / path.name)
    return [path.name, *job.arguments]


def _copy(source: Path, place: Path) -> None:
    if not source.exists():
        raise LabError(f"no such file or folder: {source}")
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(source, place, ignore=ignore, dirs_exist_ok=True)
    else:
        shutil.copy(source, place)
