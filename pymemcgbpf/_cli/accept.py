# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Which of the formats of metrics an HTTP client wants, by its header Accept."""

from __future__ import annotations

import re
from typing import Optional

from .. import _openmetrics

CONTENT_TYPES: dict[_openmetrics.Format, str] = {
    "prometheus": "text/plain; version=0.0.4; charset=utf-8",
    "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
}

_VERSIONS: dict[_openmetrics.Format, tuple[str, str]] = {
    "prometheus": ("text/plain", "0.0.4"),
    "openmetrics": ("application/openmetrics-text", "1.0.0"),
}

_QUALITY = re.compile(r"[01](\.[0-9]*)?")


def wanted_format(accept: Optional[str]) -> _openmetrics.Format:
    """The format that a client prefers.

    If it wants both as much, or neither, this is the text format, which every client and browser
    shows.

    Args:
        accept: the header Accept; None if there is none.
    """
    ranges = [_Range(text) for text in (accept or "").split(",")]
    wishes = {form: _quality(form, ranges) for form in CONTENT_TYPES}
    return max(wishes, key=wishes.__getitem__)  # the first one if they are equal


def _quality(form: _openmetrics.Format, ranges: list[_Range]) -> float:
    """How much a format is wanted: as much as the most specific range that it is in says."""
    kind, version = _VERSIONS[form]
    found = [each for each in ranges if each.has(kind, version)]
    return max((each.precedence, each.quality) for each in found)[1] if found else 0


class _Range:
    """One of the media ranges of a header, such as ``text/plain;version=0.0.4;q=0.5``.

    Attributes:
        precedence: a more specific range has a larger one.
        quality: from 0 to 1; 0 if it cannot be understood.
    """

    def __init__(self, text: str) -> None:
        kind, *parameters = (part.strip().lower() for part in text.split(";"))
        named = dict(parameter.partition("=")[::2] for parameter in parameters)
        quality = named.get("q", "1").strip()
        self.quality = float(quality) if _QUALITY.fullmatch(quality) else 0.0
        self._kind = kind
        self._version = named.get("version", "").strip().strip('"')
        self.precedence = (kind != "*/*", not kind.endswith("/*"), bool(self._version))

    def has(self, kind: str, version: str) -> bool:
        """Whether a media type is in the range. A version that is given must be the type's own."""
        kinds = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        return self._kind in kinds and self._version in ("", version)
