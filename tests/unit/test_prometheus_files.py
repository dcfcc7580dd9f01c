# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The files of docs/prometheus and the queries of docs/prometheus.md.

tests/systems runs them: a Prometheus with these rules, and the commands of the units.
"""

from __future__ import annotations

import configparser
import itertools
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pymemcgbpf import _openmetrics
from pymemcgbpf._cli import main
from pymemcgbpf._items import CATALOGUE, members

from ..doc_examples import DOCS

FILES = DOCS / "prometheus"
UNITS = sorted(FILES.glob("*.service"))
PAGE = (DOCS / "prometheus.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((FILES / "dashboard.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((FILES / "rules.yml").read_text(encoding="utf-8"))
MANIFEST = [*yaml.safe_load_all((FILES / "kubernetes.yaml").read_text(encoding="utf-8"))]

PORT = "10753"

# What the program says of itself; tests/systems compares them with what is scraped.
OWN = {
    *("pymemcgbpf_build_info", "pymemcgbpf_backend_info", "pymemcgbpf_walk_success"),
    *("pymemcgbpf_walk_timestamp_seconds", "pymemcgbpf_walk_duration_seconds"),
    *("pymemcgbpf_cgroups", "pymemcgbpf_cgroups_exported"),
    *("pymemcgbpf_walks_total", "pymemcgbpf_walk_errors_total"),
    "pymemcgbpf_departed_lost_total",
}
DEPARTED = {"cgroup_departed_total", "cgroup_departed_oom_kills_total"}
ALL_RULES = [rule for group in RULES["groups"] for rule in group["rules"]]
RECORDED = {rule["record"] for rule in ALL_RULES if "record" in rule}
ALERTS = {rule["alert"] for rule in ALL_RULES if "alert" in rule}
FOREIGN = {"up", "kube_pod_info", "kube_pod_container_info"}


def metrics_of(items: Iterator[str]) -> set[str]:
    """The names of the samples of items."""
    return {family.sample for family in _openmetrics.families_of(tuple(items), "openmetrics")}


KNOWN = metrics_of(iter(CATALOGUE))


def promtool(*arguments: str) -> None:
    """Runs promtool, which must be content."""
    ran = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# --- queries


def queries() -> dict[str, str]:
    """All queries by where they stand, as Prometheus takes them."""
    found = {}
    for rule in ALL_RULES:
        found[f"rules.yml: {rule.get('record') or rule['alert']}"] = rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "5m")
            place = f"dashboard.json: {panel['title']} {target['refId']}"
            found[place] = text.replace("$instance", ".+").replace("$cgroup", ".+")
    blocks = re.findall(r"^ *```promql\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `(?:container|pod)_.* \| `(.*)` \|$", PAGE, re.MULTILINE)
    for number, text in enumerate([*blocks, *rows]):
        found[f"prometheus.md: {number}"] = text
    assert len(blocks) == 5 and len(rows) == 16
    return found


QUERIES = queries()


def names_in(query: str) -> set[str]:
    """The names of metrics in a query."""
    without = re.sub(r'"(?:\\.|[^"\\])*"|\{[^}]*\}|\[[^]]*\]', " ", query)
    without = re.sub(r"\b(?:on|by|unless on|group_left)\s*\([^)]*\)", " ", without)
    return set(
        re.findall(r"\b(?:cgroup|instance|pymemcgbpf|kube)[_:][a-zA-Z0-9_:]+|\bup\b", without)
    )


def test_prometheus_parses_all_queries(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:number{number}", "expr": query}
        for number, query in enumerate(QUERIES.values())
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", str(file))


@pytest.mark.parametrize("place", QUERIES)
def test_a_query_uses_metrics_that_there_are(place: str) -> None:
    names = names_in(QUERIES[place])
    assert names and names <= KNOWN | OWN | DEPARTED | RECORDED | FOREIGN


def test_the_page_names_all_metrics_of_the_program_and_all_alerts() -> None:
    assert set(re.findall(r"\bpymemcgbpf_[a-z_]+", PAGE)) == OWN
    assert set(re.findall(r"\bcgroup_departed_[a-z_]+", PAGE)) == DEPARTED
    assert set(re.findall(r"^\| `([A-Z]\w+)` \|", PAGE, re.MULTILINE)) == ALERTS


# --- rules and configuration


def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(FILES / "rules.yml"))
    promtool("check", "config", "--lint=all", "--lint-fatal", str(FILES / "scrape.yml"))


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    """A series of promtool's unit tests."""
    text = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return {"series": f"{name}{{{text}}}", "values": values}


WEB, OLD = {"cgroup": "/web", "instance": "a"}, {"cgroup": "/web", "instance": "old"}


def fires(
    alert: str, minute: int, *inputs: dict[str, str], labels: dict[str, str]
) -> dict[str, Any]:
    """A test of promtool: an alert fires at a minute, for one series alone."""
    severity = "info" if alert == "PymemcgbpfReadsText" else "warning"
    own = {"alertname": alert, "alertstate": "firing", "severity": severity}
    sample = {"labels": series("ALERTS", "", **own, **labels)["series"], "value": 1}
    return _test(alert, minute, inputs, [sample])


def is_quiet(alert: str, minute: int, *inputs: dict[str, str]) -> dict[str, Any]:
    """A test of promtool: an alert does not fire."""
    return _test(alert, minute, inputs, [])


def _test(alert: str, minute: int, inputs: Any, samples: list[Any]) -> dict[str, Any]:
    expression = f'ALERTS{{alertname="{alert}",alertstate="firing"}}'
    expected = {"expr": expression, "eval_time": f"{minute}m", "exp_samples": samples}
    return {"interval": "1m", "input_series": [*inputs], "promql_expr_test": [expected]}


LOCAL_KILLS, KILLS = (f"cgroup_memory_events_{local}oom_kill_total" for local in ("local_", ""))
SET, LIMIT = "cgroup_memory_derived_working_set_bytes", "cgroup_memory_max_bytes"
STALLED, ERRORS = "cgroup_memory_pressure_full_seconds_total", "pymemcgbpf_walk_errors_total"
LOST = "pymemcgbpf_departed_lost_total"
TIME, BACKEND = "pymemcgbpf_walk_timestamp_seconds", "pymemcgbpf_backend_info"
GONE, GONE_KILLS = "cgroup_departed_total", "cgroup_departed_oom_kills_total"
PARENT = {"cgroup": "/", "instance": "a"}
JOB = {"job": "pymemcgbpf", "instance": "a"}

TESTS = [
    # A kill fires for the cgroup where it was, not for those above it.
    fires(
        "CgroupOomKill",
        6,
        series(LOCAL_KILLS, "0 0 0 0 1 1 1", **WEB),
        series(KILLS, "0 0 0 0 1 1 1", **WEB),
        series(LOCAL_KILLS, "0x6", **PARENT),
        series(KILLS, "0 0 0 0 1 1 1", **PARENT),
        labels=WEB,
    ),
    # Also on a machine without local events, beside one that has them.
    fires(
        "CgroupOomKill",
        6,
        series(LOCAL_KILLS, "0x6", **WEB),
        series(KILLS, "0x6", **WEB),
        series(KILLS, "0 0 0 0 2 2 2", **OLD),
        labels=OLD,
    ),
    # A cgroup that is removed at once: the deepest that is left fires, beside others that have
    # local events, and neither the one above it nor one beside it.
    fires(
        "CgroupOomKill",
        6,
        series(LOCAL_KILLS, "0 0 0 0", cgroup="/pods/web/gone", instance="a"),
        series(KILLS, "0 0 0 0", cgroup="/pods/web/gone", instance="a"),
        series(LOCAL_KILLS, "0x6", cgroup="/pods/web", instance="a"),
        series(KILLS, "0 0 0 0 1 1 1", cgroup="/pods/web", instance="a"),
        series(KILLS, "0x6", cgroup="/pods/other", instance="a"),
        series(LOCAL_KILLS, "0x6", cgroup="/pods", instance="a"),
        series(KILLS, "0 0 0 0 1 1 1", cgroup="/pods", instance="a"),
        series(KILLS, "0 0 0 0 1 1 1", **PARENT),
        labels={"cgroup": "/pods/web", "instance": "a"},
    ),
    # A first sample that is 1 already has not risen; only a cgroup above it has.
    is_quiet(
        "CgroupOomKill",
        6,
        series(LOCAL_KILLS, "_ _ 1x4", **WEB),
        series(KILLS, "_ _ 1x4", **WEB),
    ),
    fires(
        "CgroupOomKill",
        6,
        series(KILLS, "_ _ _ _ 1 1 1", cgroup="/pods/new", instance="a"),
        series(KILLS, "0 0 0 0 1 1 1", cgroup="/pods", instance="a"),
        labels={"cgroup": "/pods", "instance": "a"},
    ),
    is_quiet("CgroupOomKill", 20, series(LOCAL_KILLS, "0 1 1x20", **WEB)),
    # Kills in removed cgroups: the deepest above them that is left fires, and no cgroup above it.
    fires(
        "CgroupDepartedOomKill",
        6,
        series(GONE_KILLS, "0 0 0 0 1 1 1", cgroup="/pods/web", instance="a"),
        series(GONE_KILLS, "0x6", cgroup="/pods/other", instance="a"),
        series(GONE_KILLS, "0 0 0 0 1 1 1", cgroup="/pods", instance="a"),
        series(GONE_KILLS, "0 0 0 0 1 1 1", **PARENT),
        labels={"cgroup": "/pods/web", "instance": "a"},
    ),
    # If that is removed, too, and had not risen before, the one above it.
    fires(
        "CgroupDepartedOomKill",
        6,
        series(GONE_KILLS, "0 0 0 0", **WEB),
        series(GONE_KILLS, "0 0 0 0 1 1 1", **PARENT),
        labels=PARENT,
    ),
    is_quiet("CgroupDepartedOomKill", 6, series(GONE, "0 0 0 0 3 3 3", **PARENT)),
    is_quiet("CgroupDepartedOomKill", 20, series(GONE_KILLS, "0 1 1x20", **PARENT)),
    fires(
        "CgroupNearMemoryLimit", 12, series(SET, "95x15", **WEB), series(LIMIT, "100x15", **WEB),
        labels=WEB,
    ),
    *(
        is_quiet("CgroupNearMemoryLimit", 12, series(SET, one, **WEB), series(LIMIT, other, **WEB))
        for one, other in (("89x15", "100x15"), ("95x15", " ".join(["Inf"] * 15)), ("0x15", "0x15"))
    ),
    fires("CgroupMemoryStalled", 20, series(STALLED, "0+12x20", **WEB), labels=WEB),
    is_quiet("CgroupMemoryStalled", 20, series(STALLED, "0+3x20", **WEB)),
    fires("PymemcgbpfDown", 7, series("up", "0x10", **JOB), labels=JOB),
    is_quiet("PymemcgbpfDown", 7, series("up", "0 0 0 0 1x10", **JOB)),
    is_quiet("PymemcgbpfDown", 7, series("up", "0x10", job="node", instance="a")),
    fires("PymemcgbpfDepartedLost", 6, series(LOST, "0 0 0 0 9 9 9", **JOB), labels=JOB),
    is_quiet("PymemcgbpfDepartedLost", 20, series(LOST, "0 9x25", **JOB)),
    fires("PymemcgbpfWalksFail", 10, series(ERRORS, "0+1x15", **JOB), labels=JOB),
    fires("PymemcgbpfWalksFail", 10, series("pymemcgbpf_walk_success", "0x15", **JOB), labels=JOB),
    is_quiet("PymemcgbpfWalksFail", 10, series(ERRORS, "3x15", **JOB)),
    fires("PymemcgbpfStale", 10, series(TIME, "0x15", **JOB), labels=JOB),
    is_quiet("PymemcgbpfStale", 10, series(TIME, "0+60x15", **JOB)),
    fires(
        "PymemcgbpfReadsText", 17, series(BACKEND, "1x20", backend="text", **JOB),
        labels={"backend": "text", **JOB},
    ),
    is_quiet("PymemcgbpfReadsText", 17, series(BACKEND, "1x20", backend="core", **JOB)),
]  # fmt: skip


def test_alerts_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "tests.yml"
    rules = {"rule_files": [str(FILES / "rules.yml")], "evaluation_interval": "1m", "tests": TESTS}
    file.write_text(yaml.safe_dump(rules, sort_keys=False))
    promtool("test", "rules", str(file))
    assert all(f'alertname="{alert}"' in str(TESTS) for alert in ALERTS)


# --- systemd


def commands(unit: Path) -> list[list[str]]:
    """The words of each command of a unit."""
    text = unit.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^Exec\w+=-?(.*)$", text, re.MULTILINE)
    split = [shlex.split(command) for command in found]
    return [words for words in split if words[0] != "/bin/sh"]


def items_of(words: list[str]) -> tuple[str, ...]:
    """The items among the words of a command."""
    known = [*CATALOGUE]
    named = [word for word in words if "*" in word or word in CATALOGUE]
    return members(named, known, "the catalogue")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_valid(unit: Path, tmp_path: Path) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    assert {*parser} == {"DEFAULT", "Unit", "Service", "Install"}
    service = parser["Service"]
    assert service["NoNewPrivileges"] == "yes" and "CAP_SYS_ADMIN" not in service.get(
        "AmbientCapabilities", ""
    )
    for words in commands(unit):
        assert words[0] == "/opt/pymemcgbpf/bin/pymemcgbpf"
        assert words[1] in main.COMMANDS
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text(encoding="utf-8").replace(words[0], "/bin/true"))
    ran = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_unit_of_the_pin_has_started_when_there_is_a_pin(tmp_path: Path) -> None:
    text = (FILES / "pymemcgbpf-pin.service").read_text(encoding="utf-8").replace("\\\n", " ")
    (command,) = re.findall(r"^ExecStartPost=(.*)$", text, re.MULTILINE)
    stream = tmp_path / "stream"
    script = shlex.split(command.replace("$$", "$"))
    script[2] = script[2].replace("/sys/fs/bpf/pymemcgbpf/all/stream", str(stream))
    with subprocess.Popen(script) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.3)
        stream.touch()
        assert waiting.wait(10) == 0
    script[2] = script[2].replace("sleep 0.5", "true").replace(str(stream), f"{stream}.never")
    assert subprocess.run(script, timeout=30).returncode == 1


def test_only_what_loads_programs_has_capabilities() -> None:
    with_capabilities = {
        unit.stem
        for unit in UNITS
        if re.search(r"^(Ambient|CapabilityBounding).*=CAP_", unit.read_text("utf-8"), re.MULTILINE)
    }
    assert with_capabilities == {
        "pymemcgbpf-serve",
        "pymemcgbpf-pin",
        "pymemcgbpf-export",
    }


def needed() -> set[str]:
    """The metrics of cgroups that the rules and the dashboard need."""
    places = [place for place in QUERIES if not place.startswith("prometheus.md")]
    return {name for place in places for name in names_in(QUERIES[place])} & KNOWN


def test_the_units_and_the_manifest_have_the_items_of_the_rules_and_the_dashboard() -> None:
    chosen = {unit.stem: [items_of(words) for words in commands(unit)] for unit in UNITS}
    script = "\n".join(containers()["pin"]["args"]).replace("\\\n", " ")
    (line,) = [line for line in script.splitlines() if " pin --tree" in line]
    chosen["kubernetes"] = [items_of(shlex.split(line.rstrip(" &")))]
    found = {items for each in chosen.values() for items in each if items}
    assert len(found) == 1, chosen
    assert needed() <= metrics_of(iter(*found))


# --- Kubernetes


def containers() -> dict[str, Any]:
    """The containers of the manifest, by their names."""
    (pods,) = [part["spec"]["template"]["spec"] for part in MANIFEST if part["kind"] == "DaemonSet"]
    return {each["name"]: each for each in pods["containers"]}


def test_the_manifest_gives_only_the_pinning_container_privileges() -> None:
    for part in MANIFEST:
        assert {"apiVersion", "kind", "metadata"} <= {*part}
    (pods,) = [part["spec"] for part in MANIFEST if part["kind"] == "DaemonSet"]
    assert pods["selector"]["matchLabels"] == pods["template"]["metadata"]["labels"]
    spec = pods["template"]["spec"]
    volumes = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"]}
    assert volumes == {"cgroup": "/sys/fs/cgroup", "pins": "/sys/fs/bpf/pymemcgbpf"}
    pin, serve = containers()["pin"], containers()["serve"]
    assert {mount["name"] for mount in pin["volumeMounts"]} == {"cgroup", "pins"}
    assert serve["volumeMounts"] == [{"name": "pins", "mountPath": "/pins", "readOnly": True}]
    assert pin["securityContext"] == {"privileged": True}
    context = serve["securityContext"]
    assert context["runAsNonRoot"] and context["runAsUser"] and context["readOnlyRootFilesystem"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["allowPrivilegeEscalation"] is False and "privileged" not in context
    assert serve["args"][0] == "serve" and serve["args"][0] in main.COMMANDS


def test_all_files_speak_of_one_port() -> None:
    for path in FILES.iterdir():
        ports = set(re.findall(r"[:\"](\d{4,5})\b(?!-)", path.read_text(encoding="utf-8")))
        assert ports <= {PORT}, path


# --- Grafana


def test_the_dashboard_can_be_imported() -> None:
    panels = DASHBOARD["panels"]
    assert {"title", "uid", "schemaVersion", "templating", "time"} <= {*DASHBOARD}
    assert len({panel["id"] for panel in panels}) == len(panels)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-zA-Z_]\w*)", json.dumps(panels)))
    assert used - {"__rate_interval"} == variables
    places = [panel["gridPos"] for panel in panels]
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
