"""Event logs: what is written is read again, and what is no log is refused."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from engineforge.errors import UsageError
from engineforge.report import data
from engineforge.report.events import line, read
from engineforge.worker.outcome import (
    Built,
    Event,
    Failed,
    Finished,
    Moved,
    Noted,
    Started,
    Waiting,
)
from tests.report.plans import ENTRY, planned

_NOW = datetime(2026, 10, 1, 5, 0, 7, 999, tzinfo=timezone(timedelta(hours=2)))
_FAILED = Failed(stage="engine", error="no tactic", log=("one", "two"))
_BUILT = Built(engine=ENTRY, path=Path("model.engine"), seconds=1.25)


def _log(*events: Event) -> str:
    return "".join(line(each, _NOW) or "" for each in events)


def test_an_event_is_one_line_of_ascii_with_version_and_time() -> None:
    written = line(Started("ネット/fp32@ada\n\x00", "building"), _NOW)
    assert written is not None
    assert (written.count("\n"), written.isascii()) == (1, True)
    assert json.loads(written) == {
        "v": 1,
        "time": "2026-10-01T03:00:07Z",
        "event": "started",
        "label": "ネット/fp32@ada\n\x00",
        "phase": "building",
    }


def test_how_a_variant_ended_is_what_build_says_in_json() -> None:
    written = line(Finished("net/fp32@ada", _FAILED), _NOW)
    assert written is not None
    assert json.loads(written).items() >= data.outcome(_FAILED).items()


def test_bytes_on_their_way_are_in_no_log() -> None:
    assert line(Moved("net/fp32@ada", "fetching", 1, 2), _NOW) is None


def test_what_was_written_is_read_again() -> None:
    log = read(
        _log(
            Started("a/x@t", "building"),
            Waiting("a/x@t", "engine", "PID 7"),
            Noted("a/x@t", "a note"),
            Finished("a/x@t", _FAILED),
            Finished("b/x@t", _BUILT),
        ),
        "log",
    )
    assert [(label, each["outcome"]) for label, each in log.finished.items()] == [
        ("a/x@t", "failed"),
        ("b/x@t", "built"),
    ]
    assert log.finished["a/x@t"]["log"] == ["one", "two"]
    assert not log.cut


def test_the_last_end_of_a_variant_counts() -> None:
    log = read(_log(Finished("a/x@t", _FAILED), Finished("a/x@t", _BUILT)), "log")
    assert log.finished["a/x@t"]["outcome"] == "built"


@pytest.mark.parametrize("kept", [1, 20, 60])
def test_a_run_that_was_killed_leaves_a_log_that_can_be_read(kept: int) -> None:
    first, second = (_log(Finished(label, _FAILED)) for label in ("a/x@t", "b/x@t"))
    log = read(first + second[:kept], "log")
    assert [*log.finished] == ["a/x@t"]
    assert log.cut


def test_a_broken_line_before_others_is_an_error() -> None:
    with pytest.raises(UsageError, match="'night' is no event log: line 1 is no JSON object"):
        read("{broken\n" + _log(Finished("a/x@t", _FAILED)), "night")


def test_another_version_is_another_format() -> None:
    text = _log(Finished("a/x@t", _FAILED)).replace('"v": 1', '"v": 2')
    with pytest.raises(
        UsageError, match=r"events of version 2 \(line 1\), and this version reads 1"
    ):
        read(text, "night")


def test_events_and_fields_of_later_versions_are_skipped() -> None:
    text = _log(Finished("a/x@t", _FAILED)).replace('"v": 1', '"v": 1, "more": [1]')
    later = json.dumps({"v": 1, "time": "2026-10-01T03:00:07Z", "event": "promoted"})
    assert [*read(f"{later}\n{text}", "night").finished] == ["a/x@t"]


def test_what_build_printed_is_read_too() -> None:
    printed = json.dumps(data.build(planned("a/x@t", "b/x@t"), [_FAILED, _BUILT]), indent=2)
    log = read(printed, "build.json")
    assert {label: each["outcome"] for label, each in log.finished.items()} == {
        "a/x@t": "failed",
        "b/x@t": "built",
    }


def test_a_plan_has_no_ends() -> None:
    printed = json.dumps(data.plan(planned("a/x@t")))
    with pytest.raises(UsageError, match=r"'plan\.json' has variants without outcomes"):
        read(printed, "plan.json")


def test_an_empty_log_is_one() -> None:
    assert read("", "log").finished == {}
