# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A cgroup's directory: opened, checked, and what is wrong with it said well."""

from __future__ import annotations

import builtins
import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    BpfPermissionError,
    CgroupNotFoundError,
    CgroupPermissionError,
    CgroupRemovedError,
    MemcgError,
    MemoryControllerError,
    NotACgroupError,
    _lookup,
)
from pymemcgbpf._cgroup import diagnosis as _diagnosis
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cgroup.directory import Cgroup, open_cgroup

from ...open_files import open_files
from ..directories import make_v1, make_v2
from ..fake_sources import TRANSIENT

Opened = Callable[[Path], Cgroup]


# --- open_cgroup: what is no cgroup ---------------------------------------------------


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(CgroupNotFoundError, match="does not exist") as caught:
        open_cgroup(tmp_path / "none")
    assert "none" in str(caught.value)
    assert caught.value.call == "open"
    assert caught.value.errno == 2


def test_the_empty_path() -> None:
    with pytest.raises(CgroupNotFoundError, match="''"):
        open_cgroup("")


def test_a_file(v2: Path) -> None:
    with pytest.raises(NotACgroupError, match=r"memory\.stat' is a file"):
        open_cgroup(v2 / "memory.stat")


def test_a_path_through_a_file(v2: Path) -> None:
    with pytest.raises(NotACgroupError):
        open_cgroup(v2 / "memory.stat" / "below")


def test_an_ordinary_directory(tmp_path: Path) -> None:
    with pytest.raises(NotACgroupError, match=r"not a cgroup: it has no cgroup\.procs"):
        open_cgroup(tmp_path)


@pytest.mark.parametrize("path", ["a\0b", b"a\0b", "\0", "\ud800"])
def test_what_cannot_be_a_path(path: Any) -> None:
    with pytest.raises(CgroupNotFoundError, match="cannot be a path"):
        open_cgroup(path)


@pytest.mark.parametrize("path", [None, 3, 1.5, ["x"]])
def test_what_is_no_path_at_all(path: Any) -> None:
    with pytest.raises(TypeError):
        open_cgroup(path)


@pytest.mark.parametrize("name", ["loop", "x" * 300])
def test_other_failures_to_open_are_ours_too(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(MemcgError, match="cannot be opened") as caught:
        open_cgroup(tmp_path / name)
    assert caught.value.errno


def test_no_permission(v2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CgroupPermissionError, match="this user may not read") as caught:
        open_cgroup(v2)
    assert caught.value.errno == 13
    assert isinstance(caught.value, PermissionError)


def test_a_directory_that_went_away_while_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "going"
    path.mkdir()
    real = os.open

    def open_and_remove(*arguments: Any, **options: Any) -> int:
        fd = real(*arguments, **options)
        path.rmdir()
        return fd

    monkeypatch.setattr(os, "open", open_and_remove)
    with pytest.raises(CgroupRemovedError, match="was removed"):
        open_cgroup(path)


def test_files_that_went_before_their_directory(tmp_path: Path) -> None:
    make_v2(tmp_path / "parent")
    (tmp_path / "parent" / "going").mkdir()
    with pytest.raises(CgroupRemovedError):
        open_cgroup(tmp_path / "parent" / "going")


# --- open_cgroup: what is one ---------------------------------------------------------


def test_v2(v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    assert cgroup.path == str(v2)
    assert cgroup.id == v2.stat().st_ino == os.fstat(cgroup.fd).st_ino
    assert (cgroup.version, cgroup.is_root, cgroup.has_current) == (2, False, True)
    assert cgroup.current_file == "memory.current"


def test_v1(tmp_path: Path, opened: Opened) -> None:
    cgroup = opened(make_v1(tmp_path / "v1"))
    assert (cgroup.version, cgroup.is_root, cgroup.has_current) == (1, False, True)
    assert cgroup.current_file == "memory.usage_in_bytes"


def test_roots_have_no_usage_of_their_own(tmp_path: Path, opened: Opened) -> None:
    for path in (make_v1(tmp_path / "v1", root=True), make_v2(tmp_path / "v2", kind=None)):
        cgroup = opened(path)
        assert (cgroup.is_root, cgroup.has_current) == (True, False)


def test_no_current_file_no_current(tmp_path: Path, opened: Opened) -> None:
    assert not opened(make_v2(tmp_path / "v2", current=None)).has_current


@pytest.mark.parametrize("form", [str, os.fsencode, Path])
def test_a_path_in_any_form(form: Callable[[Path], Any], v2: Path) -> None:
    cgroup = open_cgroup(form(v2))
    cgroup.close()
    assert cgroup.path == str(v2)


def test_a_path_that_is_not_utf_8(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    make_v2(Path(os.fsdecode(raw)))
    cgroup = open_cgroup(raw)
    cgroup.close()
    assert os.fsencode(cgroup.path) == raw


def test_a_symbolic_link(v2: Path, tmp_path: Path, opened: Opened) -> None:
    (tmp_path / "link").symlink_to(v2)
    cgroup = opened(tmp_path / "link")
    assert cgroup.path == str(tmp_path / "link")
    assert cgroup.id == v2.stat().st_ino


def test_a_relative_path(v2: Path, monkeypatch: pytest.MonkeyPatch, opened: Opened) -> None:
    monkeypatch.chdir(v2)
    assert opened(Path(".")).id == v2.stat().st_ino


# --- no memory controller -------------------------------------------------------------


def bare(path: Path, controllers: str = "pids", kind: str = "domain") -> Path:
    """A v2 cgroup without memory statistics."""
    return make_v2(path, stat=None, current=None, controllers=controllers, kind=kind)


def why(path: Path) -> str:
    with pytest.raises(MemoryControllerError) as caught:
        open_cgroup(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_parent_hands_no_memory_on(tmp_path: Path) -> None:
    top = make_v2(tmp_path / "top")
    said = why(bare(top / "a"))
    assert f'write "+memory" to {top}/cgroup.subtree_control' in said
    assert "and then to the same" not in said


def test_the_grandparent_hands_no_memory_on(tmp_path: Path) -> None:
    top = make_v2(tmp_path / "top")
    said = why(bare(bare(top / "a") / "b"))
    assert (
        f'write "+memory" to {top}/cgroup.subtree_control, and then to the same file of each cgroup'
        in said
    )


def test_the_file_to_write_to_is_found_through_a_symbolic_link(tmp_path: Path) -> None:
    top = make_v2(tmp_path / "top")
    (tmp_path / "link").symlink_to(bare(top / "a"))
    said = why(tmp_path / "link")
    assert f"{top}/cgroup.subtree_control" in said
    assert "and then to the same" not in said


def test_a_controller_whose_name_holds_memory_is_another(tmp_path: Path) -> None:
    top = bare(tmp_path / "top", controllers="memory_x hugetlb")
    assert "none of its ancestors" in why(bare(top / "a"))


def test_a_threaded_cgroup(tmp_path: Path) -> None:
    top = make_v2(tmp_path / "top")
    said = why(bare(top / "a", kind="threaded"))
    assert "threaded cgroup" in said and "nearest ancestor" in said


def mounted(monkeypatch: pytest.MonkeyPatch, *mounts: Path) -> None:
    """Has the memory controller's hierarchy be mounted there alone."""
    found = [("/", str(mount)) for mount in mounts]
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: iter(found))


def test_no_ancestor_has_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(monkeypatch)
    said = why(bare(bare(tmp_path / "top") / "a"))
    assert "none of its ancestors" in said and "cgroup_disable=memory" in said


def test_v1_of_another_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(monkeypatch)
    said = why(make_v1(tmp_path / "cpu", stat=None))
    assert said.endswith("cgroup v1 hierarchy without the memory controller")


def test_where_the_memory_controller_is_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make_v1(tmp_path / "memory")
    # One that shows nothing of it, and one that is not there at all.
    mounted(monkeypatch, tmp_path / "none", bare(tmp_path / "empty"), memory)
    end = f"; the cgroups of the memory controller are in {memory}"
    assert why(make_v1(tmp_path / "cpu", stat=None)).endswith(end)
    assert why(bare(bare(tmp_path / "unified") / "a")).endswith(f"none of its ancestors does{end}")
    with pytest.raises(NotACgroupError) as caught:
        open_cgroup(tmp_path)
    assert str(caught.value).endswith(end)
    # Its own hierarchy is no other place.
    mounted(monkeypatch, memory.parent)
    (memory.parent / "memory.stat").touch()
    assert "memory controller are in" not in why(make_v1(bare(tmp_path / "a") / "pids", stat=None))


@pytest.mark.parametrize("make", [make_v1, make_v2])
def test_with_the_controller_but_without_the_file_it_is_going(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    top = make(tmp_path / "top")
    with pytest.raises(CgroupRemovedError):
        open_cgroup(make(top / "a", stat=None))


# --- why_unreadable -------------------------------------------------------------------


def test_a_path_that_is_gone(tmp_path: Path) -> None:
    error = _diagnosis.why_unreadable(str(tmp_path / "gone"), (7, 7))
    assert isinstance(error, CgroupRemovedError)
    assert str(error) == f"the cgroup {tmp_path}/gone was removed"


def test_a_path_that_is_another_s_now(v2: Path) -> None:
    error = _diagnosis.why_unreadable(str(v2), (v2.stat().st_dev, v2.stat().st_ino + 1))
    assert isinstance(error, CgroupRemovedError)
    assert "another cgroup has its path now" in str(error)


def test_the_same_number_on_another_device_is_another_s(v2: Path) -> None:
    error = _diagnosis.why_unreadable(str(v2), (v2.stat().st_dev + 1, v2.stat().st_ino))
    assert "another cgroup has its path now" in str(error)


def test_the_same_directory_on_its_way_out(v2: Path) -> None:
    error = _diagnosis.why_unreadable(str(v2), (v2.stat().st_dev, v2.stat().st_ino))
    assert isinstance(error, CgroupRemovedError)


def test_the_controller_was_taken_away(tmp_path: Path) -> None:
    top = make_v2(tmp_path / "top")
    path = bare(top / "a")
    error = _diagnosis.why_unreadable(str(path), (path.stat().st_dev, path.stat().st_ino))
    assert isinstance(error, MemoryControllerError)


def test_a_directory_that_goes_while_it_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bare(make_v2(tmp_path / "top") / "a")

    def remove(_: str) -> None:
        shutil.rmtree(path)

    monkeypatch.setattr(_diagnosis, "contents", remove)
    error = _diagnosis.why_unreadable(str(path), (path.stat().st_dev, path.stat().st_ino))
    assert isinstance(error, CgroupRemovedError)


def test_a_cgroup_that_was_not_found_and_has_no_files_was_removed(v2: Path) -> None:
    opened = (v2.stat().st_dev, v2.stat().st_ino)
    (v2 / "memory.stat").unlink()
    assert isinstance(_diagnosis.why_not_found(str(v2), opened), CgroupRemovedError)
    shutil.rmtree(v2)
    assert isinstance(_diagnosis.why_not_found(str(v2), opened), CgroupRemovedError)


def test_a_cgroup_that_was_not_found_and_has_its_files_is_outside_the_namespace(v2: Path) -> None:
    error = _diagnosis.why_not_found(str(v2), (v2.stat().st_dev, v2.stat().st_ino))
    assert isinstance(error, BackendUnavailableError) and "namespace" in str(error)


def test_one_whose_path_is_another_s_is_removed(v2: Path) -> None:
    error = _diagnosis.why_not_found(str(v2), (v2.stat().st_dev, 1))
    assert isinstance(error, CgroupRemovedError)


def test_an_error_of_this_package_stays_itself() -> None:
    error = CgroupRemovedError("gone")
    assert _diagnosis.read_error("/x", (1, 1), error) is error


@pytest.mark.parametrize("call", ["bpf_iter_create", "bpf_prog_test_run_opts"])
def test_a_forbidden_read_is_a_permission_error(call: str) -> None:
    error = MemcgError("no", errno=errno.EPERM, call=call)
    assert isinstance(_diagnosis.read_error("/x", (1, 1), error), BpfPermissionError)


@pytest.mark.parametrize(
    ("number", "call"), [(errno.EMFILE, "bpf_iter_create"), (errno.EPERM, "something_else")]
)
def test_another_failure_is_no_permission_error(number: int, call: str) -> None:
    error = MemcgError("no", errno=number, call=call)
    assert _diagnosis.read_error("/x", (1, 1), error) is error


# --- what passes ----------------------------------------------------------------------


class Calls:
    """The system calls by which something is looked at: counted, until one fails.

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
        """Has a call fail, by its place in the order, with an error number."""
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
    """What is found out about a cgroup whose files cannot be read any more."""
    status = os.stat(path)
    return raised(_diagnosis.why_unreadable(path, (status.st_dev, status.st_ino)))


def not_found(path: str) -> object:
    status = os.stat(path)
    return raised(_diagnosis.why_not_found(path, (status.st_dev, status.st_ino)))


def raised(error: MemcgError) -> object:
    """An error, raised if it is the one that says what passes."""
    if type(error) is MemcgError:
        raise error
    return error


def cannot_be_opened(path: str) -> object:
    """Opens one that cannot be; the error, unless it is the one that says what passes."""
    try:
        return open_cgroup(path)
    except MemcgError as error:
        return raised(error)


def in_tree(name: str) -> Look:
    """Opens one of the directories that are no cgroups with memory statistics."""
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
    "own_cgroup": (lambda _: cgroup_of_this_process(), 0),
}


def cgroup_of_this_process() -> object:
    try:
        return _mounts.own_cgroup()
    except CgroupNotFoundError as error:  # this machine has none
        return error


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cgroup with others below it that have no memory statistics, for all reasons."""
    top = make_v2(tmp_path / "top")
    make_v2(make_v2(top / "a") / "b")
    bare(bare(top / "bare") / "below")
    (top / "going").mkdir()
    make_v2(top / "without", stat=None)
    bare(top / "threaded", kind="threaded")
    make_v1(bare(top / "cpu"), stat=None)
    (top / "cpu" / "cgroup.controllers").unlink()
    mounts = [("/", str(top))]
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: iter(mounts))
    return top


@pytest.mark.parametrize("number", TRANSIENT)
@pytest.mark.parametrize("look", LOOKS)
def test_what_passes_is_no_answer(look: str, number: int, tree: Path) -> None:
    """A lack of descriptors or memory says neither that something is there nor that it is not."""
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
def test_what_passes_is_no_answer_about_a_cgroup_s_files(
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


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO])
def test_what_lasts_is_an_answer(number: int, v2: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        calls = Calls(patch)
        for look in (_lookup.exists, _lookup.identity):
            calls.fail_at(0, number)
            assert not look(str(v2))


def test_a_nul_is_in_no_path() -> None:
    assert not _lookup.exists("a\0b")
    assert _lookup.identity("a\0b") is None


# --- hierarchy_root -------------------------------------------------------------------


def test_hierarchy_root_is_the_topmost_with_statistics(tmp_path: Path) -> None:
    bare(tmp_path / "bare")
    top = make_v2(tmp_path / "bare" / "top")
    deep = make_v2(make_v2(top / "a") / "b")
    (tmp_path / "link").symlink_to(deep)
    for path in (top, deep, tmp_path / "link", deep / ".." / "b"):
        assert _mounts.hierarchy_root(str(path)) == str(top)


def test_hierarchy_root_stops_at_a_gap(tmp_path: Path) -> None:
    make_v2(tmp_path / "top")
    path = make_v2(bare(tmp_path / "top" / "gap") / "below")
    assert _mounts.hierarchy_root(str(path)) == str(path)


# --- how many, and which files --------------------------------------------------------


def test_descendants_are_cgroup_stat_s_on_v2(v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    assert cgroup.descendants is None, "no cgroup.stat"
    (v2 / "cgroup.stat").write_text("nr_descendants 12\nnr_dying_descendants 3\n")
    assert cgroup.descendants == 12
    (v2 / "cgroup.stat").write_text("nr_dying_descendants 3\nnr_descendants 0\n")
    assert cgroup.descendants == 0
    (v2 / "cgroup.stat").write_text("nr_dying_descendants 3\n")
    assert cgroup.descendants is None


def test_nobody_says_how_many_descendants_there_are_on_v1(tmp_path: Path, opened: Opened) -> None:
    """/proc/cgroups counts the whole hierarchy, and the dead."""
    cgroup = opened(make_v1(tmp_path / "v1"))
    (tmp_path / "v1" / "cgroup.stat").write_text("nr_descendants 12\n")
    assert cgroup.descendants is None


@pytest.mark.parametrize(("links", "children"), [(1, 0), (2, 0), (3, 1), (70_000, 69_998)])
def test_children_are_the_links_beyond_its_own_two(
    links: int, children: int, v2: Path, opened: Opened
) -> None:
    cgroup = opened(v2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fstat", lambda fd: SimpleNamespace(st_nlink={cgroup.fd: links}[fd]))
        assert cgroup.children == children


def test_has_file_is_of_the_open_directory(v2: Path, opened: Opened) -> None:
    cgroup = opened(v2)
    v2.rename(v2.with_name("elsewhere"))
    assert cgroup.has_file("memory.stat")
    assert not cgroup.has_file("memory.zswap.current")
