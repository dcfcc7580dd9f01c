# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The exporter: real trees and pins over HTTP, compared with the files."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from pymemcgbpf import Backend

from .cgroups import EXACT_MIB, Worker, cgroup, enable_memory, fault_in
from .forest import Forest, settle
from .oracle import NO_LIMIT, everything
from .pins import Nobody
from .published import published
from .surroundings import HAS_ITERATOR, HIERARCHY

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
ITEMS = ("shmem", "memory.max", "memory.current")


class Served:
    """A server that has been started, and what a client gets from it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"serving http://127\.0\.0\.1:(\d+)/metrics\n", line)
        assert found is not None, process.communicate()
        self._port = int(found[1])

    def get(self, path: str, accept: str = "*/*") -> tuple[int, str]:
        """The status of an answer, and its text."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Accept": accept})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def samples(self, accept: str = "*/*") -> dict[str, str]:
        """The metrics: name and labels → number."""
        status, text = self.get("/metrics", accept)
        assert status == 200
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: line.rpartition(" ")[2] for line in lines}

    def end(self) -> str:
        """Ends it by SIGTERM; returns what it has written to stderr."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=60)
        assert (out, self.process.returncode) == ("", 0), err
        assert time.monotonic() - began < 5  # one second, on an idle machine without emulation
        return err


@contextlib.contextmanager
def serving(*words: object) -> Iterator[Served]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pymemcgbpf", "serve", "--listen", "127.0.0.1:0"]
        + [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Served(process)
    finally:
        process.kill()
        process.communicate()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


def test_the_metrics_of_a_tree_equal_its_files(tree_backend: Backend) -> None:
    with cgroup() as root, contextlib.ExitStack() as stack:
        enable_memory(root)
        paths = [root / name for name in ("a", "b")]
        for path in paths:
            path.mkdir()
            stack.enter_context(Worker(path, lambda: fault_in(EXACT_MIB, shared=True)))
            settle({path: EXACT_MIB})
        options = ("--backend", tree_backend, "--every", "60", "--leaves", "--exclude", "*/none")
        with serving(*options, root, *ITEMS) as served:
            found = [served.samples(accept) for accept in ("*/*", OPENMETRICS) for _ in range(20)]
            assert served.get("/healthz") == (200, "ok\n")
            said = served.end()
        # Without a cgroup iterator nobody waits for removals that have begun.
        assert said.count("\n") == (tree_backend != "text" and not HAS_ITERATOR), said
        assert not said or "removed cgroups are not counted: " in said
        for samples in found:
            assert samples == found[0]
            assert samples["pymemcgbpf_walks_total"] == "1"  # however many scrapes
        (backend,) = re.findall(r'_info\{backend="(.*?)"', " ".join(found[0]))
        assert backend == tree_backend
        for path in paths:
            files = everything(path)
            label = f'{{cgroup="/{root.name}/{path.name}"}}'
            assert files["memory.max"] == NO_LIMIT
            assert found[0][f"cgroup_memory_shmem_bytes{label}"] == str(files["shmem"])
            assert found[0][f"cgroup_memory_max_bytes{label}"] == "+Inf"
            assert files["shmem"] == EXACT_MIB
        assert found[0]["pymemcgbpf_cgroups"] == "3"
        assert found[0]["pymemcgbpf_cgroups_exported"] == "2"


def test_a_tree_that_is_removed_and_made_again_is_served_again() -> None:
    with cgroup() as root:
        enable_memory(root)
        path = root / "served"
        path.mkdir()
        with serving("--every", "0.05", path, *ITEMS) as served:
            label = f'cgroup_memory_max_bytes{{cgroup="/{root.name}/served"}}'
            assert served.samples()[label] == "+Inf"
            path.rmdir()
            wait_until(lambda: served.get("/healthz")[0] == 503)
            samples = served.samples()
            assert label not in samples and int(samples["pymemcgbpf_walk_errors_total"]) > 0
            path.mkdir()
            wait_until(lambda: served.get("/healthz")[0] == 200)
            assert served.samples()[label] == "+Inf"
            err = served.end()
        err = re.sub(".*removed cgroups are not counted: .*\n", "", err)
        assert err.count("\n") == 2 and str(path) in err


@pytest.mark.needs_iterator
def test_nobody_serves_a_pinned_tree(quiet: Forest, folder: Path, nobody: Nobody) -> None:
    code = "import sys; from pymemcgbpf._cli.main import main; sys.exit(main())"
    words = ("serve", "--listen", "127.0.0.1:0", folder / "served", "shmem")
    with published(quiet.root, folder / "served", ["shmem", "pgfault"], every=2):
        process = nobody.start(code, *words, hide=HIERARCHY)
        try:
            served = Served(process)
            samples = served.samples()
            age = time.time() - float(samples["pymemcgbpf_walk_timestamp_seconds"])
            assert served.end() == ""
        finally:
            process.kill()
            process.communicate()
    shown = {
        label: int(number)
        for label, number in samples.items()
        if label.startswith("cgroup_memory_shmem_bytes")
    }
    assert len(shown) == len(quiet.paths) and -1 < age < 30
    for leaf, size in quiet.shmem.items():
        end = f'/{quiet.paths[leaf].relative_to(quiet.root)}"}}'
        assert [number for label, number in shown.items() if label.endswith(end)] == [size]
