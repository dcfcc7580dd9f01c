# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""pymemcgbpf serve, on fake cgroup directories and pins."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

import pymemcgbpf
from pymemcgbpf import MemcgError, TreeReader, _wire
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._cli import readers, serve
from pymemcgbpf._cli.walks import Walks

from ...published_tree import PublishedTree
from ..commands import TEXT, Captured, failed
from ..conftest import Choose, RunPython
from ..directories import make_v2
from ..pin_files import TREE, TREE_NAMES, pinned_file, pinned_tree, stream
from ..tree_rows import FakeTree, Trees, pack

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
PARSERS: dict[Optional[str], Any] = {None: parse_prometheus, OPENMETRICS: parse_openmetrics}


@pytest.fixture
def forest(tmp_path: Path) -> Path:
    """A root with the cgroups a and b."""
    root = make_v2(tmp_path / "root", kind=None, current=None)
    for name in ("a", "b"):
        make_v2(root / name)
    return root


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.01)


# --- what is served -----------------------------------------------------------------------


class Site:
    """What a walker shows."""

    def __init__(self, walker: serve._Walker) -> None:
        self.walker = walker

    def text(self, accept: Optional[str] = None) -> str:
        """/metrics, which is valid."""
        answer = self.walker.answer("/metrics", accept)
        assert answer is not None and answer.status == 200
        text = answer.body.decode()
        assert [*PARSERS[accept](text)]
        return text

    def own(self, name: str) -> Optional[float]:
        """One of the program's own metrics; None if it is not there."""
        found = re.search(f"^pymemcgbpf_{name} (.*)$", self.text(), re.MULTILINE)
        return None if found is None else float(found[1])

    def count(self, name: str) -> float:
        found = self.own(name)
        assert found is not None
        return found

    def unhealthy(self) -> str:
        """Why it is not healthy; "" if it is."""
        try:
            answer = self.walker.answer("/healthz", None)
        except MemcgError as error:
            return str(error)
        assert answer is not None and (answer.status, answer.body) == (200, b"ok\n")
        return ""


@contextlib.contextmanager
def walking(*words: object, every: float = 0.02) -> Iterator[Site]:
    options = serve._parser().parse_words([str(word) for word in words])
    walks = Walks(options, refuse_stale=True)
    with serve._Walker(walks, walks.read(), every) as walker:
        yield Site(walker)


@pytest.mark.parametrize("accept", PARSERS)
def test_both_formats_are_valid_and_have_the_cgroups_numbers(
    accept: Optional[str], forest: Path
) -> None:
    with walking(*TEXT, forest, "anon", "pgfault", "memory.current", every=60) as site:
        families = {family.name: family for family in PARSERS[accept](site.text(accept))}
    anon = families["cgroup_memory_anon_bytes"]
    assert {sample.labels["cgroup"]: sample.value for sample in anon.samples} == {
        "/": 4096,
        "/a": 4096,
        "/b": 4096,
    }
    values = {
        sample.name: (sample.labels, sample.value)
        for name, family in families.items()
        if name.startswith("pymemcgbpf_")
        for sample in family.samples
    }
    assert values.pop("pymemcgbpf_walk_duration_seconds")[1] > 0
    assert abs(values.pop("pymemcgbpf_walk_timestamp_seconds")[1] - time.time()) < 60
    assert values == {
        "pymemcgbpf_build_info": ({"version": pymemcgbpf.__version__}, 1),
        "pymemcgbpf_backend_info": ({"backend": "text", "transport": "text"}, 1),
        "pymemcgbpf_cgroups": ({}, 3),
        "pymemcgbpf_cgroups_exported": ({}, 3),
        "pymemcgbpf_walks_total": ({}, 1),
        "pymemcgbpf_walk_errors_total": ({}, 0),
    }
    assert all(family.documentation for family in families.values())


def test_promtool_accepts_the_text(forest: Path) -> None:
    with walking(*TEXT, forest, "*", every=60) as site:
        text = site.text()
    ran = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_one_walk_serves_all_scrapes_with_one_text_a_format(forest: Path) -> None:
    with walking(*TEXT, forest, "anon", every=60) as site:
        for accept in (None, OPENMETRICS):
            bodies = {id(site.walker.answer("/metrics", accept).body) for _ in range(50)}  # type: ignore[union-attr]
            assert len(bodies) == 1
        assert site.own("walks_total") == 1


def test_each_walk_shows_the_numbers_of_its_time(forest: Path) -> None:
    with walking(*TEXT, forest, "anon") as site:
        wait_for(lambda: site.count("walks_total") >= 3)
        (forest / "a" / "memory.stat").write_text("anon 8192\n")
        wait_for(lambda: '{cgroup="/a"} 8192\n' in site.text())
        assert site.unhealthy() == "" and site.own("walk_errors_total") == 0


def test_the_options_choose_the_cgroups(forest: Path) -> None:
    make_v2(forest / "a" / "c")
    cases: list[tuple[tuple[str, ...], list[str]]] = [
        (("--match", "/a*"), ["/a", "/a/c"]),
        (("--leaves",), ["/a/c", "/b"]),
        (("--leaves", "--depth", "1", "--exclude", "/b"), ["/a"]),
        (("--depth", "0"), ["/"]),
    ]
    for options, expected in cases:
        with walking(*TEXT, *options, forest, "anon", every=60) as site:
            assert re.findall('cgroup="(.*)"', site.text()) == expected
            assert site.own("cgroups_exported") == len(expected)


def test_pages_that_do_not_exist(forest: Path) -> None:
    with walking(*TEXT, forest, "anon", every=60) as site:
        index = site.walker.answer("/", None)
        assert index is not None and b'<a href="/metrics">' in index.body
        assert site.walker.answer("/metrics/", None) is None


# --- failures -----------------------------------------------------------------------------


def test_a_root_that_is_removed_and_made_again(forest: Path, capsys: Captured) -> None:
    with walking(*TEXT, forest, "anon") as site:
        began = site.own("walk_timestamp_seconds")
        shutil.copytree(forest, forest.parent / "again")
        shutil.rmtree(forest)
        wait_for(site.unhealthy)
        wait_for(lambda: site.count("walk_errors_total") >= 3)
        for accept in PARSERS:
            assert "cgroup_memory" not in site.text(accept)
        assert site.own("cgroups") is None and site.own("walk_duration_seconds") is None
        last = site.count("walk_timestamp_seconds")
        assert began is not None and began <= last < time.time()
        said = site.unhealthy()
        assert str(forest) in said
        (forest.parent / "again").rename(forest)
        wait_for(lambda: not site.unhealthy())
        assert site.own("cgroups") == 3 and site.count("walk_timestamp_seconds") > last
        assert site.count("walk_errors_total") < site.count("walks_total")
        assert 'cgroup_memory_anon_bytes{cgroup="/a"} 4096\n' in site.text()
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == "" and str(forest) in first and first.endswith(" (this is tried again)")
    assert second == "pymemcgbpf: all is well again"


def test_the_cgroup_of_a_process_is_looked_up_once(
    forest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [str(forest)]
    monkeypatch.setattr(_mounts, "cgroup_of", lambda pid: places.pop())
    with walking(*TEXT, "--pid", 1, "anon") as site:
        shutil.copytree(forest, forest.parent / "again")
        shutil.rmtree(forest)
        wait_for(site.unhealthy)
        (forest.parent / "again").rename(forest)
        wait_for(lambda: not site.unhealthy())
        assert "cgroup_memory_anon_bytes{" in site.text() and "pgfault" not in site.text()


def test_a_failure_of_any_kind_is_counted_and_passes(
    forest: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    failures: list[Exception] = [ZeroDivisionError("odd"), MemoryError()]
    real = TreeReader.read

    def read(self: TreeReader, **options: bool) -> Any:
        if failures and threading.current_thread().name == "walks":
            raise failures.pop()
        return real(self, **options)

    monkeypatch.setattr(TreeReader, "read", read)
    with walking(*TEXT, forest, "anon") as site:
        wait_for(lambda: site.count("walk_errors_total") == 2 and not site.unhealthy())
    err = capsys.readouterr().err
    assert err.startswith("pymemcgbpf: MemoryError") and err.count("\n") == 2


def test_a_walk_that_does_not_end_is_not_shown_for_ever(
    forest: Path, choose_with: Callable[[Choose], None]
) -> None:
    fake = FakeTree(pack(_wire.RawRow(1, 0, 0, 0, (5, 6))), 1)
    choose_with(Trees(fake).choose)
    with walking(forest, "anon", "pgscan", every=0.05) as site:
        wait_for(lambda: site.count("walks_total") >= 2)
        fake.hold = threading.Event()
        try:
            wait_for(lambda: "the next one does not end" in site.unhealthy())
            assert site.own("cgroups") is None
            assert site.own("walks_total") is not None
            fake.hold.set()
            wait_for(lambda: not site.unhealthy())
            assert site.own("cgroups") == 1
            fake.entered.clear()
            fake.hold.clear()
            assert fake.entered.wait(30)
            began = time.monotonic()
            site.walker.__exit__()
            assert time.monotonic() - began < 1 and fake.closes == 0
        finally:
            fake.hold.set()
        wait_for(lambda: not site.walker._thread.is_alive())


def test_patterns_that_choose_nothing_are_announced_once(forest: Path, capsys: Captured) -> None:
    options = serve._parser().parse_words([*TEXT, "--match", "a", str(forest), "anon"])
    walks = Walks(options, refuse_stale=True)
    try:
        for _ in range(3):
            own = walks.read().own
            assert (own.cgroups, own.exported) == (3, 0)
    finally:
        walks.close()
    err = capsys.readouterr().err
    assert err.startswith("pymemcgbpf: none of 3 cgroups is chosen: ") and err.count("\n") == 1


def test_the_words_mean_the_same_cgroup_for_ever(
    forest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cgroup's name may be an item's, too, as soon as there is no such directory any more."""
    monkeypatch.chdir(tmp_path)
    forest.rename("anon")
    options = serve._parser().parse_words([*TEXT, "anon", "pgfault"])
    walks = Walks(options, refuse_stale=True)
    try:
        assert walks.take().own.cgroups == 3
        walks.close()
        Path("anon").rename("away")
        for _ in range(2):
            failed_walk = walks.take()
            assert isinstance(failed_walk.error, MemcgError) and failed_walk.snapshot is None
            assert f"{tmp_path}/anon" in str(failed_walk.error)
        Path("away").rename("anon")
        monkeypatch.chdir("/")
        assert walks.take().own.cgroups == 3
    finally:
        walks.close()


def test_a_reader_that_has_changed_to_text_says_so_once(
    forest: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    class LosesRights(TreeReader):
        reads = 0

        def read(self, **options: bool) -> Any:
            self.reads += 1
            return super().read(**options)

        @property
        def fallback_reason(self) -> str:
            return "core: the rights are lost" if self.reads >= 2 else ""

    def make(*_: object) -> Any:
        return LosesRights(forest, ["anon"], backend="text")

    monkeypatch.setattr(readers, "tree_reader_of", make)
    with walking(forest) as site:
        wait_for(lambda: site.count("walks_total") >= 5)
    said = "pymemcgbpf: read as text instead of through BPF: core: the rights are lost\n"
    assert capsys.readouterr() == ("", said)


# --- pins ---------------------------------------------------------------------------------


def publish(path: Path, age: float = 0) -> Path:
    """Pins a tree whose last walk began some seconds ago, and one is due every second."""
    made = PublishedTree()
    made.publish(
        pack(*TREE), TREE_NAMES, started_ns=time.monotonic_ns() - round(age * 1_000_000_000)
    )
    return pinned_tree(path, made)


def test_a_pin_is_served_with_the_time_of_its_walk(bpffs: Path) -> None:
    with walking(publish(bpffs / "all", 1), "anon") as site:
        text = site.text()
        assert text.count("\ncgroup_memory_anon_bytes{") == 4 and "pgscan" not in text
        assert re.search('backend_info{backend="pin",transport=".+"} 1\n', text)
        assert 0.9 < time.time() - site.count("walk_timestamp_seconds") < 3


def test_a_stale_pin_is_not_shown_as_fresh(bpffs: Path, capsys: Captured) -> None:
    path = publish(bpffs / "all")
    with walking(path, "anon") as site:
        assert site.own("cgroups") == 4
        publish(path, 10)
        wait_for(site.unhealthy)
        assert "is stale: the last walk began 1" in site.unhealthy()
        assert site.own("cgroups") is None
        wait_for(lambda: time.time() - site.count("walk_timestamp_seconds") > 9)
        publish(path)
        wait_for(lambda: not site.unhealthy())
        assert site.own("cgroups") == 4
    assert capsys.readouterr().err.count("\n") == 2


def test_a_pin_that_is_removed_and_made_again(bpffs: Path, capsys: Captured) -> None:
    path = publish(bpffs / "all")
    with walking(path, "anon") as site:
        shutil.rmtree(path)
        wait_for(site.unhealthy)
        publish(path)
        wait_for(lambda: not site.unhealthy())
    assert capsys.readouterr().err.count("\n") == 2


def test_what_makes_no_pin_to_serve(bpffs: Path, capsys: Captured) -> None:
    listen = ("serve", "--listen", "127.0.0.1:0")
    nameless = str(pinned_file(bpffs / "nameless", stream(TREE, 2)))
    assert "nothing for the label cgroup" in failed(capsys, 1, *listen, nameless)
    path = str(publish(bpffs / "all"))
    assert "is stale" in failed(capsys, 1, *listen, str(publish(bpffs / "old", 10)))
    assert "does not have 'file'" in failed(capsys, 2, *listen, path, "file")
    assert "--no-flush cannot be used with a pin" in failed(capsys, 2, *listen, "--no-flush", path)
    short = PublishedTree(max_depth=1)
    short.publish(pack(*TREE[:3]), TREE_NAMES[:3])
    path = str(pinned_tree(bpffs / "short", short))
    said = failed(capsys, 2, *listen, "--depth", "2", path)
    assert said == f"pymemcgbpf: --depth 2 is more than {path} has, which is 1 (see --help)\n"


# --- the command --------------------------------------------------------------------------


class Program:
    """The command in a process of its own."""

    def __init__(self, *words: object, code: str = "", **environment: str) -> None:
        package = str(Path(pymemcgbpf.__file__).resolve().parents[1])
        start = ["-c", code] if code else ["-m", "pymemcgbpf"]
        self.process = subprocess.Popen(
            [sys.executable, *start, "serve", "--listen", "127.0.0.1:0", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "PYTHONPATH": package, **environment},
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        found = re.fullmatch(r"serving http://127\.0\.0\.1:(\d+)/metrics\n", self.line)
        self.port = int(found[1]) if found else 0

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def send(self, data: bytes) -> None:
        """Sends anything, and waits until the connection is closed."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        with made as connection, contextlib.suppress(ConnectionError):
            connection.sendall(data)
            with contextlib.suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def started() -> Iterator[Callable[..., Program]]:
    """Starts the command; it ends with the test."""
    programs: list[Program] = []

    def start(*words: object, **options: str) -> Program:
        programs.append(Program(*words, **options))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal(
    number: int, forest: Path, started: Callable[..., Program]
) -> None:
    program = started(*TEXT, "--every", "0.05", forest, "anon")
    assert program.port
    status, text = program.get("/metrics")
    assert status == 200 and 'cgroup_memory_anon_bytes{cgroup="/a"} 4096\n' in text
    assert program.get("/healthz") == (200, "ok\n")
    assert program.get("/none") == (404, "404 Not Found\n")
    shutil.rmtree(forest)
    wait_for(lambda: program.get("/healthz")[0] == 503)
    assert "cgroup_memory" not in program.get("/metrics")[1]
    slow = [socket.create_connection(("127.0.0.1", program.port)) for _ in range(3)]
    slow[0].sendall(b"GET /metr")
    began = time.monotonic()
    status, out, err = program.end(number)
    assert (status, out) == (0, "") and time.monotonic() - began < 1.5
    assert err.count("\n") == 1 and err.endswith("(this is tried again)\n")
    for connection in slow:
        connection.close()


def test_what_clients_send_is_written_nowhere(
    forest: Path, started: Callable[..., Program]
) -> None:
    program = started(*TEXT, forest, "anon")
    wait_for(lambda: program.get("/metrics")[0] == 200)
    threads, files = resources_of(program)
    garbage = [b"", b"\n", b"\xff\x00\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 100_000]
    garbage.append(b"GET /metrics HTTP/1.1\r\n: \xff\r\nAccept: \xff;q=\x00\r\n\r\n")
    for data in garbage * 10:
        program.send(data)
    assert program.get("/healthz") == (200, "ok\n")
    wait_for(lambda: resources_of(program)[0] <= threads and resources_of(program)[1] <= files)
    assert program.end() == (0, "", "")


def resources_of(program: Program) -> tuple[int, int]:
    """How many threads and descriptors it has."""
    folder = Path(f"/proc/{program.process.pid}")
    return len([*(folder / "task").iterdir()]), len([*(folder / "fd").iterdir()])


def test_a_signal_that_is_ignored_stays_ignored(
    forest: Path, started: Callable[..., Program]
) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from pymemcgbpf._cli.main import main; sys.exit(main())\n"
    )
    program = started(*TEXT, forest, "anon", code=code)
    program.process.send_signal(signal.SIGINT)
    assert program.get("/healthz") == (200, "ok\n")
    assert program.end() == (0, "", "")


def test_python_without_ctypes_serves_text(forest: Path, started: Callable[..., Program]) -> None:
    code = (
        "import sys; sys.modules['ctypes'] = sys.modules['_ctypes'] = None\n"
        "from pymemcgbpf._cli.main import main; sys.exit(main())\n"
    )
    program = started(*TEXT, forest, "anon", code=code)
    assert 'backend_info{backend="text",transport="text"} 1\n' in program.get("/metrics")[1]
    assert program.end() == (0, "", "")


def test_the_service_manager_is_told(
    forest: Path, tmp_path: Path, started: Callable[..., Program]
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        program = started(*TEXT, forest, "anon", NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert manager.recv(100) == b"READY=1"
        assert program.end() == (0, "", "")
        assert manager.recv(100) == b"STOPPING=1"


def test_a_service_manager_that_is_not_there_is_no_error(
    forest: Path, started: Callable[..., Program]
) -> None:
    program = started(*TEXT, forest, "anon", NOTIFY_SOCKET="@no such manager")
    assert program.end() == (0, "", "")


def test_what_cannot_be_served_is_one_line(forest: Path, tmp_path: Path, capsys: Captured) -> None:
    words = ("serve", *TEXT, "--listen", "127.0.0.1:0")
    assert "no such cgroup" in failed(capsys, 1, *words, str(tmp_path / "none"))
    assert "'annon'" in failed(capsys, 2, *words, str(forest), "annon")
    assert "is not HOST:PORT" in failed(capsys, 2, "serve", "--listen", "9753", str(forest))
    assert "is not a number of seconds" in failed(capsys, 2, *words, "--every", "0", str(forest))
    said = failed(capsys, 2, "serve", *TEXT, "--listen", "0.0.0.0:0", str(forest))
    assert "0.0.0.0:0 is not a loopback address: whoever can connect sees the names" in said
    with socket.create_server(("127.0.0.1", 0)) as other:
        at = f"127.0.0.1:{other.getsockname()[1]}"
        said = failed(capsys, 1, "serve", *TEXT, "--listen", at, str(forest))
    assert said == (
        f"pymemcgbpf: cannot listen on {at}: Address already in use: "
        "choose another address with --listen\n"
    )


def test_other_commands_import_no_server(run_python: RunPython) -> None:
    code = (
        "import sys; from pymemcgbpf._cli import main, stat, tree, watch, export, pin\n"
        "print({'http', 'socket', 'socketserver', 'email'} & set(sys.modules))"
    )
    assert run_python("-c", code).stdout == "set()\n"
