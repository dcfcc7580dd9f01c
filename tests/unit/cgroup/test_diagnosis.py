# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Each reason why a cgroup cannot be read has one error, which says what to do."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Callable

import pytest

from pymemcgbpf import (
    BackendUnavailableError,
    BpfPermissionError,
    CgroupRemovedError,
    MemcgError,
    MemoryControllerError,
    NotACgroupError,
)
from pymemcgbpf._cgroup import diagnosis as _diagnosis
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cgroup.directory import open_cgroup

from ..directories import make_bare_v2, make_v1, make_v2

# --- cgroups without the memory controller --------------------------------------------


def why(path: Path) -> str:
    with pytest.raises(MemoryControllerError) as caught:
        open_cgroup(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_parent_s_subtree_control_is_named(tmp_path: Path) -> None:
    top = make_v2(tmp_path / "top")
    said = why(make_bare_v2(top / "a"))
    assert f'write "+memory" to {top}/cgroup.subtree_control' in said
    assert "and then to the same" not in said


def test_the_grandparent_s_subtree_control_is_named_with_those_between(tmp_path: Path) -> None:
    top = make_v2(tmp_path / "top")
    said = why(make_bare_v2(make_bare_v2(top / "a") / "b"))
    assert (
        f'write "+memory" to {top}/cgroup.subtree_control, and then to the same file of each cgroup'
        in said
    )


def test_the_file_to_write_to_is_found_through_a_symbolic_link(tmp_path: Path) -> None:
    top = make_v2(tmp_path / "top")
    (tmp_path / "link").symlink_to(make_bare_v2(top / "a"))
    said = why(tmp_path / "link")
    assert f"{top}/cgroup.subtree_control" in said
    assert "and then to the same" not in said


def test_a_controller_whose_name_contains_memory_is_not_the_memory_controller(
    tmp_path: Path,
) -> None:
    top = make_bare_v2(tmp_path / "top", controllers="memory_x hugetlb")
    assert "none of its ancestors" in why(make_bare_v2(top / "a"))


def test_a_threaded_cgroup_is_sent_to_its_domain(tmp_path: Path) -> None:
    top = make_v2(tmp_path / "top")
    said = why(make_bare_v2(top / "a", kind="threaded"))
    assert "threaded cgroup" in said and "nearest ancestor" in said


def mounted(monkeypatch: pytest.MonkeyPatch, *mounts: Path) -> None:
    """Makes these the only mounts of the memory controller's hierarchy."""
    found = [("/", str(mount)) for mount in mounts]
    monkeypatch.setattr(_mounts, "memory_mounts", lambda: iter(found))


def test_the_possible_reasons_are_named_where_no_ancestor_has_the_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(monkeypatch)
    said = why(make_bare_v2(make_bare_v2(tmp_path / "top") / "a"))
    assert "none of its ancestors" in said and "cgroup_disable=memory" in said


def test_a_v1_hierarchy_of_another_controller_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(monkeypatch)
    said = why(make_v1(tmp_path / "cpu", stat=None))
    assert said.endswith("cgroup v1 hierarchy without the memory controller")


def test_the_mount_of_the_memory_controller_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make_v1(tmp_path / "memory")
    # The first mount point does not exist, and the second shows no statistics.
    mounted(monkeypatch, tmp_path / "none", make_bare_v2(tmp_path / "empty"), memory)
    end = f"; the cgroups of the memory controller are in {memory}"
    assert why(make_v1(tmp_path / "cpu", stat=None)).endswith(end)
    assert why(make_bare_v2(make_bare_v2(tmp_path / "unified") / "a")).endswith(
        f"none of its ancestors does{end}"
    )
    with pytest.raises(NotACgroupError) as caught:
        open_cgroup(tmp_path)
    assert str(caught.value).endswith(end)
    # The mount that has the path itself is not named.
    mounted(monkeypatch, memory.parent)
    (memory.parent / "memory.stat").touch()
    assert "memory controller are in" not in why(
        make_v1(make_bare_v2(tmp_path / "a") / "pids", stat=None)
    )


@pytest.mark.parametrize("make", [make_v1, make_v2])
def test_a_cgroup_with_the_controller_but_without_the_file_is_being_removed(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    top = make(tmp_path / "top")
    with pytest.raises(CgroupRemovedError):
        open_cgroup(make(top / "a", stat=None))


# --- cgroups that were opened and cannot be read any more -----------------------------


def test_a_path_without_a_directory_is_a_removed_cgroup(tmp_path: Path) -> None:
    error = _diagnosis.why_unreadable(str(tmp_path / "gone"), (7, 7))
    assert isinstance(error, CgroupRemovedError)
    assert str(error) == f"the cgroup {tmp_path}/gone was removed"


def test_a_path_of_another_cgroup_is_a_removed_cgroup(v2: Path) -> None:
    error = _diagnosis.why_unreadable(str(v2), (v2.stat().st_dev, v2.stat().st_ino + 1))
    assert isinstance(error, CgroupRemovedError)
    assert "another cgroup has its path now" in str(error)


def test_the_same_inode_number_on_another_device_is_another_cgroup(v2: Path) -> None:
    error = _diagnosis.why_unreadable(str(v2), (v2.stat().st_dev + 1, v2.stat().st_ino))
    assert "another cgroup has its path now" in str(error)


def test_a_cgroup_that_still_has_its_files_is_being_removed(v2: Path) -> None:
    error = _diagnosis.why_unreadable(str(v2), (v2.stat().st_dev, v2.stat().st_ino))
    assert isinstance(error, CgroupRemovedError)


def test_a_controller_disabled_since_is_a_memory_controller_error(tmp_path: Path) -> None:
    top = make_v2(tmp_path / "top")
    path = make_bare_v2(top / "a")
    error = _diagnosis.why_unreadable(str(path), (path.stat().st_dev, path.stat().st_ino))
    assert isinstance(error, MemoryControllerError)


def test_a_directory_removed_during_the_diagnosis_is_a_removed_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_bare_v2(make_v2(tmp_path / "top") / "a")

    def remove(_: str) -> None:
        shutil.rmtree(path)

    monkeypatch.setattr(_diagnosis, "contents", remove)
    error = _diagnosis.why_unreadable(str(path), (path.stat().st_dev, path.stat().st_ino))
    assert isinstance(error, CgroupRemovedError)


# --- cgroups that the kernel does not find by their ids -------------------------------


def test_a_cgroup_that_was_not_found_and_has_no_files_was_removed(v2: Path) -> None:
    opened = (v2.stat().st_dev, v2.stat().st_ino)
    (v2 / "memory.stat").unlink()
    assert isinstance(_diagnosis.why_not_found(str(v2), opened), CgroupRemovedError)
    shutil.rmtree(v2)
    assert isinstance(_diagnosis.why_not_found(str(v2), opened), CgroupRemovedError)


def test_a_cgroup_that_was_not_found_and_has_its_files_is_outside_the_namespace(v2: Path) -> None:
    error = _diagnosis.why_not_found(str(v2), (v2.stat().st_dev, v2.stat().st_ino))
    assert isinstance(error, BackendUnavailableError) and "namespace" in str(error)


def test_a_cgroup_that_was_not_found_and_whose_path_is_another_s_was_removed(v2: Path) -> None:
    error = _diagnosis.why_not_found(str(v2), (v2.stat().st_dev, 1))
    assert isinstance(error, CgroupRemovedError)


def test_an_open_directory_that_leads_nowhere_and_has_no_files_was_removed(v2: Path) -> None:
    opened = (v2.stat().st_dev, v2.stat().st_ino)
    (v2 / "memory.stat").unlink()
    assert isinstance(_diagnosis.why_not_open(str(v2), opened), CgroupRemovedError)
    shutil.rmtree(v2)
    assert isinstance(_diagnosis.why_not_open(str(v2), opened), CgroupRemovedError)


def test_an_open_directory_that_leads_nowhere_and_has_its_files_is_not_the_kernel_s(
    v2: Path,
) -> None:
    error = _diagnosis.why_not_open(str(v2), (v2.stat().st_dev, v2.stat().st_ino))
    assert isinstance(error, BackendUnavailableError)
    assert "not in a cgroup file system of this kernel" in str(error)


def test_an_open_directory_that_leads_nowhere_and_whose_path_is_another_s_was_removed(
    v2: Path,
) -> None:
    error = _diagnosis.why_not_open(str(v2), (v2.stat().st_dev, 1))
    assert isinstance(error, CgroupRemovedError)


# --- failed calls ---------------------------------------------------------------------


def test_an_error_of_this_package_is_not_translated() -> None:
    error = CgroupRemovedError("gone")
    assert _diagnosis.read_error("/x", (1, 1), error) is error


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.ENOSYS])
@pytest.mark.parametrize("call", ["bpf_iter_create", "bpf_prog_test_run_opts"])
def test_a_forbidden_read_through_bpf_is_a_bpf_permission_error(call: str, number: int) -> None:
    error = MemcgError("no", errno=number, call=call)
    assert isinstance(_diagnosis.read_error("/x", (1, 1), error), BpfPermissionError)


@pytest.mark.parametrize(
    ("number", "call"), [(errno.EMFILE, "bpf_iter_create"), (errno.EPERM, "something_else")]
)
def test_other_failures_of_calls_are_not_permission_errors(number: int, call: str) -> None:
    error = MemcgError("no", errno=number, call=call)
    assert _diagnosis.read_error("/x", (1, 1), error) is error
