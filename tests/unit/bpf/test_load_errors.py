# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""What the exception for a failed load says."""

from __future__ import annotations

import errno

import pytest

from pymemcgbpf import BpfPermissionError, MemcgError, VerifierError
from pymemcgbpf._bpf import capabilities as _capabilities
from pymemcgbpf._bpf import load_errors as _load_errors

SENTENCE = "R1 type=scalar expected=ptr_, trusted_ptr_, rcu_ptr_"
VERIFIER_LOG = f"""libbpf: prog 'memcg_stream': BPF program load failed: Permission denied
libbpf: prog 'memcg_stream': -- BEGIN PROG LOAD LOG --
0: R1=ctx(off=0,imm=0) R10=fp0
; if (!cgrp) return 0;
10: (85) call bpf_get_mem_cgroup#91
{SENTENCE}
processed 11 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1 mark_read 1
-- END PROG LOAD LOG --
libbpf: prog 'memcg_stream': failed to load: -13
libbpf: failed to load object ''
"""
NO_LOG = "libbpf: prog 'memcg_stream': BPF program load failed: Operation not permitted\n"
EMPTY_LOG = (
    "libbpf: prog 'x': -- BEGIN PROG LOAD LOG --\n"
    "processed 0 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0\n"
    "-- END PROG LOAD LOG --\n"
)


@pytest.fixture(autouse=True)
def privileged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_capabilities, "missing", list)


@pytest.mark.parametrize(
    ("number", "log", "kind", "said"),
    [
        pytest.param(errno.EPERM, "", BpfPermissionError, "seccomp", id="EPERM"),
        pytest.param(errno.EPERM, NO_LOG, BpfPermissionError, "seccomp", id="EPERM, no log"),
        pytest.param(errno.EACCES, "", BpfPermissionError, "lockdown", id="EACCES"),
        pytest.param(errno.EACCES, EMPTY_LOG, BpfPermissionError, "lockdown", id="empty log"),
        pytest.param(errno.EACCES, VERIFIER_LOG, VerifierError, SENTENCE, id="EACCES, verifier"),
        pytest.param(errno.EINVAL, VERIFIER_LOG, VerifierError, SENTENCE, id="EINVAL, verifier"),
        pytest.param(errno.EINVAL, "", VerifierError, "no reason", id="EINVAL"),
        pytest.param(errno.E2BIG, VERIFIER_LOG, VerifierError, SENTENCE, id="E2BIG, verifier"),
        pytest.param(errno.ESRCH, "", VerifierError, "kernel function", id="ESRCH"),
        pytest.param(errno.ENOSYS, "", BpfPermissionError, "seccomp", id="ENOSYS"),
        pytest.param(errno.ENOMEM, "", MemcgError, "Cannot allocate", id="ENOMEM"),
        pytest.param(errno.EMFILE, "", MemcgError, "Too many open files", id="EMFILE"),
        pytest.param(4009, "", VerifierError, "4009", id="libbpf's own number"),
    ],
)
def test_a_failed_load_has_one_class_and_one_sentence(
    number: int, log: str, kind: type[MemcgError], said: str
) -> None:
    failure = MemcgError("libbpf failed", errno=number, call="bpf_object__load")
    error = _load_errors.load_error(failure, "/the/object", log)
    assert type(error) is kind
    assert said in str(error)
    assert "\n" not in str(error)
    assert (error.errno, error.call, error.log) == (number, "bpf_object__load", log)


def test_a_missing_kernel_function_is_not_called_a_missing_process() -> None:
    failure = MemcgError("libbpf failed", errno=errno.ESRCH, call="bpf_object__load")
    assert "process" not in str(_load_errors.load_error(failure, "/the/object", "")).lower()


def test_an_older_libbpf_that_may_not_list_btf_needs_cap_sys_admin() -> None:
    failure = MemcgError("libbpf failed", errno=errno.EPERM, call="bpf_object__load")
    log = "libbpf: failed to iterate BTF objects: -1\n"
    error = _load_errors.load_error(failure, "/the/object", log)
    assert isinstance(error, BpfPermissionError) and "CAP_SYS_ADMIN" in str(error)


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("", ""),
        (NO_LOG, ""),
        (EMPTY_LOG, ""),
        (VERIFIER_LOG, SENTENCE),
        (VERIFIER_LOG.partition("processed")[0], SENTENCE),
        (VERIFIER_LOG.replace("processed", "verification time 9 usec\nprocessed"), SENTENCE),
    ],
    ids=["none", "no log", "accounts only", "whole", "cut short", "with times"],
)
def test_the_verdict_is_the_last_line_before_the_statistics(log: str, sentence: str) -> None:
    assert _load_errors.verdict_of(log) == sentence
