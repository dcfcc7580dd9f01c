# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What each failed call means for a pin."""

from __future__ import annotations

import errno

import pytest

from pymemcgbpf import (
    MemcgError,
    PinExistsError,
    PinNotFoundError,
    PinPathError,
    PinPermissionError,
    StreamError,
)
from pymemcgbpf._pins import diagnosis as _diagnosis
from pymemcgbpf.errors import errno_text

PATH = "/sys/fs/bpf/it"


def creation_error(error: BaseException) -> BaseException:
    with pytest.raises(type(error) if not isinstance(error, OSError) else OSError) as caught:
        _diagnosis.raise_creation_error(PATH, error)
    return caught.value


@pytest.mark.parametrize("call", ["", "bpf_obj_pin"])
@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EEXIST, PinExistsError),
        (errno.EPERM, PinPermissionError),
        (errno.EACCES, PinPermissionError),
        (errno.EROFS, PinPermissionError),
        (errno.ENOTDIR, PinPathError),
        (errno.ENAMETOOLONG, PinPathError),
        (errno.ELOOP, PinPathError),
        (errno.ENOSPC, MemcgError),
    ],
)
def test_a_failed_creation_has_one_error_for_each_reason(
    number: int, kind: type[MemcgError], call: str
) -> None:
    error = MemcgError("x", errno=number, call=call) if call else OSError(number, "x")
    found = creation_error(error)
    assert type(found) is kind
    if number == errno.ENOSPC and call:
        assert found is error, "it says already which call failed"
    else:
        assert PATH in str(found) and found.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        MemcgError("x", errno=errno.EPERM, call="bpf_object__load"),
        MemcgError("x", errno=errno.EMFILE, call="open"),
        KeyboardInterrupt(),
    ],
)
def test_a_failure_that_says_nothing_about_the_path_stays_as_it_is(error: BaseException) -> None:
    assert creation_error(error) is error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (FileNotFoundError(errno.ENOENT, "x"), PinNotFoundError, "there is no pin at {}"),
        (NotADirectoryError(errno.ENOTDIR, "x"), PinNotFoundError, "there is no pin at {}"),
        (ValueError("embedded null byte"), PinNotFoundError, "'{}' cannot be a path"),
        (PermissionError(errno.EACCES, "x"), PinPermissionError, "this user may not read {}"),
        (OSError(errno.EIO, "x"), StreamError, "{} is not a statistics stream"),
        (OSError(errno.ENXIO, "x"), StreamError, "{} is not a statistics stream"),
        (OSError(errno.EISDIR, "x"), StreamError, "{} is not a statistics stream"),
        (OSError(errno.ELOOP, "x"), StreamError, "{} is not a statistics stream"),
        (OSError(errno.EMFILE, "x"), MemcgError, "{} cannot be read"),
    ],
)
def test_a_failed_read_has_one_error_for_each_reason(
    error: Exception, kind: type[MemcgError], said: str
) -> None:
    found = _diagnosis.read_error(PATH, error)
    assert type(found) is kind and str(found).startswith(said.format(PATH))
    if isinstance(error, OSError):
        assert found.errno == error.errno


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.EPERM, PinPermissionError, "may not create or remove"),
        (errno.EROFS, PinPermissionError, "may not create or remove"),
        (errno.ENOENT, PinNotFoundError, "there is no pin"),
        (errno.ENOTEMPTY, MemcgError, "cannot be removed"),
    ],
)
def test_a_failed_removal_has_one_error_for_each_reason(
    number: int, kind: type[MemcgError], said: str
) -> None:
    found = _diagnosis.removal_error(PATH, OSError(number, "x"))
    assert (type(found), found.errno) == (kind, number) and said in str(found)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EMFILE, MemcgError),
        (errno.ENOMEM, MemcgError),
        (errno.EACCES, PinPermissionError),
        (errno.EROFS, PinPermissionError),
        (errno.ELOOP, PinPathError),
        (errno.ENOENT, PinPathError),
    ],
)
def test_a_path_that_cannot_be_looked_at_has_one_error_for_each_reason(
    number: int, kind: type[MemcgError]
) -> None:
    found = _diagnosis.place_error(PATH, "/sys/fs/bpf", OSError(number, "x"))
    assert type(found) is kind and errno_text(number) in str(found)
