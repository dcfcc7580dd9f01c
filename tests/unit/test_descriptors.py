# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Descriptors that are neither lost nor closed in another's place."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from pymemcgbpf import MemcgError, _descriptors
from pymemcgbpf._descriptors import (
    Descriptor,
    Identity,
    abandon,
    duplicate,
    file_identity,
    opened,
    opened_at,
)

from ..open_files import open_files
from .conftest import RunPython


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as error:
        assert error.errno == errno.EBADF
        return False
    return True


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "file"
    path.write_text("the file")
    return str(path)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[int]:
    """A file that is open, and is another one."""
    path = tmp_path / "other"
    path.write_text("another file")
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


# --- owners ---------------------------------------------------------------------------


def test_an_owner_closes_with_its_last_reference(file: str) -> None:
    before = open_files()
    owner = opened(os.open, file, os.O_RDONLY)
    fd = owner.fileno()
    assert open_files() == {**before, str(fd): file}
    again = owner
    del owner
    assert is_open(fd)
    del again
    assert open_files() == before


def test_an_owner_is_closed_once(file: str) -> None:
    owner = opened(os.open, file, os.O_RDONLY)
    fd = owner.fileno()
    owner.close()
    assert owner.closed and not is_open(fd)
    taken = os.open(os.devnull, os.O_RDONLY)
    assert taken == fd
    owner.close()
    del owner
    assert is_open(taken)
    os.close(taken)


def test_an_owner_warns_of_nothing(run_python: RunPython) -> None:
    code = (
        "import os; from pymemcgbpf._descriptors import opened\n"
        "kept = opened(os.open, os.devnull, os.O_RDONLY)\n"
        "opened(os.open, os.devnull, os.O_RDONLY)\n"
    )
    ran = run_python("-W", "error", "-X", "dev", "-c", code)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_an_exception_of_the_opening_function_is_raised_unchanged(tmp_path: Path) -> None:
    before = open_files()
    with pytest.raises(FileNotFoundError) as caught:
        opened(os.open, str(tmp_path / "none"), os.O_RDONLY)
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(TypeError):
        opened(os.open, file_identity, os.O_RDONLY)
    with pytest.raises(FileNotFoundError):
        opened_at(str(tmp_path / "none"), os.O_RDONLY)
    with pytest.raises(OSError) as refused:
        duplicate(1 << 30)
    assert refused.value.errno == errno.EBADF
    assert open_files() == before


def test_the_function_is_given_all_arguments_once(file: str) -> None:
    given: list[tuple[object, ...]] = []

    def function(*arguments: object) -> int:
        given.append(arguments)
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)

    owner = opened(function, 1, [2], None)
    assert given == [(1, [2], None)]
    assert os.pread(owner.fileno(), 99, 0) == b"the file"


def test_a_descriptor_is_not_inherited(file: str) -> None:
    for owner in (opened_at(file, os.O_RDONLY), duplicate(0)):
        assert not os.get_inheritable(owner.fileno())
        assert fcntl.fcntl(owner.fileno(), fcntl.F_GETFD) == fcntl.FD_CLOEXEC


def test_a_path_in_an_open_directory(tmp_path: Path, file: str) -> None:
    directory = opened_at(str(tmp_path), os.O_RDONLY | os.O_DIRECTORY)
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_text("below")
    below = opened_at("below", os.O_RDONLY | os.O_DIRECTORY, directory.fileno())
    for at, text in ((directory, b"the file"), (below, b"below")):
        owner = opened_at("file", os.O_RDONLY, at.fileno())
        assert os.pread(owner.fileno(), 99, 0) == text
    no_directory = opened_at(file, os.O_RDONLY)
    with pytest.raises(NotADirectoryError):
        opened_at("x", os.O_RDONLY, no_directory.fileno())


def test_a_duplicate_is_of_the_same_file(file: str) -> None:
    owner = opened_at(file, os.O_RDONLY)
    again = duplicate(owner.fileno())
    assert again.fileno() != owner.fileno()
    assert file_identity(again.fileno()) == file_identity(owner.fileno())
    owner.close()
    assert is_open(again.fileno())


@pytest.mark.parametrize("closed", [(0,), (0, 1), (0, 1, 2), (1,), (2,)])
def test_no_descriptor_takes_the_number_of_a_standard_file(
    closed: tuple[int, ...], run_python: RunPython, tmp_path: Path
) -> None:
    code = (
        "import os; from pymemcgbpf._descriptors import duplicate, opened_at\n"
        f"for fd in {closed}: os.close(fd)\n"
        "made = [opened_at(os.devnull, os.O_RDONLY), opened_at('.', os.O_RDONLY)]\n"
        "made += [duplicate(owner.fileno()) for owner in made]\n"
        "left = [fd for fd in (0, 1, 2) if os.path.exists(f'/proc/self/fd/{fd}')]\n"
        "with open('said', 'w') as file:\n"
        "    print(sorted(owner.fileno() for owner in made)[0] > 2, left, file=file)\n"
    )
    ran = run_python("-c", code)
    left = [fd for fd in (0, 1, 2) if fd not in closed]
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "said").read_text() == f"True {left}\n", "and none of them is held open"


# --- kept descriptors -----------------------------------------------------------------


def test_a_descriptor_is_closed_once(file: str, other: int) -> None:
    descriptor = Descriptor(opened_at(file, os.O_RDONLY))
    fd = descriptor.fd
    assert is_open(fd) and not descriptor.is_lost
    descriptor.close()
    assert not is_open(fd) and not descriptor.is_lost, "we closed it"
    os.dup2(other, fd)
    descriptor.close()
    del descriptor
    gc.collect()
    assert is_open(fd)
    os.close(fd)


def test_a_descriptor_without_references_is_closed(file: str) -> None:
    before = open_files()
    descriptor = Descriptor(opened_at(file, os.O_RDONLY))
    assert len(open_files()) == len(before) + 1
    del descriptor
    assert open_files() == before


def test_a_kept_descriptor_runs_no_code_at_exit(run_python: RunPython) -> None:
    code = (
        "import os; from pymemcgbpf._descriptors import Descriptor, opened_at\n"
        "def identify(fd):\n"
        "    print('asked')\n"
        "    return ()\n"
        "def last(): print(os.path.exists(f'/proc/self/fd/{kept.fd}'))\n"
        "import atexit; atexit.register(last)  # the first to come is the last to be run\n"
        "kept = Descriptor(opened_at(os.devnull, os.O_RDONLY), identify)\n"
        "kept.itself = kept\n"
    )
    ran = run_python("-W", "error", "-c", code)
    assert ran.stdout.splitlines()[:2] == ["asked", "True"] and ran.stderr == ""


Lose = Callable[[Descriptor, int], None]


def close_it(descriptor: Descriptor, other: int) -> None:
    os.close(descriptor.fd)


def replace_it(descriptor: Descriptor, other: int) -> None:
    os.dup2(other, descriptor.fd)


@pytest.mark.parametrize("lose", [close_it, replace_it])
def test_a_descriptor_that_other_code_closed_is_lost(lose: Lose, file: str, other: int) -> None:
    descriptor = Descriptor(opened_at(file, os.O_RDONLY))
    assert not descriptor.is_lost
    lose(descriptor, other)
    assert descriptor.is_lost
    before = open_files()
    descriptor.close()
    descriptor.close()
    assert descriptor.is_lost
    assert open_files() == before
    if lose is replace_it:
        os.close(descriptor.fd)


def test_a_file_of_other_code_at_the_same_number_stays_open(file: str, other: int) -> None:
    descriptor = Descriptor(opened_at(file, os.O_RDONLY))
    fd = descriptor.fd
    os.close(fd)
    taken = fcntl.fcntl(other, fcntl.F_DUPFD_CLOEXEC, fd)
    assert taken == fd, "the number is given again"
    descriptor.close()
    assert os.pread(fd, 99, 0) == b"another file"
    descriptor = None  # type: ignore[assignment]
    gc.collect()
    assert os.pread(fd, 99, 0) == b"another file"
    os.close(fd)


@pytest.mark.parametrize("lose", [close_it, replace_it])
def test_a_lost_descriptor_without_references_closes_nothing(
    lose: Lose, file: str, other: int
) -> None:
    descriptor = Descriptor(opened_at(file, os.O_RDONLY))
    fd = descriptor.fd
    lose(descriptor, other)
    before = open_files()
    del descriptor
    gc.collect()
    assert open_files() == before
    if lose is replace_it:
        os.close(fd)
    else:
        taken = fcntl.fcntl(other, fcntl.F_DUPFD_CLOEXEC, fd)
        gc.collect()
        assert taken == fd and is_open(fd), "the lost descriptor does not watch its number"
        os.close(fd)


def test_the_same_file_opened_again_at_its_number_is_not_told_apart(file: str) -> None:
    descriptor = Descriptor(opened_at(file, os.O_RDONLY))
    os.close(descriptor.fd)
    again = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    assert again == descriptor.fd and not descriptor.is_lost
    assert os.pread(descriptor.fd, 99, 0) == b"the file", "it serves as well"
    descriptor.close()
    assert not is_open(again)


class Answers:
    """Tells files apart as the test says."""

    def __init__(self) -> None:
        self.answer: Identity = ("one",)
        self.error: BaseException = MemcgError("")
        self.fails = False
        self.asked: list[int] = []

    def __call__(self, fd: int) -> Identity:
        self.asked.append(fd)
        if self.fails:
            raise self.error
        return self.answer


def test_the_identity_of_a_descriptor_is_asked_by_its_number(file: str) -> None:
    answers = Answers()
    descriptor = Descriptor(opened_at(file, os.O_RDONLY), answers)
    assert answers.asked == [descriptor.fd]
    assert not descriptor.is_lost
    answers.answer = ("one", 2)
    assert descriptor.is_lost
    answers.answer = ("one",)
    assert not descriptor.is_lost
    assert answers.asked == [descriptor.fd] * 4
    descriptor.close()
    answers.answer = ("two",)
    assert not descriptor.is_lost and not is_open(descriptor.fd)


@pytest.mark.parametrize(
    ("kind", "number", "lost"),
    [
        (OSError, errno.EBADF, True),
        (MemcgError, errno.EBADF, True),
        (MemcgError, errno.EBADFD, True),  # what bpf() says of a number without an open file
        (MemcgError, errno.EINVAL, True),  # a file, but no BPF object
        (OSError, errno.EIO, False),
        (MemcgError, errno.EPERM, False),
        (MemcgError, errno.EACCES, False),
        (MemcgError, errno.ENOMEM, False),
    ],
)
def test_a_descriptor_is_lost_only_if_its_number_is_known_to_be_another_file_s(
    kind: type[OSError],
    number: int,
    lost: bool,
    file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "readlink", lambda path: "anon_inode:bpf-map")
    answers = Answers()
    descriptor = Descriptor(opened_at(file, os.O_RDONLY), answers)
    fd = descriptor.fd
    answers.fails = True
    answers.error = (
        kind(number, "no") if kind is OSError else MemcgError("no", errno=number, call="bpf")
    )
    assert descriptor.is_lost is lost
    descriptor.close()
    assert is_open(fd) is lost
    if lost:
        os.close(fd)


def test_a_descriptor_of_no_bpf_object_is_lost_even_if_the_kernel_answers_eperm(file: str) -> None:
    # Before Linux 5.19 the kernel answers EPERM for any file to a process without privileges.
    answers = Answers()
    descriptor = Descriptor(opened_at(file, os.O_RDONLY), answers)
    fd = descriptor.fd
    answers.fails, answers.error = True, PermissionError(errno.EPERM, "no")
    assert descriptor.is_lost
    descriptor.close()
    assert is_open(fd)
    os.close(fd)


def test_a_new_descriptor_that_cannot_be_identified_is_closed(file: str) -> None:
    before = open_files()
    answers = Answers()
    answers.fails, answers.error = True, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        Descriptor(opened_at(file, os.O_RDONLY), answers)
    answers.error.__traceback__ = None  # its frames hold the owner
    gc.collect()
    assert open_files() == before


def test_an_abandoned_descriptor_is_never_closed(
    monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    class Owner:
        """Something that would close a number."""

    monkeypatch.setattr(_descriptors, "_abandoned", [])
    owner = Owner()
    seen = weakref.ref(owner)
    abandon(owner)
    del owner
    gc.collect()
    assert seen() is not None

    number = opened_at(file, os.O_RDONLY)
    fd = number.fileno()
    abandon(number)
    del number
    gc.collect()
    assert is_open(fd)
    # Undoing the patch drops both, which closes the file.


WITHOUT_EPOLL = """
import os, select
del select.epoll  # as libraries for green threads do
from pymemcgbpf import PinnedReader, StatsReader
from pymemcgbpf._descriptors import opened_at
with_owner = opened_at(os.devnull, os.O_RDONLY)
os.fstat(with_owner.fileno())
number = with_owner.fileno()
del with_owner
try:
    os.fstat(number)
except OSError:
    print("closed")
"""


def test_descriptors_work_where_a_library_removed_select_s_epoll(run_python: RunPython) -> None:
    ran = run_python("-c", WITHOUT_EPOLL)
    assert (ran.stdout, ran.stderr) == ("closed\n", "")
