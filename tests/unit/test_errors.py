# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The exceptions: what they are, what they carry, and that they survive pickling."""

from __future__ import annotations

import copy
import errno
import pickle
import re
from typing import Any

import pytest

import pymemcgbpf
from pymemcgbpf import errors
from pymemcgbpf.errors import MemcgError, is_transient

from ..docs.items import docs

EXPORTED = [
    value
    for name in pymemcgbpf.__all__
    if isinstance(value := getattr(pymemcgbpf, name), type) and issubclass(value, MemcgError)
]
# What each carries beside errno, call and log.
EXTRA: dict[type[MemcgError], dict[str, Any]] = {
    errors.UnknownItemError: {"item": "anonn", "suggestions": ("anon", "file")},
    errors.ItemUnavailableError: {"item_names": ("zswap", "hugetlb")},
    errors.TreeTooLargeError: {"rows": 12, "max_rows": 10},
}


def made(kind: type[MemcgError], **facts: Any) -> MemcgError:
    """One of its kind, with everything that it can carry."""
    error = kind("what went wrong", **EXTRA.get(kind, {}))
    for name, value in facts.items():
        setattr(error, name, value)
    return error


def test_all_errors_are_exported() -> None:
    assert {kind.__name__ for kind in EXPORTED} == set(errors.__all__)
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, MemcgError)
    }
    assert defined == set(errors.__all__)


def test_these_tests_know_every_error_with_attributes_of_its_own() -> None:
    assert {kind for kind in EXPORTED if "__init__" in vars(kind)} == {MemcgError, *EXTRA}


def test_every_error_can_be_caught_as_memcg_error_and_as_os_error() -> None:
    assert issubclass(MemcgError, OSError)
    assert [kind for kind in EXPORTED if not issubclass(kind, MemcgError)] == []


def test_some_errors_are_builtin_ones_too() -> None:
    cases: list[tuple[type[MemcgError], type[Exception]]] = [
        (errors.CgroupNotFoundError, FileNotFoundError),
        (errors.NotACgroupError, NotADirectoryError),
        (errors.ProcessNotFoundError, ProcessLookupError),
        (errors.CgroupPermissionError, PermissionError),
        (errors.BpfPermissionError, PermissionError),
        (errors.UnknownItemError, ValueError),
        (errors.ItemUnavailableError, LookupError),
        (errors.ClosedError, ValueError),
    ]
    for kind, builtin in cases:
        with pytest.raises(builtin, match="words"):
            raise kind("words")


def test_every_reason_against_bpf_has_one_base_class() -> None:
    cases: list[type[MemcgError]] = [
        errors.LibbpfNotFoundError,
        errors.LibbpfTooOldError,
        errors.BtfNotFoundError,
        errors.BpfPermissionError,
        errors.BpfObjectError,
        errors.VerifierError,
    ]
    for kind in cases:
        assert issubclass(kind, errors.BackendUnavailableError)


def test_an_error_of_the_cgroup_is_not_one_of_the_backend() -> None:
    cases: list[type[MemcgError]] = [
        errors.CgroupRemovedError,
        errors.MemoryControllerError,
        errors.TreeTooLargeError,
    ]
    for kind in cases:
        assert not issubclass(kind, errors.BackendUnavailableError)


def test_a_bare_error_has_no_errno_call_or_log() -> None:
    error = MemcgError("what went wrong")
    assert (error.errno, error.call, error.log) == (None, "", "")
    assert str(error) == "what went wrong"
    assert error.args == ("what went wrong",)


OWN_ERRNO = {
    "CgroupNotFoundError": "ENOENT",
    "NotACgroupError": "ENOTDIR",
    "CgroupPermissionError": "EACCES",
    "MemoryControllerError": "EOPNOTSUPP",
    "CgroupRemovedError": "ENODEV",
    "ProcessNotFoundError": "ESRCH",
    "UnknownItemError": "EINVAL",
    "ItemUnavailableError": "ENODATA",
    "BackendUnavailableError": "EOPNOTSUPP",
    "LibbpfNotFoundError": "EOPNOTSUPP",
    "LibbpfTooOldError": "EOPNOTSUPP",
    "BtfNotFoundError": "EOPNOTSUPP",
    "BpfPermissionError": "EPERM",
    "BpfObjectError": "EOPNOTSUPP",
    "VerifierError": "EOPNOTSUPP",
    "TreeTooLargeError": "ENOSPC",
    "ClosedError": "EBADF",
    "PinPathError": "EINVAL",
    "PinExistsError": "EEXIST",
    "PinNotFoundError": "ENOENT",
    "PinPermissionError": "EACCES",
    "StreamError": "EBADMSG",
}


def test_every_error_but_the_base_class_has_an_errno_where_no_call_failed() -> None:
    assert {kind.__name__ for kind in EXPORTED} == {*OWN_ERRNO, "MemcgError"}
    for kind in EXPORTED:
        name = OWN_ERRNO.get(kind.__name__)
        assert kind("x").errno == (getattr(errno, name) if name else None), kind
        assert kind("x").strerror is None
        if kind not in EXTRA:
            assert kind("x", errno=errno.EIO).errno == errno.EIO
        back = pickle.loads(pickle.dumps(kind("x")))
        assert back.errno == kind("x").errno
        assert not is_transient(kind("x")), "it decides nothing"


def test_the_page_of_errors_has_the_same_numbers() -> None:
    page = (docs() / "errors.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+Error)` \|[^|]*\| `(\w+)` \|", page, re.M))
    assert rows == OWN_ERRNO


def test_the_text_of_every_error_is_its_message_alone() -> None:
    for kind in EXPORTED:  # a builtin base could bring a __str__ of its own
        error = kind("%s {} two\nlines \N{SNOWMAN} \udce9")
        error.errno = 13
        assert str(error) == "%s {} two\nlines \N{SNOWMAN} \udce9", kind


def test_errno_does_not_change_the_class() -> None:
    cases: list[Any] = [None, 1, 2, 13, 4003]
    for number in cases:
        # OSError(13, ...) would become PermissionError.
        error = MemcgError("x", errno=number, call="bpf_object__load", log="a\nb\n")
        assert type(error) is MemcgError
        assert (error.errno, error.call, error.log) == (number, "bpf_object__load", "a\nb\n")


def test_errno_text_has_the_number() -> None:
    for number in (1, 13, 4003):
        assert errors.errno_text(number).endswith(f" ({number})")


def test_pickling_keeps_everything() -> None:
    cases: list[type[MemcgError]] = [MemcgError, errors.ClosedError, *EXTRA]
    for kind in cases:
        error = made(kind, errno=13, call="bpf_object__load", log="line\nline\n")
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is kind
        assert (str(back), back.args) == (str(error), error.args)
        assert (back.errno, back.call, back.log) == (13, "bpf_object__load", "line\nline\n")
        for name, value in EXTRA.get(kind, {}).items():
            assert getattr(back, name) == value
        assert vars(back) == vars(error)


def test_copies_keep_everything() -> None:
    cases: list[type[MemcgError]] = [MemcgError, *EXTRA]
    for kind in cases:
        error = made(kind, errno=2, call="open")
        for back in (copy.copy(error), copy.deepcopy(error)):
            assert type(back) is kind
            assert (str(back), back.errno, vars(back)) == (str(error), 2, vars(error))


def test_a_tree_too_large_error_has_its_numbers() -> None:
    error = errors.TreeTooLargeError("x", rows=12, max_rows=10)
    assert (error.rows, error.max_rows) == (12, 10)
    assert (errors.TreeTooLargeError("x").rows, errors.TreeTooLargeError("x").max_rows) == (0, 0)


def test_sequences_become_tuples() -> None:
    assert errors.ItemUnavailableError("x", item_names=["a", "b"]).item_names == ("a", "b")
    assert errors.UnknownItemError("x", suggestions=["a"]).suggestions == ("a",)


def test_errors_can_be_chained() -> None:
    with pytest.raises(MemcgError) as caught:
        try:
            raise FileNotFoundError(2, "No such file")
        except OSError as error:
            raise errors.CgroupNotFoundError("gone") from error
    assert isinstance(caught.value.__cause__, FileNotFoundError)
