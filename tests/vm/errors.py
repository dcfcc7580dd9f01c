# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The lab's exception, for what prevents the tests from running."""

from __future__ import annotations

import shutil


class LabError(Exception):
    """Nothing was tested. The message says in one sentence why, and what to do."""


def need_tool(tool: str, package: str, path: str | None = None) -> str:
    """Return the path of a program of the host.

    Raises:
        LabError: it is not installed; the message names the Debian package.
    """
    found = shutil.which(tool, path=path)
    if found is None:
        raise LabError(f"the lab needs {tool}: install the Debian package {package}")
    return found
