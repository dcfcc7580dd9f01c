# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A shortage of descriptors or memory is never taken for an answer about a cgroup."""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import Any, Callable

import pytest

from pymemcgbpf import CgroupNotFoundError, MemcgError, ProcessNotFoundError, _lookup
from pymemcgbpf._cgroup import diagnosis as _diagnosis
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cgroup.directory import Cgroup, open_cgroup

from ...open_files import open_files
from ..directories import make_bare_v2, make_v1, make_v2
from ..fake_sources import TRANSIENT

Opened = Callable[[Path], Cgroup]


class Calls:
    """Counts the system calls that look at something, and lets one of them fail.

    Attributes:
        made: the calls, in order.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        self._failing, self._number = -1, 0
        for where, name in (
            (os, "stat"),
            (os, "lstat"),
            (os, "readlink"),
            (os, "open"),
            (os, "scandir"),
        ):
            patch.setattr(where, name, self._counted(name, getattr(where, name)))
        patch.setattr(_lookup, "open", self._counted("open()", builtins.open), raising=False)

    def fail_at(self, failing: int, number: int) -> None:
        """Lets a call fail, by its place in the order, with an error number."""
        self.made.clear()
        self._failing, self._number = failing, number

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.made.append(name)
            if len(self.made) - 1 == self._failing:
                raise OSError(self._number, os.strerror(self._number), arguments[0])
            return function(*arguments, **options)

        return call


Look = Callable[[str], object]


def unreadable(path: str) -> object:
    """The diagnosis of a cgroup whose files cannot be read any more."""
    status = os.stat(path)
    return raised(_diagnosis.why_unreadable(path, (status.st_dev, status.st_ino)))


def not_found(path: str) -> object:
    status = os.stat(path)
    return raised(_diagnosis.why_not_found(path, (status.st_dev, status.st_ino)))


def raised(error: MemcgError) -> object:
    """Raises an error that tells of a shortage, and returns any other."""
    if type(error) is MemcgError:
        raise error
    return error


def cannot_be_opened(path: str) -> object:
    """The error of a cgroup that cannot be opened; raises an error that tells of a shortage."""
    try:
        return open_cgroup(path)
    except MemcgError as error:
        return raised(error)


def in_tree(name: str) -> Look:
    """Opens one of the directories that are not cgroups with memory statistics."""
    return lambda path: cannot_be_opened(f"{path}/{name}")


def opened_and_closed(path: str) -> object:
    cgroup = open_cgroup(path)
    cgroup.close()
    return cgroup.version, cgroup.is_root


LOOKS: dict[str, tuple[Look, int]] = {
    "exists": (_lookup.exists, 0),
    "exists, but is not there": (lambda path: _lookup.exists(f"{path}/none"), 0),
    "identity": (_lookup.identity, 0),
    "identity of nothing": (lambda path: _lookup.identity(f"{path}/none"), 0),
    "resolved": (_lookup.resolved, 0),
    "open_cgroup": (opened_and_closed, 0),
    "open_cgroup of nothing": (in_tree("none"), 0),
    "open_cgroup of an ordinary directory": (lambda path: cannot_be_opened(f"{path}/.."), 0),
    "open_cgroup of one that is going": (in_tree("going"), 0),
    "open_cgroup of one without the controller": (in_tree("bare"), 0),
    "open_cgroup of one below without the controller": (in_tree("bare/below"), 0),
    "open_cgroup of one whose files went": (in_tree("without"), 0),
    "open_cgroup of a threaded one": (in_tree("threaded"), 0),
    "open_cgroup of v1 of another controller": (in_tree("cpu"), 0),
    # The first call is the test's own.
    "why_unreadable": (unreadable, 1),
    "why_unreadable without the controller": (lambda path: unreadable(f"{path}/bare"), 1),
    "why_not_found": (not_found, 1),
    "hierarchy_root": (_mounts.hierarchy_root, 0),
    "find_cgroup": (lambda _: _mounts.find_cgroup(-5), 0),
    "path_in_hierarchy": (_mounts.path_in_hierarchy, 0),
    "own_cgroup": (lambda _: found(_mounts.own_cgroup), 0),
    "cgroup_of": (lambda _: found(lambda: _mounts.cgroup_of(os.getpid())), 0),
    "cgroup_of nothing": (lambda _: found(lambda: _mounts.cgroup_of(1 << 30)), 0),
}


def found(look: Callable[[], str]) -> object:
    try:
        return look()
    except (CgroupNotFoundError, ProcessNotFoundError) as error:  # this machine may have no cgroup
        return type(error)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cgroup with others below it, one for each reason to have no memory statistics."""
    top = make_v2(tmp_path / "top")
    make_v2(make_v2(top / "a") / "b")
    make_bare_v2(make_bare_v2(top / "bare") / "below")
    (top / "going").mkdir()
    make_v2(top / "without", stat=None)
    make_bare_v2(top / "threaded", kind="threaded")
    make_v1(make_bare_v2(top / "cpu"), stat=None)
    (top / "cpu" / "cgroup.controllers").unlink()
    mounts = [("/", str(top))]
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: iter(mounts))
    return top


@pytest.mark.parametrize("number", TRANSIENT)
@pytest.mark.parametrize("look", LOOKS)
def test_a_shortage_is_raised_and_never_taken_for_an_answer(
    look: str, number: int, tree: Path
) -> None:
    """Every call that can be short fails once in turn."""
    work, before = LOOKS[look]
    path = str(tree)
    files = open_files()
    with pytest.MonkeyPatch.context() as patch:
        calls = Calls(patch)
        expected = work(path)
        all_calls = list(calls.made)
        assert len(all_calls) > before
        for failing in range(before, len(all_calls)):
            calls.fail_at(failing, number)
            with pytest.raises(MemcgError) as caught:
                work(path)
            assert calls.made == all_calls[: failing + 1], "nothing more was asked"
            assert (type(caught.value), caught.value.errno) == (MemcgError, number), all_calls
            assert os.strerror(number) in str(caught.value) and caught.value.call
        calls.fail_at(-1, 0)
        assert str(work(path)) == str(expected)
    assert open_files() == files


@pytest.mark.parametrize("number", TRANSIENT)
def test_a_shortage_is_never_taken_for_an_answer_about_a_cgroup_s_files(
    number: int, v2: Path, opened: Opened
) -> None:
    cgroup = opened(v2)
    (v2 / "cgroup.stat").write_text("nr_descendants 12\n")
    looks: list[Callable[[], object]] = [
        lambda: cgroup.has_file("memory.stat"),
        lambda: cgroup.has_current,
        lambda: cgroup.has_lost_files,
        lambda: cgroup.descendants,
    ]
    expected = [look() for look in looks]
    assert expected == [True, True, False, 12]
    with pytest.MonkeyPatch.context() as patch:
        calls = Calls(patch)
        for look in looks:
            calls.fail_at(0, number)
            with pytest.raises(MemcgError) as caught:
                look()
            assert (type(caught.value), caught.value.errno) == (MemcgError, number)
    assert [look() for look in looks] == expected
