"""Latency checks as lines and as JSON, from recorded figures."""

from __future__ import annotations

from typing import Any

from engineforge.report.accuracy import check_lines, failure_lines
from engineforge.report.checks import Found, as_json
from engineforge.report.checks import check_lines as all_lines
from engineforge.report.checks import failure_lines as all_failures
from engineforge.report.latency import held_down, verdict
from engineforge.spec.model import LatencyCheck, MaxSlower
from engineforge.worker.outcome import Skipped, Timed
from tests.report.plans import ENTRY, checked, planned

_CHECK = LatencyCheck(max_p99_ms=5.0)


def measured(median: float, p99: float, **when: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "latency_ms": {"median": median, "p99": p99},
        "shapes": {"image": [4, 3, 16, 16]},
        "gpu": {"name": "NVIDIA H200", "uuid": "GPU-1", **when},
    }


def timed(*failures: str, check: LatencyCheck = _CHECK, **more: Any) -> Timed:  # noqa: ANN401
    return Timed(
        entry=ENTRY, check=check, measured=measured(1.1, 1.2345), failures=failures, **more
    )


def test_a_line_has_what_was_measured_and_what_was_asked() -> None:
    (line,) = check_lines(planned("net/fp16@h200"), [timed()])
    assert line == (
        "passed   net/fp16@h200  p99 1.234 ms (max 5), median 1.1 ms; "
        "at opt, image 4x3x16x16; NVIDIA H200"
    )


def test_what_was_measured_before_is_said_to_be() -> None:
    (line,) = check_lines(planned("net/fp16@h200"), [timed(kept=True)])
    assert line.endswith("NVIDIA H200, measured before")


def test_a_comparison_is_in_percent_of_the_other() -> None:
    check = LatencyCheck(max_slower=MaxSlower(than="fp32", percent=10))
    found = timed("median is 10.0 % over", check=check, than=measured(1.0, 1.0))
    (line,) = check_lines(planned("net/fp16@h200"), [found])
    assert line.startswith("FAILED   net/fp16@h200  p99 1.234 ms, median 1.1 ms, +10.0 % against")
    assert "against 'fp32' (max +10 %); at opt" in line


def test_what_held_the_clocks_down_is_in_the_line() -> None:
    reasons = measured(
        1.0,
        1.0,
        idle={"throttled_by": ["hw_slowdown"]},
        start={"throttled_by": ["gpu_idle", "sw_power_cap"]},
        end={"throttled_by": None},
    )
    assert held_down(reasons) == ["sw_power_cap"]
    found = Timed(entry=ENTRY, check=_CHECK, measured=reasons)
    (line,) = check_lines(planned("net/fp16@h200"), [found])
    assert line.endswith("NVIDIA H200; held down by sw_power_cap")


def test_why_a_check_failed_has_lines_of_its_own() -> None:
    found = [
        *failure_lines(planned("net/fp16@h200"), [timed("p99 is 6 ms, expected at most 5 ms")])
    ]
    assert found == ["net/fp16@h200:", "  p99 is 6 ms, expected at most 5 ms"]


def test_a_verdict_is_what_the_last_measurement_came_to() -> None:
    assert verdict(timed()).startswith("passed: p99 1.234 ms (max 5), median 1.1 ms; ")
    assert verdict(timed("p99 is 6 ms", "median is 3 ms")) == "FAILED: p99 is 6 ms; median is 3 ms"
    assert verdict(None) == "not measured: engineforge check --latency"


def test_several_kinds_of_checks_stand_side_by_side() -> None:
    plan = planned("net/fp16@h200", "net/no@h200")
    none = Skipped(why="there is no latency check for it")
    found: Found = {"engine": [checked("bad"), checked()], "latency": [timed("slow"), none]}
    assert [line[:33] for line in all_lines(plan, found)] == [
        "FAILED   net/fp16@h200  engine   ",
        "FAILED   net/fp16@h200  latency  ",
        "passed   net/no@h200    engine   ",
        "skipped  net/no@h200    latency  ",
    ]
    assert [*all_failures(plan, found)] == [
        "net/fp16@h200, engine:",
        "  bad",
        "net/fp16@h200, latency:",
        "  slow",
    ]


def test_one_kind_alone_is_not_named() -> None:
    plan = planned("net/fp16@h200")
    assert [*all_lines(plan, {"latency": [timed()]})] == [*check_lines(plan, [timed()])]


def test_json_has_each_kind_of_each_variant() -> None:
    plan = planned("net/fp16@h200", "net/int8@h200")
    found: Found = {"engine": [checked()] * 2, "latency": [timed("slow"), timed(kept=True)]}
    made = as_json(plan, found)
    assert [(v["variant"], v["check"], v["outcome"]) for v in made["variants"]] == [
        ("fp16", "engine", "passed"),
        ("fp16", "latency", "failed"),
        ("int8", "engine", "passed"),
        ("int8", "latency", "passed"),
    ]
    slow, kept = made["variants"][1], made["variants"][3]
    assert slow["failures"] == ["slow"]
    assert slow["measured"]["latency_ms"]["p99"] == 1.2345
    assert (slow["kept"], kept["kept"]) == (False, True)
    assert made["format"] == 1
