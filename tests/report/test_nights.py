"""How two nights differ."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engineforge.errors import UsageError
from engineforge.report.events import Log
from engineforge.report.nights import compare_logs, compare_reports, night_lines, read_report
from tests.report.documents import (
    build,
    checked,
    failure,
    large,
    last,
    report,
    serving,
    timed,
    variant,
)

_LABEL = "net/fp16@h200"


def _changed(before: dict[str, Any], after: dict[str, Any], **more: Any) -> dict[str, Any]:  # noqa: ANN401
    found = compare_reports(
        report([variant(_LABEL, **before)]), report([variant(_LABEL, **after)], **more)
    )
    changed: dict[str, Any] = found["changed"].get(_LABEL, {})
    return changed


def test_nothing_changes_between_equal_nights() -> None:
    night = large(40)
    found = compare_reports(night, night)
    assert (found["changed"], found["same"], found["added"]) == ({}, 40, [])


def test_variants_come_and_go() -> None:
    found = compare_reports(report([variant("a/x@t")]), report([variant("b/x@t")]))
    assert (found["added"], found["removed"]) == (["b/x@t"], ["a/x@t"])


def test_a_variant_that_fails_now_says_why() -> None:
    found = _changed({}, {"failure": failure("engine", "no tactic")})
    assert found["status"] == {"before": "up-to-date", "after": "failed"}
    assert found["failure"] == {"stage": "engine", "error": "no tactic"}


def test_a_variant_that_is_stale_now_says_why() -> None:
    assert _changed({}, {"state": "stale", "why": ["model changed"]})["why"] == ["model changed"]


def test_an_engine_that_was_rebuilt_has_the_leaves_that_changed_since() -> None:
    old = last(_LABEL, finished="2026-09-29T00:00:00+00:00")
    new = last(f"{_LABEL} new", size=2 << 20, finished="2026-10-01T03:00:00+00:00")
    builds = [
        {**build(_LABEL, why="now"), "changes": [{"leaf": "b", "before": 1, "after": 2}]},
        {
            **build(_LABEL, days_ago=1, why="then"),
            "changes": [{"leaf": "a", "before": 1, "after": 2}],
        },
        build(_LABEL, days_ago=9, why="long ago"),
    ]
    found = _changed({"last": old}, {"last": new}, builds=builds)
    assert [each["leaf"] for each in found["key"]] == ["a", "b"]
    assert found["size"] == {"before": 1 << 20, "after": 2 << 20}


def test_only_what_was_measured_anew_has_another_latency() -> None:
    assert _changed({"latency": timed(1.0)}, {"latency": timed(1.0)}) == {}
    found = _changed({"latency": timed(1.0)}, {"latency": timed(1.5)})
    assert found["latency"] == {"before": 1.0, "after": 1.5}


def test_accuracies_are_compared_by_what_both_have() -> None:
    both = [{"accuracy": {"asked": True, "model": checked(e), "engine": None}} for e in (0.1, 0.2)]
    assert _changed(*both)["accuracy"]["text"] == "error 0.1 → error 0.2"


def test_what_environments_serve_is_compared_by_number() -> None:
    found = _changed({}, {"environments": {"dev": serving(4)}})
    assert found["environments"] == {"dev": {"before": None, "after": 4}}


def test_promotions_of_the_night_are_told() -> None:
    night = large(24)
    before = {**night, "promotions": night["promotions"][1:]}
    found = compare_reports(before, night)
    assert found["promotions"] == night["promotions"][:1]
    assert any(line.startswith("! ") for line in night_lines(found))


def test_a_night_is_told_in_lines() -> None:
    before = report([variant(_LABEL, latency=timed(1.0)), variant("a/x@t")])
    more = {"failure": failure("engine", "no tactic"), "latency": timed(1.5)}
    after = report([variant(_LABEL, **more), variant("b/x@t")])
    assert [*night_lines(compare_reports(before, after))][1:] == [
        "- a/x@t",
        "+ b/x@t",
        "~ net/fp16@h200",
        "    up to date → failed",
        "    in stage engine: no tactic",
        "    median 1 → 1.5 ms (+50.0 %)",
        "1 variant changed, 0 the same, 1 added, 1 removed",
    ]


def test_logs_are_compared_by_how_variants_ended() -> None:
    before = Log(finished={"a": {"outcome": "built"}, "b": {"outcome": "built"}})
    failed = {"outcome": "failed", "stage": "engine", "error": "no tactic"}
    after = Log(finished={"a": failed, "b": {"outcome": "built"}, "c": {"outcome": "built"}})
    assert [*night_lines(compare_logs(before, after))] == [
        "+ c",
        "~ a",
        "    built → failed",
        "    in stage engine: no tactic",
        "1 variant changed, 1 the same, 1 added, 0 removed",
    ]


def test_a_report_of_another_format_is_refused() -> None:
    text = json.dumps({**report([]), "format": 2})
    with pytest.raises(UsageError, match=r"'a\.json' is a report of format 2, and this version"):
        read_report(text, "a.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "other"}', '{"v": 1}'])
def test_what_is_no_report_is_none(text: str) -> None:
    assert read_report(text, "a.json") is None
