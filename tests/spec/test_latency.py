"""What a variant says of its latency: who wins, and which one is not compared with itself."""

from __future__ import annotations

from engineforge.spec.load import load
from engineforge.spec.matrix import expand
from engineforge.spec.model import LatencyCheck, MaxSlower
from engineforge.spec.validate import validate
from tests.spec.test_matrix import targets

_MODEL = "model: {source: {path: m.onnx}}\ntargets: [rtx]\n"


def latencies(text: str) -> dict[str, LatencyCheck | None]:
    document, problems = load("s.yaml", (_MODEL + text).encode())
    assert document is not None
    assert not problems + validate("spec", document)
    spec, found = expand("s", document, targets(), "targets.yaml")
    assert not found
    return {cell.variant.name: cell.variant.latency for cell in spec.cells}


def test_without_a_word_nothing_is_asked() -> None:
    assert latencies("") == {"default": None}


def test_everything_that_may_be_said() -> None:
    found = latencies("""
checks: {latency: {max_p99_ms: 5, max_median_ms: 2.5, profile: max}}
variants:
  fp32: {precision: fp32}
""")
    assert found == {"fp32": LatencyCheck(profile="max", max_p99_ms=5.0, max_median_ms=2.5)}


def test_a_variant_has_the_files_check_with_thresholds_of_its_own() -> None:
    found = latencies("""
checks: {latency: {max_p99_ms: 5, profile: max}}
variants:
  fp32: {precision: fp32}
  tf32: {precision: tf32, checks: {latency: {max_p99_ms: 3}}}
""")
    assert found["fp32"] == LatencyCheck(profile="max", max_p99_ms=5.0)
    assert found["tf32"] == LatencyCheck(profile="max", max_p99_ms=3.0)


def test_the_one_that_all_are_compared_with_is_not_compared_with_itself() -> None:
    found = latencies("""
checks: {latency: {max_slower: {than: fp32, percent: 10}}}
variants:
  fp32: {precision: fp32}
  tf32: {precision: tf32}
""")
    assert found["fp32"] is None
    assert found["tf32"] == LatencyCheck(max_slower=MaxSlower(than="fp32", percent=10.0))


def test_the_one_that_all_are_compared_with_keeps_its_other_thresholds() -> None:
    found = latencies("""
checks: {latency: {max_median_ms: 2, max_slower: {than: fp32, percent: 10}}}
variants:
  fp32: {precision: fp32}
  tf32: {precision: tf32}
""")
    assert found["fp32"] == LatencyCheck(max_median_ms=2.0)
