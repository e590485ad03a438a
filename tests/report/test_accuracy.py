"""Checks, what layers cost, and calibration, as lines."""

from __future__ import annotations

from engineforge.report.accuracy import (
    calibration_lines,
    check_lines,
    failure_lines,
    sensitivity_lines,
    verdict,
)
from engineforge.worker.outcome import Failed, Skipped
from tests.report.plans import checked, layer, planned, ranked

_FAILED = Failed(stage="typed", error="the converter ended\nwithout a word", log=("one", "two"))
_SKIPPED = Skipped(why="its spec has no accuracy check")


def test_a_verdict_is_what_the_last_check_came_to() -> None:
    assert verdict(checked(), data=True) == (
        "passed: accuracy (relative error 0.0123, SQNR 38.2 dB; 32 samples)"
    )
    said = verdict(checked("cosine of 'a' is 0.8", "sqnr_db of 'a' is 9"), data=True)
    assert said == "FAILED: accuracy: cosine of 'a' is 0.8; sqnr_db of 'a' is 9"


def test_a_verdict_without_a_check_says_how_to_run_it() -> None:
    assert verdict(None, data=True) == "accuracy not run: engineforge check --accuracy"


def test_a_verdict_without_data_says_that_there_is_none() -> None:
    assert verdict(None, data=False).startswith("accuracy cannot be told: ")


def test_each_variant_has_a_line_and_labels_are_aligned() -> None:
    plan = planned("net/fp16@ada", "net/int8@ada", "net/long-one@ada", "net/no@ada")
    lines = check_lines(plan, [checked(), checked("cosine of 'a' is 0.8"), _FAILED, _SKIPPED])
    assert [*lines] == [
        "passed   net/fp16@ada      relative error 0.0123, SQNR 38.2 dB; 32 samples",
        "FAILED   net/int8@ada      relative error 0.0123, SQNR 38.2 dB; 32 samples",
        "FAILED   net/long-one@ada  in stage typed",
        "skipped  net/no@ada        its spec has no accuracy check",
    ]


def test_a_line_has_what_labels_tell() -> None:
    found = checked(top1=0.9722, source_top1=0.975, top1_agreement=0.9944, agreement=None)
    (line,) = check_lines(planned("net/int8@ada"), [found])
    assert "top-1 97.22 % (source 97.50 %), agrees 99.44 %, equal unknown, relative" in line


def test_overflow_is_infinite_in_a_line() -> None:
    found = checked(relative_error="inf", sqnr_db="-inf")
    (line,) = check_lines(planned("net/fp16@ada"), [found])
    assert "relative error inf, SQNR -inf dB" in line


def test_variants_that_fail_in_the_same_way_are_told_once() -> None:
    plan = planned("net/int8@ada", "net/fp16@ada", "net/int8@ampere", "net/fp8@ada")
    same = checked("cosine of 'a' is 0.8", advice=("these layers hurt:\n/head/Gemm",))
    assert [*failure_lines(plan, [same, checked(), same, _FAILED])] == [
        "net/int8@ada, net/int8@ampere:",
        "  cosine of 'a' is 0.8",
        "  these layers hurt:",
        "  /head/Gemm",
        "net/fp8@ada:",
        "  failed in stage typed: the converter ended",
        "  without a word",
        "  | one",
        "  | two",
    ]


def test_nothing_is_said_of_what_did_not_fail() -> None:
    plan = planned("net/int8@ada", "net/fp16@ada", "net/no@ada")
    assert [*failure_lines(plan, [checked(), ranked(), _SKIPPED])] == []


def test_layers_are_a_table_in_the_order_of_their_costs() -> None:
    found = ranked(layer("/head/Gemm", 0.00879, top1_agreement=0.98), layer("/conv/Conv", 7.5e-05))
    assert [*sensitivity_lines(planned("net/int8@ada"), [found])] == [
        "net/int8@ada: what each layer costs alone, over 32 samples",
        "  layer       type  relative error  output SQNR dB  own SQNR dB   agrees",
        "  /head/Gemm  Conv         0.00879              40           30  98.00 %",
        "  /conv/Conv  Conv         7.5e-05              40           30",
    ]


def test_a_layer_that_overflows_or_cannot_be_compared_keeps_its_row() -> None:
    found = ranked(layer("a", "inf", output_sqnr_db="-inf", sqnr_db=None))
    *_, row = sensitivity_lines(planned("net/fp16@ada"), [found])
    assert row.split() == ["a", "Conv", "inf", "-inf", "unknown"]


def test_a_variant_that_was_not_ranked_says_why() -> None:
    plan = planned("net/fp16@ada", "net/fp8@ada")
    assert [*sensitivity_lines(plan, [_FAILED, Skipped(why="needs ModelOpt")])] == [
        "net/fp16@ada: failed in stage typed",
        "net/fp8@ada: skipped: needs ModelOpt",
    ]


def test_a_calibration_is_a_line_for_each_tensor() -> None:
    found = {
        "method": "percentile",
        "percentile": 99.9,
        "samples": 16,
        "seed": None,
        "versions": {"onnxruntime": "1.31.0"},
        "activations": {"image": {"low": -3.14159, "high": 4}},
        "weights": {"fc.weight": {"scale": 0.0012345}},
    }
    assert [*calibration_lines("calibration.json", found)] == [
        "calibration.json",
        "  method     percentile",
        "  percentile 99.9",
        "  samples    16",
        "  with       onnxruntime 1.31.0",
        "  activation image  low -3.14, high 4",
        "  weight     fc.weight  scale 0.00123",
    ]
