# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""A real Prometheus scrapes `serve`, and what it answers to PromQL is what the files show."""

from __future__ import annotations

import contextlib
import functools
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import pymemcgbpf
from pymemcgbpf import _openmetrics

from ..doc_examples import DOCS
from ..kernel.cgroups import MIB, Worker, cgroup, enable_memory, fault_in
from ..kernel.oracle import NO_LIMIT, V1_FILES, everything
from ..kernel.surroundings import BEST_BACKEND, VERSION
from ..unit.test_prometheus_files import OWN, commands, items_of
from .programs import INTERVAL, Prometheus, as_text, prometheus, serving, wait_until

FILES = DOCS / "prometheus"
IDS = [f"{digit}" * 64 for digit in "0123"]
UID, STATIC_UID = "01234567-89ab-cdef-0123-456789abcdef", "0123456789abcdef" * 2
PODS = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod"
POD = f"{PODS}{UID.replace('-', '_')}.slice"

# The cgroups with memory in them, and the labels that they must get.
LABELS = {
    "system.slice/cron.service": {"unit": "cron.service"},
    f"{POD}/cri-containerd-{IDS[0]}.scope": {
        "container_id": IDS[0],
        "runtime": "cri-containerd",
        "pod_uid": UID,
        "qos": "burstable",
        "unit": f"cri-containerd-{IDS[0]}.scope",
    },
    f"kubepods/besteffort/pod{UID}/{IDS[1]}": {
        "container_id": IDS[1],
        "pod_uid": UID,
        "qos": "besteffort",
    },
    f"kubepods.slice/kubepods-pod{STATIC_UID}.slice/crio-{IDS[2]}.scope": {
        "container_id": IDS[2],
        "runtime": "crio",
        "pod_uid": STATIC_UID,
        "unit": f"crio-{IDS[2]}.scope",
    },
    f"machine.slice/libpod-{IDS[3]}.scope": {
        "container_id": IDS[3],
        "runtime": "libpod",
        "unit": f"libpod-{IDS[3]}.scope",
    },
    f"machine.slice/libpod-conmon-{IDS[3]}.scope": {"unit": f"libpod-conmon-{IDS[3]}.scope"},
    "plain": {},
}
OTHERS = {
    POD: {"pod_uid": UID, "qos": "burstable", "unit": POD.rpartition("/")[2]},
    "system.slice": {"unit": "system.slice"},
}


class Scraped(NamedTuple):
    """What the tests look at: a tree of cgroups, and a Prometheus that knows it."""

    root: Path
    items: tuple[str, ...]
    prometheus: Prometheus

    def path(self, label: str) -> Path:
        """The directory of a cgroup, by its label."""
        return self.root.parent / label.lstrip("/")


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(cgroup())
        for number, name in enumerate(LABELS):
            at = root
            for part in Path(name).parts:
                enable_memory(at)
                at /= part
                at.mkdir(exist_ok=True)
            charge = functools.partial(fault_in, (number + 1) * MIB, shared=True)
            stack.enter_context(Worker(at, charge))
        limit = "memory.max" if VERSION == 2 else V1_FILES["memory.max"]
        (root / "plain" / limit).write_text(str(64 * MIB))
        items = items_here(root)
        (job,) = re.findall(r"- job_name: (\w+)", (FILES / "scrape.yml").read_text())
        address = stack.enter_context(serving("--every", str(INTERVAL), str(root), *items))
        text = stack.enter_context(as_text(address))
        folder = tmp_path_factory.mktemp("prometheus")
        targets = [(job, address), ("text", text)]
        running = stack.enter_context(prometheus(folder, FILES / "scrape.yml", targets))
        wait_until(lambda: running.number("sum(up)") == 2, "both are up")
        wait_until(lambda: len(running.vector("cgroup_memory_anon_bytes")) >= 4, "it was scraped")
        yield Scraped(root, items, running)


def items_here(root: Path) -> tuple[str, ...]:
    """The items of the unit that this machine has, and one that nothing but a test changes."""
    (words,) = commands(FILES / "pymemcgbpf-serve.service")
    here = everything(root / "plain")
    return ("shmem", *(item for item in items_of(words) if item in here))


def series_of(item: str) -> str:
    """The name of the series of an item."""
    ((_, sample, *_),) = _openmetrics.families_of((item,), "openmetrics")
    return sample


def number_of(item: str, value: int) -> float:
    """A number of a file as metrics have it."""
    if item == "memory.max" and value == NO_LIMIT:
        return float("inf")
    return value / 1e6 if item.startswith("memory.pressure.") else float(value)


@pytest.mark.parametrize("job", ["pymemcgbpf", "text"])
def test_each_number_is_that_of_the_file(job: str, scraped: Scraped) -> None:
    quiet = [f"/{scraped.root.name}/{name}" for name in LABELS]
    compared = 0

    def is_equal() -> bool:
        nonlocal compared
        compared = 0
        files = {label: everything(scraped.path(label)) for label in quiet}
        for item in scraped.items:
            found = scraped.prometheus.by_cgroup(f'{series_of(item)}{{job="{job}"}}')
            for label in quiet:
                if item in files[label]:
                    if found[label] != number_of(item, files[label][item]):
                        return False
                    compared += 1
        return True

    wait_until(is_equal, "all numbers are those of the files")
    assert compared > 8 * len(quiet)


def test_the_formats_are_openmetrics_and_text(scraped: Scraped) -> None:
    found = scraped.prometheus.get("targets/metadata", metric="cgroup_memory_shmem_bytes")
    units = {each["target"]["job"]: (each["type"], each["unit"]) for each in found}
    assert units == {"pymemcgbpf": ("gauge", "bytes"), "text": ("gauge", "")}


def test_memory_that_is_charged_is_seen_by_the_next_scrapes(scraped: Scraped) -> None:
    query = scraped.prometheus.number

    def charge() -> object:
        return fault_in(MIB, shared=True)

    with cgroup(scraped.root) as path:
        label = f"/{scraped.root.name}/{path.name}"
        name = f'cgroup_memory_shmem_bytes{{job="pymemcgbpf",cgroup="{label}"}}'
        with Worker(path, charge, charge) as worker:
            wait_until(lambda: query(name) == MIB, "1 MiB")
            worker.step()
            wait_until(lambda: query(name) == 2 * MIB, "2 MiB")
    wait_until(lambda: query(name) is None, "the series has ended with its cgroup")


def test_relabelling_names_units_containers_and_pods(scraped: Scraped) -> None:
    query = 'cgroup_memory_shmem_bytes{job="pymemcgbpf"}'
    prefix = f"/{scraped.root.name}/"
    found = {}
    for labels, _ in scraped.prometheus.vector(query):
        path = labels.pop("cgroup")
        for name in ("__name__", "instance", "job"):
            labels.pop(name)
        found[path.removeprefix(prefix)] = labels
    for name, expected in {**LABELS, **OTHERS}.items():
        assert found[name] == expected, name


def test_containers_add_up_and_the_hierarchy_counts_them_again(scraped: Scraped) -> None:
    sizes = {name: (number + 1) * MIB for number, name in enumerate(LABELS)}
    containers = sum(size for name, size in sizes.items() if "container_id" in LABELS[name])
    where = 'cgroup_memory_shmem_bytes{job="pymemcgbpf"'
    number = scraped.prometheus.number
    wait_until(
        lambda: number(f'sum({where},container_id!=""}})') == containers, "the sum of containers"
    )
    assert number(f'sum({where},cgroup=~"/[^/]+"}})') == sum(sizes.values())
    everywhere = number(f"sum({where}}})")
    assert everywhere is not None and everywhere > 2 * sum(sizes.values())


def test_the_program_tells_of_itself(scraped: Scraped) -> None:
    found = {
        labels["__name__"]: (labels, value)
        for labels, value in scraped.prometheus.vector(
            '{__name__=~"pymemcgbpf_.*",job="pymemcgbpf"}'
        )
    }
    assert {*found} == OWN - {"pymemcgbpf_walk_success"}
    assert found["pymemcgbpf_build_info"][0]["version"] == pymemcgbpf.__version__
    assert found["pymemcgbpf_backend_info"][0]["backend"] == BEST_BACKEND
    assert found["pymemcgbpf_walk_errors_total"][1] == 0
    assert 0 < found["pymemcgbpf_walk_duration_seconds"][1] < 1
    assert abs(time.time() - found["pymemcgbpf_walk_timestamp_seconds"][1]) < 10 * INTERVAL
    cgroups = found["pymemcgbpf_cgroups"][1]
    assert found["pymemcgbpf_cgroups_exported"][1] == cgroups > len(LABELS)


def test_there_is_one_walk_at_each_interval_however_many_scrape(scraped: Scraped) -> None:
    def walks() -> set[float]:
        return {value for _, value in scraped.prometheus.vector("pymemcgbpf_walks_total")}

    began, before = time.monotonic(), min(walks())
    wait_until(lambda: min(walks()) > before + 3, "there are walks")
    seconds = time.monotonic() - began
    assert max(walks()) - before <= seconds / INTERVAL + 2


def test_all_rules_can_be_evaluated(scraped: Scraped) -> None:
    def rules() -> list[dict[str, str]]:
        groups = scraped.prometheus.get("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    wait_until(lambda: {rule["health"] for rule in rules()} == {"ok"}, "all rules are ok")
    assert {rule["type"] for rule in rules()} == {"recording", "alerting"}
    plain = f'{{job="pymemcgbpf",cgroup="/{scraped.root.name}/plain"}}'
    ratio = f"cgroup:memory_working_set:ratio{plain}"
    wait_until(lambda: scraped.prometheus.number(ratio) is not None, "the share of a limit")
    share = scraped.prometheus.number(ratio) or 0
    assert share == pytest.approx(
        everything(scraped.root / "plain")["memory.current"] / (64 * MIB), rel=0.2
    )
    firing = scraped.prometheus.vector('ALERTS{alertstate="firing"}')
    assert [labels for labels, _ in firing if labels["alertname"].startswith("Pymemcgbpf")] == []


def test_a_target_that_cannot_read_has_no_old_numbers(tmp_path: Path) -> None:
    with (
        cgroup() as root,
        serving("--every", str(INTERVAL), str(root), "anon") as address,
        prometheus(tmp_path, FILES / "scrape.yml", [("pymemcgbpf", address)]) as running,
    ):

        def is_known() -> bool:
            return running.number("cgroup_memory_anon_bytes") is not None

        wait_until(is_known, "it is read")
        root.rmdir()
        wait_until(lambda: not is_known(), "it is gone")
        wait_until(lambda: (running.number("pymemcgbpf_walk_errors_total") or 0) > 0, "counted")
        assert running.number("up") == 1
        root.mkdir()
        wait_until(is_known, "it is back")


def test_the_link_of_the_page_leads_to_a_graph(scraped: Scraped) -> None:
    page = (DOCS / "prometheus.md").read_text(encoding="utf-8")
    (link,) = re.findall(r"\(http://localhost:9090(/\S+)\) \(", page)
    assert "Add Graph" in scraped.prometheus.page(link)


def test_the_fourth_command_of_the_page_adds_a_job_to_debians_configuration(tmp_path: Path) -> None:
    page = (DOCS / "prometheus.md").read_text(encoding="utf-8")
    (added,) = re.findall(r"^printf '(.*)' \| \\$", page, re.MULTILINE)
    debians = Path("/etc/prometheus/prometheus.yml").read_text(encoding="utf-8")
    (tmp_path / "prometheus.yml").write_text(debians + added.replace(r"\n", "\n"))
    ran = subprocess.run(
        ["promtool", "check", "config", "--syntax-only", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
