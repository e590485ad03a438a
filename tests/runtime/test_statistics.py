"""What many times come to, by trtexec's own formulas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineforge.runtime.statistics import bound_by, by_layer, percentile, summary


@pytest.mark.parametrize(
    ("count", "p", "index"), [(100, 99, 99), (200, 99, 198), (100, 90, 89), (10, 99, 9), (1, 90, 0)]
)
def test_percentiles_are_at_trtexecs_index(count: int, p: int, index: int) -> None:
    assert percentile(list(range(count)), p) == index


def test_the_median_of_an_even_number_is_between_the_middle_two() -> None:
    assert summary([4.0, 1.0, 3.0, 2.0])["median"] == 2.5
    assert summary([3.0, 1.0, 2.0])["median"] == 2.0


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_a_summary_is_in_order(times: list[float]) -> None:
    found = summary(times)
    keys = ("min", "median", "p90", "p95", "p99", "max")
    ordered = [found[key] for key in keys[:1] + keys[2:]]
    assert ordered == sorted(ordered)
    assert found["min"] <= found["median"] <= found["max"]


def test_layers_are_means_over_runs_in_their_order() -> None:
    reported = [("conv", 1.0), ("relu", 0.5), ("conv", 3.0), ("relu", 0.5)]
    conv, relu = by_layer(reported)
    assert (conv["name"], conv["ms"], conv["share"]) == ("conv", 2.0, 0.8)
    assert relu["ms"] == 0.5


def test_no_layers_are_no_layers() -> None:
    assert by_layer([]) == []


def test_a_busy_host_is_told() -> None:
    times = {
        name: {"median": ms}
        for name, ms in {"compute": 1.0, "enqueue": 0.9, "h2d": 1.5, "d2h": 0.1}.items()
    }
    graph, copies = bound_by(times)
    assert "CUDA graph" in graph
    assert "inputs to the GPU" in copies
