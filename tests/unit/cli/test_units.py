# SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
"""Numbers for people."""

from __future__ import annotations

from pymemcgbpf import UNLIMITED
from pymemcgbpf._cli.units import columns, human, per_second, plain

K, M, G, T, P, E = (1 << shift for shift in (10, 20, 30, 40, 50, 60))


def test_bytes_are_shown_in_the_largest_unit_below_1024() -> None:
    cases: list[tuple[int, str, str]] = [
        (0, "0", "B"),
        (1, "1", "B"),
        (1023, "1023", "B"),
        (1024, "1.0", "KiB"),
        (1025, "1.0", "KiB"),
        (1536, "1.5", "KiB"),
        (M - 1, "1.0", "MiB"),
        (1023 * K, "1023.0", "KiB"),
        (1023 * K + 900, "1023.9", "KiB"),
        (M, "1.0", "MiB"),
        (G - 1, "1.0", "GiB"),
        (G, "1.0", "GiB"),
        (T - 1, "1.0", "TiB"),
        (T, "1.0", "TiB"),
        (P, "1.0", "PiB"),
        (E - 1, "1.0", "EiB"),
        (E, "1.0", "EiB"),
        ((1 << 64) - 1, "16.0", "EiB"),
    ]
    for value, number, unit in cases:
        assert human("anon", value) == (number, unit)


def test_no_size_is_shown_as_1024_of_a_unit() -> None:
    cases: list[int] = [K, M, G, T, P]
    for size in cases:
        for value in range(1024 * size - size // 4, 1024 * size, max(size // 64, 1)):
            assert not human("file", value).number.startswith("1024")


def test_counts_and_unknown_items_are_shown_in_groups_of_three_digits() -> None:
    for value, number in ((0, "0"), (999, "999"), (1000, "1,000"), (1234567, "1,234,567")):
        for name in ("pgfault", "an_unknown_item"):
            assert human(name, value) == (number, "")


def test_no_limit_is_max() -> None:
    assert human("memory.max", UNLIMITED) == ("max", "")
    assert human("memory.numa_stat.anon.N1", 2048) == ("2.0", "KiB")


def test_plain_numbers_are_those_of_the_files() -> None:
    for name in ("anon", "pgfault", "memory.pressure.some.total", "an_unknown_item"):
        assert plain(name, 1234567) == ("1234567", "")
    assert plain("memory.max", UNLIMITED) == ("max", "")
    assert plain("an_unknown_item", UNLIMITED) == (str(UNLIMITED), "")


def test_microseconds() -> None:
    assert human("memory.pressure.some.total", 12345) == ("12,345", "µs")


def test_rates_are_shown_in_the_unit_of_their_item() -> None:
    cases: list[tuple[str, float, tuple[str, str]]] = [
        ("pgfault", 0.0, ("0.0", "")),
        ("pgfault", 12_345.6, ("12,346", "")),
        ("memory.pressure.some.total", 1_000_000.0, ("100.0", "%")),
        ("memory.pressure.some.total", 499.0, ("0.0", "%")),
        ("an_unknown_item", 1.25, ("1.2", "")),
    ]
    for name, rate, shown in cases:
        assert per_second(name, rate) == shown


def test_columns_counts_the_cells_of_a_terminal() -> None:
    cases: list[tuple[str, int]] = [("", 0), ("abc", 3), ("日本", 4), ("e\u0301", 1)]
    for text, width in cases:
        assert columns(text) == width
