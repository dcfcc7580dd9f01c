# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The lab's one exception: something outside of the tests is in the way."""

from __future__ import annotations

import shutil


class LabError(Exception):
    """Nothing was tested; the message says in one sentence why, and what to do."""


def need_tool(tool: str, package: str, path: str | None = None) -> str:
    """Return the path of a host tool, or say which Debian package to install."""
    found = shutil.which(tool, path=path)
    if found is None:
        raise LabError(f"the lab needs {tool}: install the Debian package {package}")
    return found
