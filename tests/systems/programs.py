# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Starts the programs: this package's command, and Prometheus."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import yaml

# One walk and one scrape a second: the slowest test waits for a few of them.
INTERVAL = 1
SECONDS_TO_WAIT = 30


def wait_until(is_so: Callable[[], object], what: str) -> None:
    """Waits until something is so; after :data:`SECONDS_TO_WAIT` it raises."""
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"in {SECONDS_TO_WAIT} seconds it was never so: {what}")
        time.sleep(0.1)


@contextlib.contextmanager
def command(*words: str) -> Iterator[subprocess.Popen[str]]:
    """The package's command, which runs until the end of the context."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pymemcgbpf", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    try:
        yield process
    finally:
        process.terminate()
        _, err = process.communicate(timeout=30)
        assert "Traceback" not in err, err


@contextlib.contextmanager
def serving(*words: str) -> Iterator[str]:
    """The command serve; the address at which it listens, such as "127.0.0.1:10753"."""
    with command("serve", "--listen", "127.0.0.1:0", *words) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.fullmatch(r"serving http://(\S+)/metrics\n", line)
        assert found is not None, line or process.communicate()
        yield found[1]
        assert process.poll() is None, process.communicate()


@contextlib.contextmanager
def as_text(address: str) -> Iterator[str]:
    """An address that answers as another does to a client that does not know OpenMetrics."""

    class Forwarder(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with urllib.request.urlopen(f"http://{address}{self.path}", timeout=10) as answer:
                body = answer.read()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forwarder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Prometheus:
    """A running Prometheus.

    Args:
        address: where it listens.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def get(self, path: str, **parameters: str) -> Any:
        """What its HTTP API answers."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://{self._address}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def page(self, path: str) -> str:
        """One of its pages."""
        with urllib.request.urlopen(f"http://{self._address}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def is_ready(self) -> bool:
        """Whether it answers queries."""
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def vector(self, query: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of each series that a query gives now."""
        found = self.get("query", query=query)
        assert found["resultType"] == "vector"
        return [(series["metric"], float(series["value"][1])) for series in found["result"]]

    def by_cgroup(self, query: str) -> dict[str, float]:
        """The values that a query gives now, by the label "cgroup"."""
        found = {labels["cgroup"]: value for labels, value in self.vector(query)}
        assert len(found) == len(self.vector(query))
        return found

    def number(self, query: str) -> Optional[float]:
        """The value of a query with one series; None if it has none."""
        found = [value for _, value in self.vector(query)]
        assert len(found) <= 1, found
        return found[0] if found else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@contextlib.contextmanager
def prometheus(
    folder: Path, configuration: Path, targets: Sequence[tuple[str, str]]
) -> Iterator[Prometheus]:
    """A Prometheus that scrapes by the job of a configuration.

    Args:
        folder: for its configuration and its storage.
        configuration: a file with one job.
        targets: the names that the job gets, and the address that is scraped in each.
    """
    settings = yaml.safe_load(configuration.read_text(encoding="utf-8"))
    (job,) = settings["scrape_configs"]
    interval = {"scrape_interval": f"{INTERVAL}s", "scrape_timeout": f"{INTERVAL}s"}
    settings["scrape_configs"] = [
        {**job, **interval, "job_name": name, "static_configs": [{"targets": [address]}]}
        for name, address in targets
    ]
    settings["rule_files"] = [str(configuration.parent / name) for name in settings["rule_files"]]
    settings["global"] = {"evaluation_interval": f"{INTERVAL}s"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{_free_port()}"
    with (folder / "prometheus.log").open("w+") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
                "--log.level=warn",
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, "GOMAXPROCS": "2"},
        )
        try:
            running = Prometheus(address)
            wait_until(lambda: running.is_ready() or process.poll() is not None, "it is ready")
            log.seek(0)
            assert process.poll() is None, log.read()
            yield running
        finally:
            process.terminate()
            process.wait(timeout=30)
