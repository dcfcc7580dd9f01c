# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Calls of pins' functions. Type checkers must refuse each line with "# error", and accept all
others."""

from pathlib import Path
from socket import socketpair
from typing import Optional, Union

from typing_extensions import assert_type

from pymemcgbpf import PinnedReader, PinnedTree, PinTransport, Snapshot, pin, pin_tree, unpin

CGROUP, PIN = Path("/sys/fs/cgroup"), Path("/sys/fs/bpf/stats")

pin(CGROUP, PIN, ["anon"], order="pre", mode=0o440)
pin(CGROUP, PIN, order="prä")  # error
pin(CGROUP, PIN, mode="0440")  # error
pin(CGROUP, PIN, backend="core")  # error
pin(CGROUP)  # error
pin_tree(CGROUP, PIN, room=5000)
assert_type(pin_tree(CGROUP, PIN, ["anon"], every=0.5, names=False), PinnedTree)
pin_tree(CGROUP, PIN, every="1 s")  # error
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
        assert_type(found.age, float)
    assert_type(reader.wait(), bool)
    reader.wait(0.5)
    reader.wait("soon")  # error
    assert_type(reader.interval, Optional[float])
    assert_type(reader.fallback_reason, str)
    reader.send_to(socketpair()[0])
    reader.send_to(5)  # error
    for each in reader.every(1):
        assert_type(each, Union[dict[str, int], Snapshot])

transport: PinTransport = "map"
PinnedReader(PIN, transport=transport)
PinnedReader(PIN, "map")  # error
PinnedReader(PIN, transport="shared")  # error
assert_type(PinnedReader.from_fd(5), PinnedReader)
PinnedReader.from_fd(PIN)  # error
