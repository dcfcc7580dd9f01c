# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Which format of metrics an HTTP client wants."""

from __future__ import annotations

from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pymemcgbpf import _openmetrics
from pymemcgbpf._cli.accept import CONTENT_TYPES, wanted_format

TEXT, OPEN = "prometheus", "openmetrics"

# What Prometheus and others send.
PROMETHEUS_2_26 = (
    "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_49_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;"
    "q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;"
    "escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
PROMETHEUS_3_TEXT_ONLY = "text/plain;version=0.0.4;q=0.5,*/*;q=0.4"
OLD_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;"
    "q=0.7,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        (BROWSER, TEXT),
        (PROMETHEUS_2_26, TEXT),  # it knows another version of OpenMetrics only
        (PROMETHEUS_2_42, OPEN),
        (PROMETHEUS_2_49_PROTOBUF, OPEN),
        (PROMETHEUS_3, OPEN),
        (PROMETHEUS_3_TEXT_ONLY, TEXT),
        (OLD_PROTOBUF, TEXT),
        ("application/openmetrics-text", OPEN),
        ("APPLICATION/OpenMetrics-Text ; Version=1.0.0 ; Q=1", OPEN),
        ('application/openmetrics-text; version="1.0.0"', OPEN),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text, text/plain", TEXT),
        ("application/openmetrics-text;q=0.9, text/plain", TEXT),
        ("application/openmetrics-text, text/plain;q=0.999", OPEN),
        ("application/*", OPEN),
        ("text/*;q=0.1, application/*;q=0.2", OPEN),
        ("text/*, application/openmetrics-text;q=0.1", TEXT),
        # The most specific range counts, whatever its place.
        ("*/*, text/plain;q=0", OPEN),
        ("text/plain;q=0, */*;q=0.1", OPEN),
        ("text/plain;version=0.0.4;q=0.1, text/plain, application/*;q=0.5", OPEN),
        ("application/openmetrics-text;q=0, */*", TEXT),
        ("image/png", TEXT),
        ("text/plain;q=0, application/*;q=0", TEXT),
        # Numbers that are none count as 0.
        ("application/openmetrics-text;q=nan, text/plain;q=0.1", TEXT),
        ("application/openmetrics-text;q=inf, text/plain;q=0.1", TEXT),
        ("application/openmetrics-text;q=1e9, text/plain;q=0.1", TEXT),
        ("application/openmetrics-text;q=, text/plain;q=0.1", TEXT),
        ("application/openmetrics-text;q=-1, text/plain;q=0.1", TEXT),
        (",;,;=;,/,", TEXT),
    ],
)
def test_the_format_that_is_wanted_most(accept: Optional[str], form: str) -> None:
    assert wanted_format(accept) == form


@given(st.text('aptex/*;,=q01. "-\x00ä', max_size=60))
def test_any_header_has_a_format(accept: str) -> None:
    assert wanted_format(accept) in _openmetrics.FORMATS


def test_each_format_has_a_media_type() -> None:
    assert CONTENT_TYPES.keys() == set(_openmetrics.FORMATS)
