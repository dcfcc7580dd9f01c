# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""collector(), in the registries and expositions of the real prometheus_client."""

from __future__ import annotations

import errno
import gc
import logging
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
import warnings
from pathlib import Path
from typing import Any, Callable, Optional
from wsgiref.simple_server import make_server

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest, make_wsgi_app
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

import pymemcgbpf
from pymemcgbpf import (
    UNLIMITED,
    CgroupNotFoundError,
    ClosedError,
    Collector,
    ItemUnavailableError,
    MemcgError,
    PinNotFoundError,
    Snapshot,
    TreeReader,
    UnknownItemError,
    _openmetrics,
    collector,
    openmetrics,
)
from pymemcgbpf._cgroup import mounts as _mounts
from pymemcgbpf._options import Request
from pymemcgbpf._sources import choose as _choose

from ..published_tree import PublishedTree
from .children import ended
from .directories import make_v2
from .pin_files import ROW, TREE, TREE_NAMES, pinned_file, pinned_tree, published, stream
from .tree_rows import pack

# mypy has no types for it.
openmetrics_of: Callable[[Any], bytes] = exposition.generate_latest
WRITERS: dict[_openmetrics.Format, tuple[Callable[[Any], bytes], Any]] = {
    "openmetrics": (openmetrics_of, parse_openmetrics),
    "prometheus": (generate_latest, parse_prometheus),
}
OWN = (
    "pymemcgbpf_walk_success",
    "pymemcgbpf_walk_timestamp_seconds",
    "pymemcgbpf_walk_duration_seconds",
    "pymemcgbpf_backend_info",
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake tree of cgroups, the root of its hierarchy."""
    root = tmp_path / "root"
    services = ("system.slice/a.service", 'system.slice/b".service')
    for name in (".", "system.slice", *services, "user.slice"):
        path = make_v2(root / name)
        (path / "memory.max").write_text("4096\n" if name == "user.slice" else "max\n")
        (path / "memory.numa_stat").write_text("anon N0=4096 N1=8192\n")
        if name != "user.slice":
            lines = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234567\n"
            (path / "memory.pressure").write_text(lines + lines.replace("some", "full"))
    monkeypatch.setattr(_mounts, "hierarchy_root", lambda path: str(root))
    return root


ITEMS = [
    "anon",
    "pgfault",
    "memory.max",
    "memory.pressure.some.total",
    "memory.numa_stat.anon.N0",
    "memory.numa_stat.anon.N1",
]


def registered(found: Collector) -> CollectorRegistry:
    """A registry with a collector."""
    registry = CollectorRegistry()
    registry.register(found)
    return registry


def parsed(text: str, form: _openmetrics.Format = "openmetrics") -> dict[str, Any]:
    """The metrics of a text by their names, without those of walks."""
    families = {family.name: family for family in WRITERS[form][1](text)}
    return {name: family for name, family in families.items() if name not in OWN}


def labels_of(registry: CollectorRegistry, name: str = "cgroup_memory_anon_bytes") -> list[str]:
    """The label "cgroup" of each sample of a metric."""
    family = parsed(openmetrics_of(registry).decode())[name]
    return [sample.labels["cgroup"] for sample in family.samples]


@pytest.mark.parametrize("form", _openmetrics.FORMATS)
def test_an_exposition_has_the_metrics_of_openmetrics(
    form: _openmetrics.Format, tree: Path
) -> None:
    with collector(tree, ITEMS) as found, TreeReader(tree, ITEMS) as reader:
        text = WRITERS[form][0](registered(found)).decode()
        expected = openmetrics(reader.read(), format=form)
    assert parsed(text, form) == parsed(expected, form)
    assert len(parsed(text, form)) == len(ITEMS) - 1
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert {line for line in expected.splitlines() if line.startswith("#")} <= {*heads}


def test_values_are_exact_in_their_unit(tree: Path) -> None:
    with collector(tree, ITEMS) as found:
        registry = registered(found)

        def value(name: str, cgroup: str, **more: str) -> Optional[float]:
            return registry.get_sample_value(name, {"cgroup": cgroup, **more})

        service = "/system.slice/a.service"
        assert value("cgroup_memory_max_bytes", service) == float("inf")
        assert value("cgroup_memory_max_bytes", "/user.slice") == 4096
        seconds = "cgroup_memory_pressure_some_seconds_total"
        assert value(seconds, service) == 1.234567
        assert value("cgroup_memory_numa_stat_anon_bytes", service, node="1") == 8192
        assert value(seconds, "/user.slice") is None  # it has no such file
        (tree / "user.slice" / "memory.max").write_text(f"{UNLIMITED - 1}\n")
        samples = {family.name: family.samples for family in found.collect()}
        (largest,) = [
            sample.value
            for sample in samples["cgroup_memory_max_bytes"]
            if sample.labels["cgroup"] == "/user.slice"
        ]
        assert largest == UNLIMITED - 1 and isinstance(largest, int)


def test_to_register_reads_nothing_and_tells_the_names(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = CollectorRegistry()
    with collector(tree, ["anon", "pgfault"]) as found:
        monkeypatch.setattr(Collector, "_read", None)
        registry.register(found)
        for name in ("cgroup_memory_anon_bytes", "cgroup_memory_pgfault_total", *OWN):
            with pytest.raises(ValueError, match="Duplicated timeseries"):
                Gauge(name, "another", registry=registry)
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            registry.register(found)
        registry.unregister(found)
        Gauge("cgroup_memory_anon_bytes", "another", registry=registry)


def test_a_restricted_registry_makes_only_what_it_needs(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = _openmetrics.present

    def present(snapshot: Any, name: str, *rest: Any) -> Any:
        made.append(name)
        return real(snapshot, name, *rest)

    monkeypatch.setattr(_openmetrics, "present", present)
    with collector(tree, ["anon", "pgfault"]) as found:
        registry = registered(found)
        wanted = ["cgroup_memory_pgfault_total", "pymemcgbpf_walk_success", "another"]
        text = generate_latest(registry.restricted_registry(wanted)).decode()
        families = {family.name: family for family in parse_prometheus(text)}
        assert families.keys() == {"cgroup_memory_pgfault", "pymemcgbpf_walk_success"}
        assert len(families["cgroup_memory_pgfault"].samples) == 5
        assert made == ["pgfault"]


def test_a_request_of_names_and_of_a_format(tree: Path) -> None:
    with collector(tree, ["anon", "pgfault"]) as found:
        app = make_wsgi_app(registered(found))
        said: list[Any] = []
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": "/metrics",
            "QUERY_STRING": "name[]=cgroup_memory_anon_bytes",
            "HTTP_ACCEPT": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
        }
        (text,) = app(environ, lambda *head: said.append(head))
        assert said[0][0] == "200 OK"
        assert [*parsed(text.decode())] == ["cgroup_memory_anon_bytes"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"match": ["/system.slice/*"]}, ["/system.slice/a.service", '/system.slice/b".service']),
        ({"match": ["*.slice"], "exclude": ["/user*"]}, ["/system.slice"]),
        ({"leaves": True, "exclude": ["*b*"]}, ["/system.slice/a.service", "/user.slice"]),
        ({"max_depth": 0}, ["/"]),
        ({"max_depth": 1, "leaves": True}, ["/system.slice", "/user.slice"]),
    ],
)
def test_some_of_the_cgroups(options: dict[str, Any], expected: list[str], tree: Path) -> None:
    with collector(tree, ["anon"], **options) as found:
        assert sorted(labels_of(registered(found))) == sorted(expected)


def test_without_a_path_it_is_the_visible_hierarchy(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_mounts, "own_cgroup", lambda: str(tree / "user.slice"))
    with collector(items=["anon"]) as found:
        assert found.path == str(tree) and len(labels_of(registered(found))) == 5
        assert str(found) == repr(found) == f"<Collector {str(tree)!r} 1 items>"
    assert repr(found) == f"<Collector {str(tree)!r} closed>"


def test_its_reader_says_why_it_reads_text(tree: Path) -> None:
    with collector(tree, ["anon"]) as found, TreeReader(tree, ["anon"]) as reader:
        assert found.fallback_reason == reader.fallback_reason != ""
    assert found.fallback_reason == ""


def test_how_it_reads_is_a_metric_and_text_is_logged_once(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with collector(tree, ["anon"]) as found:
        registry = registered(found)
        labels = {"backend": "text", "transport": "text"}
        for _ in range(2):
            assert registry.get_sample_value("pymemcgbpf_backend_info", labels) == 1
        reason = found.fallback_reason
    assert caplog.messages == [f"the cgroups of {tree} are read as text: {reason}"]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (["/nonexistent"], {}, CgroupNotFoundError, "/nonexistent"),
        ([None, ["anom"]], {}, UnknownItemError, "anom"),
        ([None, "anon"], {}, TypeError, "items must be a list of names"),
        ([None, []], {}, ValueError, "items is empty"),
        ([], {"match": "*.service"}, TypeError, r"match must be a list of patterns, not the sing"),
        ([], {"exclude": [1]}, TypeError, r"exclude must be patterns \(str\), not 1"),
        ([], {"max_depth": -1}, ValueError, "max_depth must be at least 0"),
        ([], {"backend": "best"}, ValueError, "backend must be one of"),
    ],
)
def test_what_is_wrong_at_first_is_an_error(
    arguments: list[Any], options: dict[str, Any], error: Any, message: str, tree: Path
) -> None:
    if arguments[:1] == [None]:
        arguments[0] = tree
    with pytest.raises(error, match=message):
        collector(*(arguments or [tree]), **options)


# --- a walk that fails


def test_a_scrape_without_the_cgroup_tells_so_and_later_ones_recover(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    walked = tree / "system.slice"
    caplog.set_level(logging.INFO, "pymemcgbpf")
    with collector(walked, ["anon"]) as found:
        registry = registered(found)
        Gauge("another", "of the application", registry=registry).set(7)
        assert len(labels_of(registry)) == 3
        caplog.clear()
        shutil.rmtree(walked)
        for _ in range(2):
            text = openmetrics_of(registry).decode()
            assert parsed(text).keys() == {"another"}
            assert "\npymemcgbpf_walk_success 0.0\n" in text and "timestamp" not in text
        (record,) = caplog.records
        assert record.name == "pymemcgbpf" and record.levelno == logging.WARNING
        assert record.getMessage().startswith(f"the cgroups of {walked} cannot be read: ")
        assert "no such cgroup" in record.getMessage()
        make_v2(walked, stat="anon 65536\n")
        assert (
            registry.get_sample_value("cgroup_memory_anon_bytes", {"cgroup": "/system.slice"})
            == 65536
        )
        assert registry.get_sample_value("pymemcgbpf_walk_success") == 1
        assert caplog.messages[1:] == [f"the cgroups of {walked} can be read again"]


@pytest.mark.parametrize(
    ("error", "readers"),
    [
        (MemcgError("short", errno=errno.EMFILE), 1),
        (MemcgError("this reader is reading already"), 1),
        (MemcgError("closed by other code", errno=errno.EBADF), 3),
        (CgroupNotFoundError("gone"), 3),
    ],
)
def test_a_shortage_of_the_moment_keeps_the_reader(
    error: MemcgError, readers: int, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = _choose.choose

    def choose(cgroup: Any, request: Request, factory: Any) -> Any:
        made.append(request)
        return real(cgroup, request, factory)

    def refuse(self: Any, *, copy: bool = True) -> Any:
        raise error

    monkeypatch.setattr(_choose, "choose", choose)
    with collector(tree, ["anon"]) as found, monkeypatch.context() as patch:
        registry = registered(found)
        patch.setattr(TreeReader, "read", refuse)
        assert registry.get_sample_value("pymemcgbpf_walk_success") == 0
        assert registry.get_sample_value("pymemcgbpf_walk_success") == 0
        patch.undo()
        assert registry.get_sample_value("pymemcgbpf_walk_success") == 1
    assert len(made) == readers


def test_a_closed_collector_says_so(tree: Path) -> None:
    with collector(tree, ["anon"]) as found:
        registry = registered(found)
    found.close()
    with pytest.raises(ClosedError, match=f"this collector of {tree} is closed"):
        generate_latest(registry)
    registry.unregister(found)
    assert generate_latest(registry) == b""


def test_a_registry_that_forgets_it_closes_its_reader(tree: Path) -> None:
    registry = registered(collector(tree, ["anon"]))
    del registry
    gc.collect()  # the fixture looks for open files


def test_a_collector_that_is_forgotten_warns_of_no_reader(tree: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = collector(tree, ["anon"])
        assert found._reader is not None and found._reader._closed_by is None


def test_close_in_a_signal_handler_ends_a_scrape_and_leaves_no_reader(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = collector(tree, ["anon"])
    real = TreeReader.read

    def closes(self: Any, *, copy: bool = True) -> Any:
        found.close()
        return real(self, copy=copy)

    monkeypatch.setattr(TreeReader, "read", closes)
    with pytest.raises(ClosedError, match=f"this collector of {tree} is closed"):
        found.collect()
    assert found._reader is None


def test_close_while_a_new_reader_is_created_leaves_none(tree: Path) -> None:
    found = collector(tree, ["anon"])
    assert found._reader is not None
    found._reader.close()
    made = []
    real = found._open_reader

    def closes() -> Any:
        made.append(real())
        found.close()
        return made[0]

    found._open_reader = closes
    with pytest.raises(ClosedError, match=f"this collector of {tree} is closed"):
        found.collect()
    with pytest.raises(ClosedError):
        made[0].read()
    assert found._reader is None


def test_labels_that_cannot_be_found_are_a_failed_walk(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise MemcgError("no descriptor is free", errno=errno.EMFILE)

    with collector(tree, ["anon"]) as found:
        monkeypatch.setattr(_openmetrics, "label_values", refuse)
        assert registered(found).get_sample_value("pymemcgbpf_walk_success") == 0


# --- pins


@pytest.fixture
def pinned(bpffs: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pinned tree whose root's path is that of the fake tree."""
    monkeypatch.setattr(_mounts, "find_cgroup", lambda cgroup_id: (str(tree), 1))
    return pinned_tree(bpffs / "all", published())


NAMED = ["", "/one.service", "/two.slice", "/two.slice/three.service"]


def test_a_pin_is_read_as_it_is(pinned: Path) -> None:
    with collector(pinned) as found:
        registry = registered(found)
        labels = labels_of(registry)
        assert [label.rpartition("/")[2] for label in labels[1:]] == [
            name.rpartition("/")[2] for name in NAMED[1:]
        ]
        value = registry.get_sample_value("cgroup_memory_pgscan_total", {"cgroup": labels[3]})
        assert value == 3
        assert (registry.get_sample_value("pymemcgbpf_walk_timestamp_seconds") or 0) > 0


def test_some_of_a_pins_items_and_cgroups(pinned: Path) -> None:
    with collector(pinned, ["pgsc*"], leaves=True, max_depth=1) as found:
        registry = registered(found)
        assert [*parsed(openmetrics_of(registry).decode())] == ["cgroup_memory_pgscan"]
        labels = labels_of(registry, "cgroup_memory_pgscan")
        assert [label.rpartition("/")[2] for label in labels] == ["one.service", "two.slice"]


def test_a_pin_that_comes_back_is_read_again(pinned: Path) -> None:
    with collector(pinned, ["anon"]) as found:
        registry = registered(found)
        assert len(labels_of(registry)) == 4
        shutil.rmtree(pinned)
        assert registry.get_sample_value("pymemcgbpf_walk_success") == 0
        # Of other items: the reader of before could not read it.
        tree = PublishedTree(items=(51, 1))
        tree.publish(pack(*TREE), TREE_NAMES)
        pinned_tree(pinned, tree)
        assert registry.get_sample_value("pymemcgbpf_walk_success") == 1
        assert len(labels_of(registry)) == 4
        shutil.rmtree(pinned)


def test_a_pin_that_nobody_refreshes_is_a_failed_walk(
    pinned: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with collector(pinned) as found:
        registry = registered(found)
        for age, success in ((2.9, 1), (3.1, 0), (1e6, 0), (0.1, 1)):
            monkeypatch.setattr(Snapshot, "age", age)
            assert registry.get_sample_value("pymemcgbpf_walk_success") == success
            text = openmetrics_of(registry).decode()
            assert (len(parsed(text)) > 0) == bool(success)
    (record,) = caplog.records
    said = "is stale: the last walk began 3 s ago, and one was due every 1 s"
    assert record.getMessage().endswith(said)


@pytest.mark.parametrize("options", [{"flush": False}, {"backend": "text"}])
def test_what_a_pin_has_no_choice_of_is_refused(options: dict[str, Any], pinned: Path) -> None:
    with pytest.raises(ValueError, match="flush and backend cannot be chosen for a pin"):
        collector(pinned, **options)


def test_a_pin_without_the_item_a_missing_pin_and_a_pin_of_one_cgroup(
    pinned: Path, bpffs: Path
) -> None:
    with pytest.raises(ItemUnavailableError, match="does not have 'file'; it has anon, pgscan"):
        collector(pinned, ["anon", "file"])
    with pytest.raises(PinNotFoundError):
        collector(bpffs / "none")
    pinned_file(bpffs / "one", stream([ROW]))
    with pytest.raises(MemcgError, match="shows one cgroup and no tree"):
        collector(bpffs / "one")


def test_a_pin_that_names_nothing_here_is_a_failed_walk(
    bpffs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pinned_file(bpffs / "nameless", stream(TREE, order=2))
    with collector(bpffs / "nameless") as found:
        assert registered(found).get_sample_value("pymemcgbpf_walk_success") == 0
    assert "pin with names" in caplog.text


# --- threads and processes


def test_threads_scrape_at_once(tree: Path) -> None:
    texts: list[str] = []
    with collector(tree, ["anon", "pgfault"]) as found:
        registry = registered(found)

        def scrape() -> None:
            for _ in range(20):
                texts.append(generate_latest(registry).decode())

        threads = [threading.Thread(target=scrape) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    metrics = {text.partition("# HELP cgroup")[2] for text in texts}
    assert len(texts) == 120 and len(metrics) == 1 and metrics != {""}


def test_a_child_after_fork_scrapes_while_a_thread_of_the_parent_did(tree: Path) -> None:
    with collector(tree, ["anon"]) as found:
        registry = registered(found)
        locked, release = threading.Event(), threading.Event()

        def hold() -> None:
            with found._lock:
                locked.set()
                release.wait()

        holder = threading.Thread(target=hold)
        holder.start()
        locked.wait()
        try:

            def scrape() -> None:
                assert len(labels_of(registry)) == 5

            assert ended(scrape) == 0
        finally:
            release.set()
            holder.join()


def test_a_web_server_answers_with_it(tree: Path) -> None:
    with collector(tree, ["anon"]) as found:
        app = make_wsgi_app(registered(found))
        with make_server("127.0.0.1", 0, app) as server:
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            url = f"http://127.0.0.1:{server.server_port}/metrics"
            with urllib.request.urlopen(url, timeout=30) as answer:
                text = answer.read().decode()
            thread.join()
    assert len(parsed(text, "prometheus")["cgroup_memory_anon_bytes"].samples) == 5


# --- the package


def test_it_needs_nothing_of_prometheus_client(tree: Path) -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "import logging, pymemcgbpf\n"
        "logging.getLogger('pymemcgbpf').setLevel('ERROR')  # it says that text is read\n"
        "with pymemcgbpf.collector(sys.argv[1], ['anon']) as found:\n"
        "    print(sum(len(family.samples) for family in found.collect()))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tree)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(pymemcgbpf.__file__).parents[1])},
    )
    assert (ran.stdout, ran.stderr) == ("9\n", "")


def test_a_collector_of_a_pin_needs_neither_ctypes_nor_bpf(pinned: Path) -> None:
    code = (
        "import sys; sys.modules['ctypes'] = sys.modules['_ctypes'] = None\n"
        "import pymemcgbpf\n"
        "from pymemcgbpf._pins import bpffs\n"
        "bpffs.is_on_bpffs = lambda status, path: True\n"
        "with pymemcgbpf.collector(sys.argv[1]) as found:\n"
        "    print(len(list(found.collect())), found.fallback_reason != '')\n"
        "print([name for name in sys.modules if name.startswith('pymemcgbpf._bpf')])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(pinned)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(pymemcgbpf.__file__).parents[1])},
    )
    assert (ran.stdout, ran.stderr) == ("6 True\n[]\n", "")


def test_its_samples_have_the_fields_of_the_librarys(tree: Path) -> None:
    with collector(tree, ["anon"]) as found:
        for family in found.collect():
            for sample in family.samples:
                real = prometheus_client.samples.Sample._fields
                assert sample._fields[: len(real)] == real  # an older one has no histograms
                assert prometheus_client.samples.Sample(*sample[: len(real)]) == sample[: len(real)]
