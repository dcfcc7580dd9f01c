# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Chooses the package with the newest kernel of a series."""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import LabError
from .spec import NEWEST


@dataclass(frozen=True)
class Package:
    """One version of a package."""

    name: str
    version: str
    architecture: str

    @property
    def filename(self) -> str:
        """Return the name of its archive, as apt writes it."""
        version = self.version.replace(":", "%3a")
        return f"{self.name}_{version}_{self.architecture}.deb"


def image_pattern(architecture: str) -> re.Pattern[str]:
    """Match the packages that may hold a cloud kernel; -unsigned and -dbg ones do not match."""
    return re.compile(
        r"linux-(?P<kind>image|binary)-(?P<release>(?P<series>\d+\.\d+)\.[^-]+(?:-\d+)?)"
        rf"-cloud-{re.escape(architecture)}"
    )


def compare_versions(left: str, right: str) -> int:
    """Compare two versions as dpkg does; return a negative number, 0 or a positive number."""
    if left == right:
        return 0
    lower = subprocess.run(["dpkg", "--compare-versions", left, "lt", right], check=False)
    return -1 if lower.returncode == 0 else 1


def newest_of_each_series(packages: Iterable[Package], architecture: str) -> dict[str, Package]:
    """Return the newest point release of each series, the oldest series first."""
    pattern = image_pattern(architecture)
    kernels: dict[str, dict[str, dict[str, Package]]] = {}
    for package in packages:
        match = pattern.fullmatch(package.name)
        if match:
            releases = kernels.setdefault(match["series"], {})
            releases.setdefault(match["release"], {})[match["kind"]] = package
    chosen = {}
    by_version = functools.cmp_to_key(compare_versions)
    for series in sorted(kernels, key=in_order):
        # If a release has a linux-binary package, its linux-image package contains no kernel.
        holders = [kinds.get("binary") or kinds["image"] for kinds in kernels[series].values()]
        chosen[series] = max(holders, key=lambda package: by_version(package.version))
    return chosen


def in_order(series: str) -> tuple[int, ...]:
    """Return the key that series are sorted by."""
    return tuple(int(part) for part in series.split("."))


def find_series(wanted: str, available: dict[str, Package]) -> tuple[str, Package]:
    """Return a series that apt has, and its package. "newest" stands for the highest one."""
    if wanted == NEWEST and available:
        wanted = max(available, key=in_order)
    if wanted not in available:
        have = ", ".join(available) or "none"
        raise LabError(f"apt has no cloud kernel of series {wanted} (it has {have})")
    return wanted, available[wanted]
