# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Whether the kernel lets programs load from its memory, and how that is found out."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

import pytest

from pymemcgbpf import MemcgError
from pymemcgbpf._bpf import btf as _btf
from pymemcgbpf._bpf import capabilities as _capabilities
from pymemcgbpf._bpf import casts as _casts
from pymemcgbpf._bpf import function_numbers as _function_numbers
from pymemcgbpf._bpf import libbpf as _libbpf
from pymemcgbpf._bpf import libbpf_log as _libbpf_log
from pymemcgbpf._bpf import libbpf_programs as _libbpf_programs
from pymemcgbpf._bpf.casts import Cast

from ..kernels import LINUX_6_18

FUNCTION, WORDS = 65477, 16984


class Owner:
    """The owner of a program's descriptor."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    def fileno(self) -> int:
        return 77

    def close(self) -> None:
        self._asked.closed += 1


class Asked:
    """What a kernel was asked for.

    Attributes:
        found: what the program that looks for the function returns.
        refused: the name of the program that is refused, and the errno.
    """

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.closed = 0
        self.found = FUNCTION
        self.refused = ("", 0)

    def load(self, lib: Any, name: str, *_: Any) -> Owner:
        self.loaded.append(name)
        if name == self.refused[0]:
            raise MemcgError("refused", errno=self.refused[1], call="bpf_prog_load")
        return Owner(self)

    def run(self, lib: Any, fd: int) -> int:
        assert fd == 77
        return self.found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    fake = Asked()
    types = LINUX_6_18.types()._replace(words_type=WORDS)
    monkeypatch.setattr(_btf, "kernel", lambda: types)
    monkeypatch.setattr(_libbpf, "load", lambda: None)
    monkeypatch.setattr(_capabilities, "missing", list)
    monkeypatch.setattr(_libbpf_log, "silence", contextlib.nullcontext)
    monkeypatch.setattr(_libbpf_programs, "load_program", fake.load)
    monkeypatch.setattr(_libbpf_programs, "test_run", fake.run)
    monkeypatch.setattr(_casts, "_searched", False)
    monkeypatch.setattr(_casts, "_found", None)
    yield fake
    loads = len(fake.loaded) - fake.loaded.count(fake.refused[0])
    assert fake.closed == loads, "a program stays loaded"


def test_the_kernel_is_asked_once(asked: Asked) -> None:
    assert _casts.kernel_cast() == Cast(FUNCTION, WORDS)
    assert _casts.kernel_cast() is _casts.kernel_cast()
    assert asked.loaded == ["find_function", "try_cast"]


def test_a_kernel_without_the_structure_is_not_asked(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_btf, "kernel", LINUX_6_18.types)
    assert _casts.kernel_cast() is None
    assert asked.loaded == []


def test_a_kernel_without_the_function_has_no_cast(asked: Asked) -> None:
    asked.found = 0
    assert _casts.kernel_cast() is _casts.kernel_cast() is None
    assert asked.loaded == ["find_function"]


@pytest.mark.parametrize("program", ["find_function", "try_cast"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EACCES])
def test_a_kernel_that_refuses_a_program_has_no_cast(
    number: int, program: str, asked: Asked
) -> None:
    asked.refused = program, number
    assert _casts.kernel_cast() is _casts.kernel_cast() is None
    assert asked.loaded.count("find_function") == 1, "asked again"


@pytest.mark.parametrize("number", [errno.EPERM, 524])
def test_another_error_may_be_passing(number: int, asked: Asked) -> None:
    asked.refused = "find_function", number
    assert _casts.kernel_cast() is None
    asked.refused = "", 0
    asked.loaded.clear()
    assert _casts.kernel_cast() == Cast(FUNCTION, WORDS)


def test_who_lacks_the_rights_calls_nothing_and_may_have_them_later(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as without:
        without.setattr(_capabilities, "missing", lambda: ["CAP_BPF"])
        assert _casts.kernel_cast() is None
        assert asked.loaded == []
    assert _casts.kernel_cast() == Cast(FUNCTION, WORDS)


@pytest.mark.parametrize("program", ["find_function", "try_cast"])
@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.EAGAIN])
def test_a_shortage_is_an_error_and_no_answer(number: int, program: str, asked: Asked) -> None:
    asked.refused = program, number
    with pytest.raises(MemcgError) as caught:
        _casts.kernel_cast()
    assert caught.value.errno == number
    assert asked.closed == asked.loaded.count("find_function") * (program == "try_cast")
    asked.refused = "", 0
    asked.loaded.clear()
    asked.closed = 0
    assert _casts.kernel_cast() == Cast(FUNCTION, WORDS)


def test_the_name_of_the_function_is_on_the_stack_of_the_program() -> None:
    code = _function_numbers._finder(_casts.FUNCTION)
    halves = [code[at + 4 : at + 8] for at in range(0, len(code), 8)]
    # Two numbers of 64 bits, each in the halves of two instructions, and stored by a third.
    name = halves[0] + halves[1] + halves[3] + halves[4]
    assert name == _casts.FUNCTION.encode() + b"\0"
