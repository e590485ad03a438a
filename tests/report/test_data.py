"""Outcomes as JSON objects."""

from __future__ import annotations

from typing import Any

from engineforge.report import data
from engineforge.worker.outcome import Failed, Outcome, Skipped
from tests.report.plans import ENTRY, checked, layer, planned, ranked


def _of(outcome: Outcome) -> dict[str, Any]:
    """What is said of an outcome, beside what is said of its variant."""
    (found,) = data.build(planned("net/int8@ada"), [outcome])["variants"]
    assert (found.pop("spec"), found.pop("variant"), found.pop("target")) == ("net", "int8", "ada")
    assert found.pop("plan").startswith("sha256:")
    return dict(found)


def test_a_check_passes_or_fails() -> None:
    passed, failed = checked(), checked("cosine of 'a' is 0.8", advice=("keep_fp32: [a]",))
    assert _of(passed) == {
        "outcome": "passed",
        "entry": ENTRY,
        "measured": passed.measured,
        "failures": [],
        "advice": [],
    }
    assert _of(failed) == {
        "outcome": "failed",
        "entry": ENTRY,
        "measured": failed.measured,
        "failures": ["cosine of 'a' is 0.8"],
        "advice": ["keep_fp32: [a]"],
    }


def test_ranked_layers_neither_pass_nor_fail() -> None:
    found = ranked(layer("a", 0.5))
    assert _of(found) == {"outcome": "ranked", "entry": ENTRY, "measured": found.measured}


def test_a_failure_has_its_stage_and_the_end_of_its_log() -> None:
    assert _of(Failed(stage="typed", error="no", log=("one", "two"))) == {
        "outcome": "failed",
        "stage": "typed",
        "error": "no",
        "log": ["one", "two"],
    }


def test_what_was_skipped_says_why_and_whether_it_is_for_this_host() -> None:
    assert _of(Skipped(why="needs ModelOpt", unfit=True)) == {
        "outcome": "skipped",
        "why": "needs ModelOpt",
        "unfit": True,
    }
