# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Writes the scripts by which bash, zsh and fish complete the commands.

Each script has the same tables: the commands, and the options and kinds of arguments of each. A
script needs no program but the shell, so that completing is immediate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Callable, Literal

from .._records import Record
from .._version import VERSION
from .output import PROGRAM

Kind = Literal["directory", "file", "group", "item", "process", "unit"]


class CompletedOption(Record):
    """An option.

    Attributes:
        name: with its dashes.
        what: what it does, in a few words.
        has_value: whether a value follows it.
        values: all that the value can be; empty if it is not one of a few words.
        kinds: what else the value can be.
    """

    name: str
    what: str
    has_value: bool
    values: tuple[str, ...]
    kinds: tuple[Kind, ...]


class CompletedCommand(Record):
    """A command.

    Attributes:
        name: the command.
        what: what it does, in a few words.
        options: its options.
        values: words that are its arguments.
        kinds: what else its arguments can be.
    """

    name: str
    what: str
    options: tuple[CompletedOption, ...]
    values: tuple[str, ...]
    kinds: tuple[Kind, ...]


class Completions(Record):
    """All that is completed.

    Attributes:
        commands: the commands, the default one first.
        items: the names of items.
        groups: patterns that stand for several of them.
    """

    commands: tuple[CompletedCommand, ...]
    items: tuple[str, ...]
    groups: tuple[str, ...]


# Where most units are, and the kinds of units that can have a cgroup.
_UNITS = (
    "/sys/fs/cgroup/{,memory/}{,system.slice/,user.slice/,machine.slice/}"
    "*.{service,scope,slice,mount,socket,swap}"
)


# A pin is a directory or a file, and only below here a file is what a command takes as PATH.
_BPFFS = "/sys/fs/bpf/"


def _head(shell: str) -> str:
    return f"{shell} completion of {PROGRAM} {VERSION}, made by: {PROGRAM} completion {shell}"


def _quoted(text: str) -> str:
    """A word for bash and zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


# --- bash


def _bash(all_: Completions) -> str:
    names = " ".join(each.name for each in all_.commands)
    default = all_.commands[0].name
    return f"""\
# {_head("bash")}

# The units whose names begin with a text. Whoever makes a cgroup chooses its name, so that it must
# never be expanded, as compgen -W does. Bash escapes the names that it inserts.
_{PROGRAM}_units() {{
    local path name escaped
    for path in {_UNITS}; do
        name=${{path##*/}}
        printf -v escaped %q "$name"
        if [[ -d $path && ($name == "$1"* || $escaped == "$1"*) ]]; then
            printf '%s\\n' "$name"
        fi
    done
}}

_{PROGRAM}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} at=$COMP_CWORD
    # Of --option=value, bash makes three words.
    if [[ $current == = ]]; then
        current=''
    elif [[ ${{COMP_WORDS[at-1]}} == = ]]; then
        at=$((at - 1))
    fi
    current=${{current#[\\'\\"]}}
    local previous=${{COMP_WORDS[at-1]}} command={default}
    if ((COMP_CWORD > 1)) && [[ " {names} " == *" ${{COMP_WORDS[1]}} "* ]]; then
        command=${{COMP_WORDS[1]}}
    fi
    local words kinds options
    case "$command $previous" in
{_lines(_bash_values(all_), 4)}
    *)
        case $command in
{_lines(_bash_commands(all_), 8)}
        esac
        if ((COMP_CWORD == 1)); then
            words+=' {names}'
        fi
        if [[ $current == -* ]]; then
            words=$options kinds=''
        fi
        ;;
    esac
    local kind
    mapfile -t COMPREPLY < <(
        compgen -W "$words" -- "$current"
        for kind in $kinds; do
            case $kind in
            directory)
                compgen -d -- "$current"
                if [[ $current == {_BPFFS}* ]]; then
                    compgen -f -- "$current"
                fi
                ;;
            file) compgen -f -- "$current" ;;
            item) compgen -W '{" ".join(all_.items)}' -- "$current" ;;
            group) compgen -W '{" ".join(all_.groups)}' -- "$current" ;;
            process) compgen -W "$(cd /proc && echo [0-9]*)" -- "$current" ;;
            unit) _{PROGRAM}_units "$current" ;;
            esac
        done
    )
}}
complete -o filenames -F _{PROGRAM} {PROGRAM}"""


def _bash_values(all_: Completions) -> Iterator[str]:
    """Cases of a command and an option with a value."""
    for command in all_.commands:
        for option in command.options:
            if option.has_value:
                assignments = _assignments(option.values, option.kinds)
                yield f"'{command.name} {option.name}') {assignments} ;;"


def _bash_commands(all_: Completions) -> Iterator[str]:
    """Cases of a command."""
    for command in all_.commands:
        options = " ".join(option.name for option in command.options)
        assignments = _assignments(command.values, command.kinds)
        yield f"{command.name}) options='{options}' {assignments} ;;"


def _assignments(words: Iterable[str], kinds: Iterable[str]) -> str:
    return f"words='{' '.join(words)}' kinds='{' '.join(kinds)}'"


def _lines(lines: Iterable[str], indent: int) -> str:
    return "\n".join(" " * indent + line for line in lines)


# --- zsh


def _zsh(all_: Completions) -> str:
    default = all_.commands[0].name
    described = (_quoted(f"{each.name}:{each.what}") for each in all_.commands)
    return f"""\
#compdef {PROGRAM}
# {_head("zsh")}

_{PROGRAM}_arguments() {{
    local kind
    for kind in "$@"; do
        case $kind in
        directory)
            if [[ $PREFIX == {_BPFFS}* ]]; then
                _files
            else
                _path_files -/
            fi
            ;;
        file) _files ;;
        item) compadd -- {" ".join(all_.items)} ;;
        group) compadd -- {" ".join(map(_quoted, all_.groups))} ;;
        process) _pids ;;
        unit) compadd -- {_UNITS}(N/:t) ;;
        esac
    done
}}

_{PROGRAM}() {{
    local command={default}
    local -a commands
    commands=(
{_lines(described, 8)}
    )
    if (( CURRENT == 2 )); then
        _describe -t commands command commands
    elif (( ${{commands[(I)${{(b)words[2]}}:*]}} )); then
        command=$words[2]
        shift words
        (( CURRENT-- ))
    fi
    case $command in
{_lines(_zsh_commands(all_), 4)}
    esac
}}

if [[ $funcstack[1] == _{PROGRAM} ]]; then
    _{PROGRAM} "$@"
else
    compdef _{PROGRAM} {PROGRAM}
fi"""


def _zsh_commands(all_: Completions) -> Iterator[str]:
    """Cases of a command, with an argument of _arguments for each option."""
    for command in all_.commands:
        yield f"{command.name})"
        yield "    _arguments -S : \\"
        for option in command.options:
            yield f"        {_quoted(_zsh_option(option))} \\"
        yield f"        {_quoted('*:argument:' + _zsh_action(command.values, command.kinds))}"
        yield "    ;;"


def _zsh_option(option: CompletedOption) -> str:
    what = "".join(f"\\{letter}" if letter in "\\[]:" else letter for letter in option.what)
    if not option.has_value:
        return f"*{option.name}[{what}]"
    return f"*{option.name}=[{what}]:value:{_zsh_action(option.values, option.kinds)}"


def _zsh_action(words: Iterable[str], kinds: Iterable[str]) -> str:
    if words:
        return f"({' '.join(words)})"
    return f"_{PROGRAM}_arguments {' '.join(kinds)}" if kinds else " "


# --- fish


def _fish(all_: Completions) -> str:
    names = " ".join(each.name for each in all_.commands)
    default = all_.commands[0].name
    return f"""\
# {_head("fish")}

function __{PROGRAM}_is
    set -l words (commandline -opc)
    set -l command {default}
    if set -q words[2]; and contains -- "$words[2]" {names}
        set command $words[2]
    end
    test $command = $argv[1]
end

function __{PROGRAM}_is_first
    test (count (commandline -opc)) = 1
end

function __{PROGRAM}_arguments
    for kind in $argv
        switch $kind
            case directory
                if string match -q '{_BPFFS}*' -- (commandline -ct)
                    __fish_complete_path (commandline -ct)
                else
                    __fish_complete_directories (commandline -ct) ''
                end
            case item
                printf '%s\\n' {" ".join(all_.items)}
            case group
                printf '%s\\n' {" ".join(map(_quoted, all_.groups))}
            case process
                __fish_complete_pids
            case unit
                set -l paths {_UNITS}
                string replace -r '.*/' '' -- $paths
        end
    end
end

complete -c {PROGRAM} -f
{_lines(_fish_lines(all_), 0)}"""


def _fish_lines(all_: Completions) -> Iterator[str]:
    start = f"complete -c {PROGRAM}"
    for command in all_.commands:
        yield f"{start} -n __{PROGRAM}_is_first -a {command.name} -d {_fish_quoted(command.what)}"
    for command in all_.commands:
        of_it = f"{start} -n '__{PROGRAM}_is {command.name}'"
        for option in command.options:
            value = ""
            if option.has_value:
                only = " -r" if "file" in option.kinds else " -x"
                value = f"{only}{_fish_values(option.values, option.kinds)}"
            yield f"{of_it} -l {option.name[2:]}{value} -d {_fish_quoted(option.what)}"
        if command.values or command.kinds:
            yield f"{of_it}{_fish_values(command.values, command.kinds)}"


def _fish_values(words: Iterable[str], kinds: Iterable[str]) -> str:
    """The options of complete that say what a value or an argument can be."""
    files = " -F" if "file" in kinds else ""
    others = " ".join(kind for kind in kinds if kind != "file")
    if others:
        return f"{files} -a '(__{PROGRAM}_arguments {others})'"
    return f"{files} -a '{' '.join(words)}'" if words else files


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: dict[str, Callable[[Completions], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
"""Shell → what writes its script."""
