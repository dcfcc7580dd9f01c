# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Prints a script that completes the commands, their options and their arguments in a shell."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence

from .._items import CATALOGUE, FILES, file_of
from . import command, completion_scripts, parsers
from .completion_scripts import CompletedCommand, CompletedOption, Completions, Kind


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    parser = parsers.plain_parser(
        " completion",
        "SHELL",
        "Print a script for bash, zsh or fish, by which the shell completes what follows "
        "pymemcgbpf on its command line: commands, options, their values, directories, systemd "
        "units and items. The script has all of these in it, so that completing starts no program.",
        "Exit status: 0 for success, 1 for a failure, 2 for wrong usage.",
    )
    parser.after_help = _PLACES
    parser.add_argument(
        "shell",
        choices=tuple(completion_scripts.SHELLS),
        metavar="SHELL",
        help="bash, zsh or fish",
    )
    options = parser.parse_args(arguments)
    return command.run(lambda: completion_scripts.SHELLS[options.shell](_completions()))


_PLACES = """
where the shells look for it (print it again when pymemcgbpf is updated):
  bash  ~/.local/share/bash-completion/completions/pymemcgbpf
  zsh   a file called _pymemcgbpf in a directory of $fpath
  fish  ~/.config/fish/completions/pymemcgbpf.fish
"""

# The metavar of what can be completed; that of other values, such as numbers, is not here.
_KINDS: dict[str, tuple[Kind, ...]] = {
    "PATH": ("directory", "unit"),
    "DIR": ("directory",),
    "PIN": ("file",),
    "FILE": ("file",),
    "ITEM": ("item", "group"),
    "PID": ("process",),
}


def _completions() -> Completions:
    from .main import COMMANDS

    commands = []
    for word, (module, function, what) in COMMANDS.items():
        run = getattr(importlib.import_module(f".{module}", __package__), function)
        commands.append(_completed(word, what, parsers.parser_of(run)))
    return Completions(tuple(commands), tuple(CATALOGUE), tuple(_groups()))


def _completed(word: str, what: str, parser: parsers.Parser) -> CompletedCommand:
    options: list[CompletedOption] = []
    values: list[str] = []
    kinds: dict[Kind, None] = {}
    for action in parser._actions:
        if action.option_strings:
            options.append(_option(action))
        else:
            values += action.choices or ()
            kinds.update(dict.fromkeys(_kinds_of(action)))
    return CompletedCommand(word, what, tuple(options), tuple(values), tuple(kinds))


def _option(action: argparse.Action) -> CompletedOption:
    (name,) = (each for each in action.option_strings if each.startswith("--"))
    return CompletedOption(
        name=name,
        what=_first_words(action.help or ""),
        has_value=action.nargs != 0,
        values=tuple(map(str, action.choices or ())),
        kinds=_kinds_of(action),
    )


def _kinds_of(action: argparse.Action) -> tuple[Kind, ...]:
    kinds = _KINDS.get(str(action.metavar), ())
    # The value of an option is one item, never a group.
    return tuple(kind for kind in kinds if kind != "group" or not action.option_strings)


def _first_words(text: str) -> str:
    """The beginning of an option's help: what fits into a line beside the option."""
    for end in (" (", "; ", ". "):
        text = text.partition(end)[0]
    return text.replace("%%", "%")


def _groups() -> Iterator[str]:
    """The groups of the files that have several items."""
    for file in FILES[1:]:
        if sum(file_of(name) == file for name in CATALOGUE) != 1:
            yield f"{file}.*"
