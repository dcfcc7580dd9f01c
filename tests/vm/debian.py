# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Runs apt with a separate state: the machine's own state is neither read nor changed.

All packages are downloaded by apt, which verifies Debian's signatures.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .cache import in_cache, publish, scratch
from .errors import LabError, need_tool
from .kernels import Package, image_pattern
from .sources import SECURITY, find_archive, find_keyring, find_security_archive
from .spec import KERNEL_SUITES, OLD_KERNEL_SUITES, USERLANDS

LISTS_STAY_FRESH = 12 * 3600.0

# The Debian packages of a guest. pytest and pyte come from PyPI, the project from its wheel.
WANTED = ("python3", "libbpf1", "busybox-static")

_CONFIGURATION = """\
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "{state}";
Dir::State::Lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{state}/cache";
Dir::Cache::archives "archives";
#clear APT::Architectures;
APT::Architecture "{architecture}";
Acquire::Languages "none";
Acquire::Retries "2";
// If a list cannot be fetched, that is an error. By default apt warns and uses the old list.
APT::Update::Error-Mode "any";
// The user _apt may not write to this user's cache.
APT::Sandbox::User "root";
// The machine's hooks must not run: they concern the packages installed on the machine.
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
"""


def debian_apt(cache: Path, architecture: str) -> Apt:
    """Return the suites that userlands and most kernels come from."""
    archive = find_archive()
    suites = dict.fromkeys((*KERNEL_SUITES, *USERLANDS), archive)
    return Apt(cache, architecture, suites, find_keyring())


def old_apt(cache: Path, architecture: str, series: str) -> Apt:
    """Return the suites that have the kernels of an old series, such as 5.10."""
    archive = find_archive()
    suites = {
        suite: find_security_archive(archive) if suite.endswith(SECURITY) else archive
        for suite in OLD_KERNEL_SUITES[series]
    }
    return Apt(cache, architecture, suites, find_keyring())


class Apt:
    """Debian's archive for one architecture, read by apt with the lab's state."""

    def __init__(
        self, cache: Path, architecture: str, suites: Mapping[str, str], keyring: Path
    ) -> None:
        """Use these suites, each from the archive with this address."""
        need_tool("apt-get", "apt")
        self._cache = cache
        self._debs = cache / "debs"
        options = f"[arch={architecture} signed-by={keyring}]"
        lines = {
            suite: f"deb {options} {archive} {suite} main\n" for suite, archive in suites.items()
        }
        everything = "".join(lines.values())
        # Another mirror or another choice of suites gets a folder of its own.
        key = hashlib.sha256(everything.encode()).hexdigest()[:12]
        self._state = cache / "apt" / key
        self._stamp = self._state / "updated"
        self.architecture = architecture
        self._answers: dict[tuple[str, ...], str] = {}
        for folder in ("lists/partial", "cache/archives/partial"):
            (self._state / folder).mkdir(parents=True, exist_ok=True)
        # No package counts as installed, so that apt lists all dependencies of a package.
        (self._state / "status").write_text("")
        (self._state / "apt.conf").write_text(
            _CONFIGURATION.format(state=self._state, architecture=architecture)
        )
        for name, text in {**lines, "all": everything}.items():
            (self._state / f"{name}.list").write_text(text)

    @property
    def updated(self) -> float:
        """Return the time at which the lists were last fetched, or 0 if they never were."""
        return self._stamp.stat().st_mtime if self._stamp.exists() else 0.0

    @property
    def lists_may_be_old(self) -> bool:
        """Tell whether fetching the lists again could change anything."""
        return time.time() - self.updated > 300

    def update(self, *, force: bool) -> str:
        """Fetch the lists unless they are fresh.

        Return a warning if they cannot be fetched and old ones are used, else "".
        """
        age = time.time() - self.updated
        if not force and 0 <= age < LISTS_STAY_FRESH:
            return ""
        try:
            self._run("all", "apt-get", "-q", "update")
        except LabError as error:
            if not self.updated:
                raise
            return f"using package lists that are {age / 3600:.0f} hours old: {error}"
        self._stamp.touch()
        self._answers.clear()
        return ""

    def kernel_packages(self) -> list[Package]:
        """Return every package that may hold a cloud kernel."""
        names = self._ask("all", "apt-cache", "pkgnames", "linux-").split()
        pattern = image_pattern(self.architecture)
        return self._newest([name for name in names if pattern.fullmatch(name)])

    def kernel_sources(self) -> list[Package]:
        """Return every package of Linux's source."""
        return self._newest(self._run("all", "apt-cache", "pkgnames", "linux-source-").split())

    def _newest(self, names: Sequence[str]) -> list[Package]:
        if not names:
            return []
        text = self._ask("all", "apt-cache", "show", "--no-all-versions", *names)
        packages = []
        for stanza in text.split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version|Architecture): (\S+)", stanza, re.M))
            if fields:
                packages.append(
                    Package(fields["Package"], fields["Version"], fields["Architecture"])
                )
        return packages

    def closure(self, suite: str) -> list[Package]:
        """Return WANTED and all packages that it depends on, as apt resolves them in a suite."""
        text = self._ask(
            suite, "apt-get", "--simulate", "--no-install-recommends", "install", *WANTED
        )
        # Inst libbpf1 (1:1.5.0-3 Debian:13.6/stable [amd64])
        found = re.findall(r"^Inst (\S+) .*?\((\S+) .*\[(\S+)\]\)", text, re.M)
        packages = sorted((Package(*fields) for fields in found), key=lambda one: one.name)
        missing = set(WANTED).difference(package.name for package in packages)
        if missing:
            raise LabError(f"apt found no {', '.join(sorted(missing))} in {suite}")
        return packages

    def download(self, packages: Iterable[Package], suite: str = "all") -> list[Path]:
        """Return the packages' archives, fetching what the cache lacks."""
        packages = list(packages)
        lacking = [one for one in packages if not in_cache(self._debs / one.filename)]
        if lacking:
            wanted = [f"{one.name}={one.version}" for one in lacking]
            with scratch(self._cache) as folder:
                self._run(suite, "apt-get", "-q", "download", *wanted, folder=folder)
                for one in lacking:
                    publish(folder / one.filename, self._debs / one.filename)
        return [self._debs / one.filename for one in packages]

    def _ask(self, *question: str) -> str:
        """Return apt's output. It is cached until the lists are fetched again."""
        if question not in self._answers:
            self._answers[question] = self._run(*question)
        return self._answers[question]

    def _run(self, sources: str, tool: str, *arguments: str, folder: Path | None = None) -> str:
        command = [
            *(tool, "-c", str(self._state / "apt.conf")),
            *("-o", f"Dir::Etc::sourcelist={self._state}/{sources}.list"),
            # The lists are shared, but apt's cache of them depends on the sources that it reads.
            *("-o", f"Dir::Cache::pkgcache={sources}.pkgcache.bin"),
            *("-o", f"Dir::Cache::srcpkgcache={sources}.srcpkgcache.bin"),
            *arguments,
        ]
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            errors = [line for line in lines if line.startswith("E:")] or lines[-3:]
            raise LabError(f"{tool} {arguments[-1]} failed: {' '.join(errors)}")
        return done.stdout
