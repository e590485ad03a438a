"""Accuracy against latency, as places on a drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from engineforge.report.page.figures import ticks
from engineforge.report.page.scatter import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Plot, plots
from tests.report.documents import checked, large, timed, variant


def _measured(
    label: str, ms: float, outputs: Mapping[str, Any] | float, of: str = "engine"
) -> dict[str, Any]:
    found = checked(0.0)
    found["outputs"] = {"y": {"relative_error": outputs}} if isinstance(outputs, float) else outputs
    both: dict[str, Any] = {"asked": True, "model": None, "engine": None}
    return variant(label, latency=timed(ms), accuracy=both | {of: found})


def _plot(*variants: dict[str, Any]) -> Plot:
    (made,) = plots(variants)
    return made


def _front(plot: Plot) -> list[str]:
    return [each.name for each in plot.points if each.front]


def test_what_another_beats_in_both_is_not_on_the_front() -> None:
    plot = _plot(
        _measured("net/fp32@t", 4.0, 1e-6),
        _measured("net/fp16@t", 2.0, 1e-3),
        _measured("net/bf16@t", 2.2, 5e-3),
        _measured("net/int8@t", 1.0, 2e-2),
    )
    assert _front(plot) == ["fp32", "fp16", "int8"]


def test_each_target_has_a_front_of_its_own() -> None:
    plot = _plot(_measured("net/fp32@fast", 1.0, 1e-3), _measured("net/fp32@slow", 9.0, 1e-2))
    assert [(each.front, each.series) for each in plot.points] == [(True, 0), (True, 1)]


def test_each_model_has_a_plot_of_its_own_in_the_order_of_the_variants() -> None:
    made = plots([_measured("b/x@t", 1.0, 0.1), _measured("a/x@t", 1.0, 0.1)])
    assert [each.spec for each in made] == ["b", "a"]


def test_faster_is_to_the_left_and_closer_is_below() -> None:
    slow, fast = _plot(_measured("n/a@t", 4.0, 1e-6), _measured("n/b@t", 1.0, 1e-2)).points
    assert fast.x < slow.x
    assert fast.y < slow.y  # y counts from above


def test_variants_without_one_of_the_numbers_are_counted() -> None:
    plot = _plot(
        _measured("n/a@t", 4.0, 1e-6),
        variant("n/b@t", latency=timed(1.0)),
        variant("n/c@t"),
    )
    assert (len(plot.points), plot.left_out) == (1, 2)


def test_a_model_without_both_has_no_plot() -> None:
    assert plots([variant("n/b@t", latency=timed(1.0)), variant("m/c@t")]) == []


def test_accuracy_of_the_engine_counts_before_that_of_its_model() -> None:
    both = _measured("n/a@t", 1.0, 0.5)
    both["accuracy"]["model"] = checked(0.1)
    (point,) = _plot(both).points
    assert not point.of_model
    assert point.says == "n/a@t: 1 ms, error 0.5 of the engine"
    (point,) = _plot(_measured("n/a@t", 1.0, 0.1, of="model")).points
    assert point.of_model


def test_top_1_counts_where_all_have_labels() -> None:
    labelled = {"y": {"relative_error": 0.1, "top1": 0.9}}
    plot = _plot(_measured("n/a@t", 1.0, labelled), _measured("n/b@t", 2.0, labelled))
    assert plot.title == "top-1 error"
    plot = _plot(_measured("n/a@t", 1.0, labelled), _measured("n/b@t", 2.0, 0.1))
    assert plot.title == "relative error"


def test_of_several_outputs_the_worst_counts() -> None:
    outputs = {"y": {"relative_error": 0.1}, "z": {"relative_error": 0.7}}
    (point,) = _plot(_measured("n/a@t", 1.0, outputs)).points
    assert "error 0.7 of the engine" in point.says


@pytest.mark.parametrize(
    "errors",
    [(0.0,), (0.0, 1e-3), (math.inf, 1e-3), (1e-9, 1.0), (0.0, 0.0), (math.inf,)],
    ids=str,
)
def test_any_errors_can_be_drawn(errors: tuple[float, ...]) -> None:
    plot = _plot(
        *(
            _measured(f"n/v{at}@t", 1.0 + at, {"y": {"relative_error": _figure(each)}})
            for at, each in enumerate(errors)
        )
    )
    for point in plot.points:
        assert LEFT <= point.x <= WIDTH - RIGHT
        assert TOP <= point.y <= HEIGHT - BOTTOM


def _figure(value: float) -> float | str:
    return "inf" if value == math.inf else value


def test_names_lie_inside_and_apart() -> None:
    for plot in plots(large(100)["variants"]):
        named = [each for each in plot.points if each.named]
        assert named
        boxes = []
        for each in named:
            assert each.named
            x, y, anchor = each.named
            width = 6 * len(each.name)
            start = x if anchor == "start" else x - width
            assert LEFT <= start <= start + width <= WIDTH
            boxes.append((start, start + width, y))
        for at, (a, b, y) in enumerate(boxes):
            for c, d, other in boxes[:at]:
                assert b <= c or d <= a or abs(y - other) >= 11


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(0, 1.15, False), (0, 0.0003, False), (0, 7300, False), (1e-7, 2, True), (0.2, 9, True)],
)
def test_ticks_are_few_and_inside(low: float, high: float, log: bool) -> None:
    found = ticks(low, high, log=log)
    assert 2 <= len(found) <= 8
    assert all(low <= each <= high * 1.0001 for each in found)
    assert found == sorted(found)
