# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Runs in the guest: a pytest plugin that records which tests are collected, started and done."""

from __future__ import annotations

import pytest

from . import guest_record


class Recorder:
    """Write a record for each of pytest's events."""

    def __init__(self) -> None:
        self._reports: list[pytest.TestReport] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Record modules that could not be collected or that skip all of their tests."""
        if report.outcome != "passed":
            guest_record.write(
                "uncollected",
                test=report.nodeid,
                outcome=report.outcome,
                text=skip_reason(report) if report.skipped else report.longreprtext,
            )

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Record the name of every test that is to run."""
        guest_record.write("collected", tests=[item.nodeid for item in session.items])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Record which test starts: if the guest dies, the host knows in which test."""
        self._reports = []
        guest_record.write("start", test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the reports of set-up, call (with subtests) and tear-down."""
        self._reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Record the worst outcome of all parts of the test."""
        parts = [(report, outcome(report)) for report in self._reports]
        for worst in ("failed", "error", "skipped", "passed"):
            found = [report for report, its in parts if its == worst]
            if found:
                break
        else:
            worst, found = "error", []
        guest_record.write(
            "result",
            test=nodeid,
            outcome=worst,
            seconds=round(sum(report.duration for report in self._reports), 3),
            # The last report also has the properties that earlier parts recorded.
            properties=self._reports[-1].user_properties if self._reports else [],
            text="" if worst == "passed" else "\n".join(describe(report) for report in found),
        )


def outcome(report: pytest.TestReport) -> str:
    """Return "passed", "failed", "error" (in set-up or tear-down) or "skipped" (also for xfail)."""
    if hasattr(report, "wasxfail"):
        return "skipped"
    if report.failed:
        return "failed" if report.when == "call" else "error"
    return report.outcome


def describe(report: pytest.TestReport) -> str:
    """Return why a part did not pass, and the output that was captured."""
    if hasattr(report, "wasxfail"):
        return f"marked xfail: {report.wasxfail}" if report.wasxfail else "marked xfail"
    if report.skipped:
        return skip_reason(report)
    sections = [f"--- {name}\n{text}" for name, text in report.sections if text.strip()]
    return "\n".join([report.longreprtext, *sections])


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the reason of a skip, with its file and line."""
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        return f"{reason} ({path}:{line})"
    return report.longreprtext
