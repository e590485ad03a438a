"""Variants as rows and cells: which status, which words, which numbers to sort by."""

from __future__ import annotations

from typing import Any

import pytest

from engineforge.report.page.daily import daily
from engineforge.report.page.rows import matrix, row, spark, status
from tests.report.documents import build, checked, failure, serving, timed, variant


def _accuracy(**found: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"asked": True, "model": None, "engine": None, **found}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "up-to-date"),
        ({"state": "stale"}, "stale"),
        ({"state": "unfit"}, "unfit"),
        ({"latency": timed(1.0, "p99 is 2 ms")}, "check-failed"),
        ({"latency": {**timed(1.0), "passed": None}}, "up-to-date"),
        ({"accuracy": _accuracy(model=checked(0.5, "too far"))}, "check-failed"),
        ({"accuracy": _accuracy(engine=checked(0.5))}, "up-to-date"),
        ({"state": "stale", "failure": failure()}, "failed"),
        ({"failure": failure(), "latency": timed(1.0, "p99")}, "failed"),
    ],
)
def test_a_variant_is_what_is_worst_of_it(more: dict[str, Any], expected: str) -> None:
    assert status(variant("net/fp32@ada", **more)) == expected


def test_a_row_has_words_and_numbers() -> None:
    made = row(
        variant(
            "ocr/net/fp16@ada",
            latency=timed(1.23456),
            accuracy=_accuracy(engine=checked(0.01234)),
            environments={"dev": serving()},
        )
    )
    assert (made.spec, made.variant, made.target) == ("ocr/net", "fp16", "ada")
    assert (made.size, made.size_text) == (1 << 20, "1.0 MiB")
    assert (made.seconds, made.seconds_text) == (12.5, "12 s")
    assert (made.error, made.accuracy, made.of_model) == (0.01234, "error 0.0123", False)
    assert (made.ms, made.latency) == (1.23456, "1.235 ms")
    assert [(each.environment, each.mark) for each in made.serving] == [("dev", "")]


def test_a_check_that_was_never_run_is_said() -> None:
    assert row(variant("net/fp32@ada", accuracy=_accuracy())).accuracy == "not run"
    assert row(variant("net/fp32@ada")).accuracy == ""


def test_a_long_reason_is_cut() -> None:
    made = row(variant("net/fp32@ada", state="stale", why=["many words " * 50]))
    assert len(made.why) < 150
    assert made.why.endswith("…")


@pytest.mark.parametrize(("fresh", "mark"), [(True, ""), (False, "stale"), (None, "unknown")])
def test_an_engine_that_serves_is_marked(fresh: bool | None, mark: str) -> None:
    made = row(variant("net/fp32@ada", environments={"dev": serving(fresh=fresh)}))
    assert made.serving[0].mark == mark


def test_one_build_is_no_line() -> None:
    assert spark([]) == spark([1.0]) == spark([None, 2.0]) == ""
    assert spark([1.0, 2.0]) == "M0 7L48 1"


def test_the_matrix_has_a_cell_where_a_spec_has_a_target() -> None:
    variants = [
        variant("a/fp32@x", environments={"dev": serving(), "prod": serving(fresh=False)}),
        variant("a/fp16@x", state="stale", environments={"dev": serving()}),
        variant("b/fp32@y"),
    ]
    made = matrix(variants, ["dev", "prod"])
    assert made.targets == ["x", "y"]
    (a, (ax, ay)), (b, (bx, by)) = made.rows
    assert (a, b, ay, bx) == ("a", "b", None, None)
    assert ax is not None
    assert (ax.good, ax.says) == (1, "1 stale, 1 up to date")
    assert ax.environments == [("dev", 2, 0), ("prod", 1, 1)]
    assert by is not None
    assert by.environments == [("dev", 0, 0), ("prod", 0, 0)]


def test_days_are_bars_and_days_without_builds_are_gaps() -> None:
    made = daily([build("a/x@t", seconds=60), build("a/x@t", days_ago=2, seconds=30, why="new")])
    assert made is not None
    assert (made.since, made.until, made.most) == ("2026-09-29", "2026-10-01", "1 min 0 s")
    again, first = made.bars
    assert again.says == "2026-09-29: 1 build, 30 s, of it 30 s rebuilding"
    assert (again.again, again.first) == (50.0, 0.0)
    assert (first.again, first.first) == (0.0, 100.0)
    assert first.x > again.x + again.width


def test_builds_without_times_are_no_bars() -> None:
    assert daily([]) is None
    assert daily([{**build("a/x@t"), "finished": ""}]) is None
