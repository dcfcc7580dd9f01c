# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Calls of pins' functions. Type checkers must refuse each line with "# error", and accept all
others."""

from pathlib import Path
from typing import Union

from typing_extensions import assert_type

from pymemcgbpf import PinnedReader, Snapshot, pin, pin_tree, unpin

CGROUP, PIN = Path("/sys/fs/cgroup"), Path("/sys/fs/bpf/stats")

pin(CGROUP, PIN, ["anon"], order="pre", mode=0o440)
pin(CGROUP, PIN, order="prä")  # error
pin(CGROUP, PIN, mode="0440")  # error
pin(CGROUP, PIN, backend="core")  # error
pin(CGROUP)  # error
pin_tree(CGROUP, PIN, room=5000)
pin_tree(CGROUP, PIN, order="pre")  # error
unpin(PIN)
unpin(5)  # error

with PinnedReader(PIN) as reader:
    assert_type(reader, PinnedReader)
    found = reader.read()
    assert_type(found, Union[dict[str, int], Snapshot])
    found.column("anon")  # error
    found["anon"]  # error
    if isinstance(found, dict):
        assert_type(found["anon"], int)
    else:
        assert_type(found, Snapshot)
