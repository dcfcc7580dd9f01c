# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Finds the address of the Debian archive in the machine's apt sources.

Both formats are parsed: one line per source (``*.list``) and deb822 (``*.sources``).
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError

MIRROR_VARIABLE = "PYMEMCGBPF_DEBIAN_MIRROR"
APT_DIRECTORY = Path("/etc/apt")
SECURITY = "-security"  # ends the names of the suites that are in an archive of their own
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# A source with one of these suites and the component main may be the Debian archive. Repositories
# of third parties use the same names, so their key is checked too, and apt then verifies
# signatures with Debian's keyring only.
_RELEASES = frozenset(
    (
        *("bullseye", "bookworm", "trixie", "forky", "sid"),
        *("oldstable", "stable", "testing", "unstable"),
    )
)
_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<rest>.+)")


@dataclass(frozen=True)
class Source:
    """One entry of the machine's apt sources."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str


def parse_list(text: str) -> Iterator[Source]:
    """Yield the entries of a one-line-style file."""
    for raw in text.splitlines():
        match = _ONE_LINE.fullmatch(raw.partition("#")[0].strip())
        if match:
            options = dict(
                option.partition("=")[::2] for option in (match["options"] or "").split()
            )
            suite, *components = match["rest"].split()
            yield Source(match["uri"], (suite,), tuple(components), options.get("signed-by", ""))


def parse_deb822(text: str) -> Iterator[Source]:
    """Yield the entries of a deb822 file, one for each of a stanza's URIs."""
    for stanza in re.split(r"\n[ \t]*\n", "\n".join(_without_comments(text))):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in " \t":
                fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.lower()
                fields[name] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false", "0", "off"):
            continue
        if "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            yield Source(
                uri,
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", ""),
            )


def _without_comments(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if not line.startswith("#"))


def machine_sources(apt_directory: Path) -> list[Source]:
    """Return every enabled binary source of a machine."""
    found: list[Source] = []
    parts = apt_directory / "sources.list.d"
    for path in (
        apt_directory / "sources.list",
        *sorted(parts.glob("*.list")),
        *sorted(parts.glob("*.sources")),
    ):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            found += parse_list(text) if path.suffix == ".list" else parse_deb822(text)
    return found


def debian_archive(sources: list[Source]) -> str | None:
    """Return the URI of the Debian archive among a machine's sources, or None."""
    candidates = [source for source in sources if _may_be_the_archive(source)]
    if not candidates:
        return None

    def likelihood(source: Source) -> tuple[bool, bool, bool]:
        # Most machines have a suite ending in -updates of Debian's archive, but not of others.
        updates = any(
            suite.endswith("-updates")
            for other in sources
            if other.uri == source.uri
            for suite in other.suites
        )
        return (
            "debian-archive" in source.signed_by,
            updates,
            source.uri.rstrip("/").endswith("/debian"),
        )

    return max(candidates, key=likelihood).uri


def _may_be_the_archive(source: Source) -> bool:
    if "main" not in source.components or not _RELEASES.intersection(source.suites):
        return False
    if source.uri.startswith(("cdrom:", "file:", "copy:")):
        return False
    key = source.signed_by
    return not key.startswith("/") or "debian-archive" in key


def find_archive(
    environment: Mapping[str, str] = os.environ, apt_directory: Path = APT_DIRECTORY
) -> str:
    """Return the archive's URI from the environment or else the machine's apt sources."""
    chosen = environment.get(MIRROR_VARIABLE) or debian_archive(machine_sources(apt_directory))
    if not chosen:
        raise LabError(
            f"this machine's apt sources name no Debian archive: set {MIRROR_VARIABLE}"
            " to the address of a Debian mirror"
        )
    if re.search(r"[\s\[\]#\"]", chosen):
        raise LabError(f'not the address of a Debian mirror: "{chosen}"')
    return chosen


def find_security_archive(
    archive: str, environment: Mapping[str, str] = os.environ, apt_directory: Path = APT_DIRECTORY
) -> str:
    """Return the URI of the archive with Debian's security suites.

    A mirror of Debian has it beside *archive*. The machine's apt sources may name another one.
    """
    if not environment.get(MIRROR_VARIABLE):
        for source in machine_sources(apt_directory):
            releases = {suite.removesuffix(SECURITY) for suite in _security_suites(source)}
            if _may_be_the_archive(dataclasses.replace(source, suites=tuple(releases))):
                return source.uri
    return archive.rstrip("/") + SECURITY


def _security_suites(source: Source) -> list[str]:
    return [suite for suite in source.suites if suite.endswith(SECURITY)]


def find_keyring() -> Path:
    """Return the keyring with which apt verifies the archive."""
    if not KEYRING.is_file():
        raise LabError(
            f"the lab needs {KEYRING}: install the Debian package debian-archive-keyring"
        )
    return KEYRING
