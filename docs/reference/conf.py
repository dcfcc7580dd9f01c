# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""How Sphinx builds the API reference out of the docstrings: ``make docs``."""

from __future__ import annotations

from typing import Any, Optional

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util import logging

import pymemcgbpf

project = "pymemcgbpf"
author = "The pymemcgbpf developers"
version = release = pymemcgbpf.__version__
extensions = ["sphinx.ext.autodoc"]
autodoc_member_order = "bysource"
html_theme = "alabaster"
html_show_copyright = False

_NAPOLEON = Config(napoleon_use_ivar=True)


def _as_rest(
    app: Sphinx, what: str, name: str, documented: object, options: Any, lines: list[str]
) -> None:
    """Turns the sections of a docstring (Args, Raises, …) into reStructuredText.

    This is what the extension sphinx.ext.napoleon does, except for properties: of their first
    sentence it takes all that stands before a colon for a type.
    """
    kind = "method" if what == "property" else what
    docstring = GoogleDocstring("\n".join(lines), _NAPOLEON, app, kind, name, documented, options)
    lines[:] = docstring.lines()


def _skip(
    app: Sphinx, what: str, name: str, member: object, skip: bool, options: Any
) -> Optional[bool]:
    """Leaves out the fields of a NamedTuple: its docstring has described them already."""
    text = getattr(member, "__doc__", None) or ""
    return True if text.startswith("Alias for field number") else None


def _check_all_there(app: Sphinx, environment: BuildEnvironment) -> None:
    """Warns, and so fails the build, if a public name is not in the reference."""
    objects = environment.get_domain("py").objects
    for name in sorted({*pymemcgbpf.__all__} - {"__version__"}):
        if f"pymemcgbpf.{name}" not in objects:
            logging.getLogger(__name__).warning("pymemcgbpf.%s is not in the reference", name)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _as_rest)
    app.connect("autodoc-skip-member", _skip)
    app.connect("env-check-consistency", _check_all_there)
