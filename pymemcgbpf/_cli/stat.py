# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints one cgroup's statistics."""

from __future__ import annotations

from collections.abc import Sequence

from . import command, parsers, readers, table
from .units import Formatter, formatter


def main(arguments: Sequence[str], commands: str = "") -> int:
    """Runs the command; returns its exit status.

    Args:
        arguments: what follows the command's name.
        commands: a list of all commands, if none was named; the help then ends with it.
    """
    parser = parsers.reader_parser(
        "" if commands else " stat",
        "Print the memory statistics of one cgroup: a line for each item, with its value. Values "
        "are read as numbers through BPF, or from the cgroup's files where BPF is unavailable.",
        "",
        path=f"{parsers.OWN_CGROUP}{parsers.OR_PIN}",
        items=parsers.DEFAULT_ITEMS,
    )
    parser.after_help = commands
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object, with sizes in bytes and stalled time in microseconds",
    )
    parsers.add_bytes(parser)
    options = parser.parse_words(arguments)

    def text() -> str:
        with readers.stats_reader(options) as reader:
            values = reader.read()
            readers.warn_if_text(reader, is_brief=options.json)
            if options.json:
                return as_json(values)
            return as_table(values, formatter(options.bytes))

    return command.run(text)


def as_json(values: dict[str, int]) -> str:
    """An object of items and their values."""
    import json  # takes a millisecond

    from .json_values import nullable

    return json.dumps(nullable(values), indent=2)


def as_table(values: dict[str, int], show: Formatter) -> str:
    """A line for each item: its name and its value."""
    shown = [show(name, value) for name, value in values.items()]
    return table.join(table.left(list(values)), table.values(shown))
