# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""The table of kernel features."""

from __future__ import annotations

import pytest

from pymemcgbpf._bpf import features

from ...docs.features import page
from ...docs.items import docs
from ..kernels import DIRECT, KERNELS

HAVE = {
    "5.10": {features.CORE, features.RUN_DIR},
    "5.15": {features.CORE, features.RUN_DIR},
    "6.1": {
        features.CORE,
        features.RUN_DIR,
        features.ITERATOR,
        features.RSTAT_FLUSH,
        features.PUBLISH,
        features.DEPARTED,
    },
    "6.12": {
        features.CORE,
        features.RUN_DIR,
        features.ITERATOR,
        features.RSTAT_FLUSH,
        features.RUN,
        features.PUBLISH,
        features.DEPARTED,
        features.KERNEL_REFRESH,
    },
    "6.18": {
        features.CORE,
        features.RUN_DIR,
        features.ITERATOR,
        features.RUN,
        features.PUBLISH,
        features.DEPARTED,
        features.KERNEL_REFRESH,
    },
    "7.3": {*features.FEATURES} - {features.RFC, features.RSTAT_FLUSH, features.EVENTS_KFUNC},
}


@pytest.mark.parametrize("release", [*DIRECT, *KERNELS])
def test_each_kernel_has_the_features_of_its_release(release: str) -> None:
    types = {**DIRECT, **KERNELS}[release].types()
    assert {feature for feature in features.FEATURES if feature.is_in(types)} == HAVE[release]


def test_a_missing_feature_is_explained() -> None:
    why = features.RUN.explain(KERNELS["6.1"].types())
    assert why == (
        "this kernel has no bpf_cgroup_from_id and no bpf_iter_css_new (Linux 6.12 or later)"
    )


def test_every_feature_says_what_to_do_without_it_and_where_it_comes_from() -> None:
    assert all(
        feature.without and feature.origin and feature.probe for feature in features.FEATURES
    )


def test_the_table_in_the_documentation_is_up_to_date() -> None:
    text = (docs() / "limits.md").read_text(encoding="utf-8")
    assert page(text) == text, "run python3 -m tests.docs.features"
