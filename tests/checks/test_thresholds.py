"""What passes, what does not, and what is said about it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engineforge.checks.thresholds import failures

GOOD: dict[str, object] = {
    "count": 100,
    "non_finite": 0,
    "relative_error": 0.01,
    "max_absolute_error": 0.5,
    "cosine": 0.999,
    "sqnr_db": 40.0,
    "top1_agreement": 0.98,
    "source_top1": 0.97,
    "top1": 0.95,
}
LIMITS = {
    "max_relative_error": 0.01,
    "max_absolute_error": 0.5,
    "min_cosine": 0.999,
    "min_sqnr_db": 40.0,
    "min_top1_agreement": 0.98,
    "min_top1": 0.95,
    "max_top1_drop": 0.021,
}
STRICTER = {
    "max_relative_error": 0.009,
    "max_absolute_error": 0.4,
    "min_cosine": 0.9999,
    "min_sqnr_db": 41.0,
    "min_top1_agreement": 0.99,
    "min_top1": 0.96,
    "max_top1_drop": 0.01,
}


def judged(thresholds: dict[str, float], **outputs: dict[str, object]) -> list[str]:
    return failures({"samples": 10, "outputs": outputs or {"logits": GOOD}}, thresholds)


def test_what_is_as_good_as_asked_passes() -> None:
    assert judged(LIMITS) == []


@pytest.mark.parametrize("name", STRICTER)
def test_each_threshold_can_fail(name: str) -> None:
    assert len(judged({**LIMITS, name: STRICTER[name]})) == 1


def test_a_message_says_what_was_found_where_and_what_was_expected() -> None:
    assert judged({"min_top1_agreement": 0.99}) == [
        "top1_agreement of 'logits' is 0.98, expected at least 0.99"
    ]


def test_a_drop_is_told_with_both_ends() -> None:
    assert judged({"max_top1_drop": 0.01}) == [
        "top1_drop of 'logits' is 0.02, expected at most 0.01 (0.97 fell to 0.95)"
    ]


def test_without_thresholds_nothing_passes() -> None:
    assert judged({}) == ["no thresholds are set, and without any nothing can pass"]


@pytest.mark.parametrize("measured", [{}, {"outputs": {}}, {"outputs": None}], ids=str)
def test_nothing_measured_is_not_passing(measured: dict[str, object]) -> None:
    assert failures(measured, LIMITS) == ["nothing was measured"]


@pytest.mark.parametrize("bad", [None, float("nan"), "nan", "inf", float("inf")], ids=repr)
def test_what_has_no_value_or_is_infinite_fails(bad: object) -> None:
    assert judged({"max_relative_error": 1e30}, logits={**GOOD, "relative_error": bad})


@pytest.mark.parametrize("bad", [None, float("nan"), "-inf"], ids=repr)
def test_it_fails_from_below_too(bad: object) -> None:
    assert judged({"min_sqnr_db": -1e30}, logits={**GOOD, "sqnr_db": bad})


@pytest.mark.parametrize("name", LIMITS)
def test_a_threshold_that_is_not_a_number_fails(name: str) -> None:
    assert judged({name: float("nan")})


def test_values_that_are_not_finite_are_counted_in_the_message() -> None:
    bad = {**GOOD, "relative_error": "inf", "non_finite": 3}
    assert judged({"max_relative_error": 0.1}, logits=bad) == [
        "relative_error of 'logits' is inf, expected at most 0.1: 3 of 100 values are not finite"
    ]


def test_the_worst_output_counts() -> None:
    found = judged({"min_cosine": 0.9}, good=GOOD, bad={**GOOD, "cosine": 0.8})
    assert found == ["cosine of 'bad' is 0.8, expected at least 0.9"]


def test_a_measure_that_no_output_has_fails() -> None:
    bare = {name: value for name, value in GOOD.items() if "top1" not in name}
    assert judged({"min_top1": 0.1}, logits=bare) == [
        "top1, asked for by 'min_top1', has no value: the data has no labels that fit an output"
    ]


def test_a_measure_that_one_output_does_not_have_is_that_of_the_others() -> None:
    bare = {name: value for name, value in GOOD.items() if "top1" not in name}
    assert judged({"min_top1_agreement": 0.98}, logits=GOOD, score=bare) == []


def test_integers_are_held_to_agreement() -> None:
    found = judged({"min_top1_agreement": 0.9}, ids={"count": 10, "agreement": 0.8})
    assert found == ["top1_agreement of 'ids' is 0.8, expected at least 0.9"]


def test_integers_that_no_threshold_judges_must_be_equal() -> None:
    thresholds = {"max_relative_error": 0.1}
    assert judged(thresholds, logits=GOOD, ids={"count": 10, "agreement": 1.0}) == []
    assert len(judged(thresholds, logits=GOOD, ids={"count": 10, "agreement": 0.9})) == 1


def test_an_unknown_threshold_fails() -> None:
    assert judged({"max_error": 1.0}) == ["there is no threshold 'max_error'"]


def test_judging_loads_nothing_heavy() -> None:
    code = (
        "import sys, engineforge.checks.thresholds;"
        "sys.exit(bool({'numpy', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_noise_as_large_as_the_output_never_passes() -> None:
    measured = {"outputs": {"y": {"count": 4, "sqnr_db": 0.0, "top1_agreement": 1.0}}}
    (said,) = failures(measured, {"min_top1_agreement": 0.9})
    assert said == "the error of 'y' is as large as the output itself: SQNR 0 dB"
