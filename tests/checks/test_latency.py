"""Latency against thresholds: no GPU, figures made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from engineforge.checks.latency import latency_failures, slower_percent, time_of
from engineforge.spec.model import LatencyCheck, MaxSlower


def measured(median: float | None, p99: float | None = None) -> dict[str, Any]:
    return {"latency_ms": {"median": median, "p99": p99}}


def test_thresholds_that_are_reached_exactly_pass() -> None:
    check = LatencyCheck(max_p99_ms=5.0, max_median_ms=2.0)
    assert latency_failures(measured(2.0, 5.0), check) == []


def test_each_threshold_that_is_missed_has_a_line() -> None:
    check = LatencyCheck(max_p99_ms=5.0, max_median_ms=2.0)
    assert latency_failures(measured(2.5, 5.001), check) == [
        "p99 is 5.001 ms, expected at most 5 ms",
        "median is 2.5 ms, expected at most 2 ms",
    ]


@pytest.mark.parametrize("value", [None, math.nan])
def test_what_has_no_value_fails(value: float | None) -> None:
    (line,) = latency_failures(measured(1.0, value), LatencyCheck(max_p99_ms=5.0))
    assert line == "p99 has no value, expected at most 5 ms"


def test_a_measurement_without_times_fails() -> None:
    assert latency_failures({}, LatencyCheck(max_median_ms=5.0))
    assert time_of({}, "median") is None


def test_being_slower_than_another_is_by_the_median() -> None:
    check = LatencyCheck(max_slower=MaxSlower(than="fp32", percent=10.0))
    assert latency_failures(measured(1.1, 9.0), check, measured(1.0, 1.0)) == []
    assert latency_failures(measured(1.2), check, measured(1.0)) == [
        "median is 20.0 % over that of 'fp32' (1.2 ms, and 1 ms), expected at most 10 %"
    ]


def test_being_faster_than_another_passes_at_0_percent() -> None:
    check = LatencyCheck(max_slower=MaxSlower(than="fp32", percent=0.0))
    assert latency_failures(measured(0.9), check, measured(1.0)) == []


@pytest.mark.parametrize("than", [None, {}, measured(None), measured(0.0)])
def test_nothing_to_compare_with_fails(than: dict[str, Any] | None) -> None:
    check = LatencyCheck(max_slower=MaxSlower(than="fp32", percent=10.0))
    (line,) = latency_failures(measured(1.0), check, than)
    assert line == "nothing was measured to compare it with 'fp32' by"


def test_percent_is_of_the_other() -> None:
    assert slower_percent(measured(3.0), measured(2.0)) == pytest.approx(50)
    assert slower_percent(measured(1.0), measured(2.0)) == pytest.approx(-50)
