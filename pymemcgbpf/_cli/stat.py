# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints one cgroup's statistics."""

from __future__ import annotations

import json
from collections.abc import Sequence

from . import command
from .units import human


def main(arguments: Sequence[str], commands: str = "") -> int:
    """Runs the command; returns its exit status.

    Args:
        arguments: what follows the command's word.
        commands: a list of all commands; without a word this one's help shows it.
    """
    parser = command.parser(
        "" if commands else " stat",
        "Print a cgroup's memory statistics, read as numbers through BPF.",
        "",
        command.ONE_CGROUP,
    )
    parser.after_help = commands
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_words(arguments)

    def text() -> str:
        with command.stats_reader(options) as reader:
            values = reader.read()
            if options.json:
                return json.dumps(values, indent=2)
            command.warn_if_text(reader.backend, reader.fallback_reason)
            return _as_table(values)

    return command.run(text)


def _as_table(values: dict[str, int]) -> str:
    shown = [(name, human(name, value)) for name, value in values.items()]
    name_width = max((len(name) for name, _ in shown), default=0)
    value_width = max((len(value.number) for _, value in shown), default=0)
    return "\n".join(
        f"{name:<{name_width}}  {value.number:>{value_width}} {value.unit}".rstrip()
        for name, value in shown
    )
