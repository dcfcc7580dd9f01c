# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The kernel's maps by their ids, with a kernel that is made up."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pymemcgbpf._pins import map_calls as _map_calls
from pymemcgbpf._pins import map_ids

FAILED = 0xFFFFFFFF
NEXT_ID, FD_BY_ID, INFO = 12, 14, 15


class Kernel:
    """Answers bpf(2).

    Attributes:
        maps: the names of the maps, by their ids.
        freed: ids that a map had until just now.
        error: the errno of every call; 0 for none.
    """

    def __init__(self) -> None:
        self.maps = {3: b"other", 17: b"memcg_timer", 40: b"memcg_timer"}
        self.freed: set[int] = set()
        self.error = 0
        self._of_descriptor: dict[int, int] = {}

    def syscall(self, _: int, command: int, reference: Any, size: int) -> int:
        if self.error:
            return self._fail(self.error)
        attr = reference._obj
        assert ctypes.sizeof(attr) == size
        if command == NEXT_ID:
            later = [each for each in sorted({*self.maps, *self.freed}) if each > attr.id]
            if not later:
                return self._fail(errno.ENOENT)
            attr.next_id = later[0]
            return 0
        if command == FD_BY_ID:
            if attr.id in self.freed:
                return self._fail(errno.ENOENT)
            fd = os.open("/dev/null", os.O_RDONLY)
            self._of_descriptor[fd] = attr.id
            return fd
        assert command == INFO
        os.fstat(attr.bpf_fd)  # it is open
        number = self._of_descriptor[attr.bpf_fd]
        info = map_ids._MapInfo(id=number, name=self.maps[number])
        assert attr.info_len == ctypes.sizeof(info)
        ctypes.memmove(attr.info, ctypes.addressof(info), attr.info_len)
        return 0

    def _fail(self, number: int) -> int:
        ctypes.set_errno(number)
        return FAILED


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(_map_calls, "_syscall", lambda: made.syscall)
    monkeypatch.setattr(_map_calls, "opened", lambda call, *arguments: _Opened(call(*arguments)))
    return made


class _Opened:
    """The owner of a descriptor, which a call by ctypes returns as a number."""

    def __init__(self, fd: int) -> None:
        if fd == FAILED:
            raise OverflowError
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)


def test_all_maps_are_listed_with_their_names(kernel: Kernel) -> None:
    assert list(map_ids.kernel_maps()) == [(3, "other"), (17, "memcg_timer"), (40, "memcg_timer")]


def test_a_map_that_was_just_freed_is_left_out(kernel: Kernel) -> None:
    kernel.freed = {1, 20, 99}
    assert [each.id for each in map_ids.kernel_maps()] == [3, 17, 40]


def test_a_refusal_is_an_error(kernel: Kernel) -> None:
    kernel.error = errno.EPERM
    with pytest.raises(PermissionError):
        list(map_ids.kernel_maps())


def test_a_machine_whose_number_of_the_call_is_unknown_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_map_calls, "call_number", lambda *_: 0)
    with pytest.raises(OSError, match="number of bpf"):
        list(map_ids.kernel_maps())


def test_a_path_without_a_pinned_map_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        map_ids.map_at(str(tmp_path / "none"))
