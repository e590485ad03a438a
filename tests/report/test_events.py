"""Event logs: what is written is read again, and what is no log is refused."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from engineforge.errors import UsageError
from engineforge.report import data
from engineforge.report.events import line, read, schema, written
from engineforge.worker.outcome import (
    Built,
    Event,
    Failed,
    Finished,
    Moved,
    Noted,
    Outcome,
    Skipped,
    Started,
    Waiting,
)
from tests.report.plans import ENTRY, checked, planned

_NOW = datetime(2026, 10, 1, 5, 0, 7, 999, tzinfo=timezone(timedelta(hours=2)))
_FAILED = Failed(stage="engine", error="no tactic", log=("one", "two"))
_PASSED = checked()
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


def test_a_check_that_failed_is_not_hidden_by_one_that_passed_nor_by_the_build() -> None:
    label = "net/fp32@ada"
    events: list[tuple[Outcome, str | None]] = [
        (_BUILT, None),
        (_FAILED, "accuracy"),
        (_PASSED, "latency"),
    ]
    log = read("".join(line(Finished(label, e), _NOW, of) or "" for e, of in events), "log")
    assert (log.finished[label]["outcome"], log.finished[label]["check"]) == ("failed", "accuracy")


def test_a_variant_that_passed_its_checks_is_told_as_it_was_built() -> None:
    events: list[tuple[Outcome, str | None]] = [
        (_BUILT, None),
        (_PASSED, "accuracy"),
        (_PASSED, "latency"),
    ]
    log = read("".join(line(Finished("a/b@c", e), _NOW, of) or "" for e, of in events), "log")
    assert log.finished["a/b@c"]["outcome"] == "built"


def test_a_build_forgets_the_checks_of_the_one_before() -> None:
    events: list[tuple[Outcome, str | None]] = [(_FAILED, "accuracy"), (_BUILT, None)]
    log = read("".join(line(Finished("a/b@c", e), _NOW, of) or "" for e, of in events), "log")
    assert log.finished["a/b@c"]["outcome"] == "built"


def test_a_log_of_a_night_says_what_was_served_and_whether_it_ended() -> None:
    engine = {"environment": "dev", "spec": "net", "fresh": False}
    serving = written({"event": "serving", "engines": [engine, "nonsense"]}, _NOW)
    log = read(serving, "log")
    assert (log.serving, log.ended) == ([engine], False)
    assert read(serving + written({"event": "ended", "code": 0}, _NOW), "log").ended


@pytest.mark.parametrize(
    "event",
    [
        Started("a/b@c", "building"),
        Waiting("a/b@c", "engine", "process 7 on host"),
        Noted("a/b@c", "x"),
        Finished("a/b@c", _BUILT),
        Finished("a/b@c", _FAILED),
        Finished("a/b@c", Skipped(why="no GPU", unfit=True)),
        Finished("a/b@c", _PASSED),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_is_written_fits_the_published_schema(event: Event) -> None:
    Draft202012Validator(schema()).validate(json.loads(line(event, _NOW, "accuracy") or ""))


@pytest.mark.parametrize(
    "said",
    [
        {"event": "finished", "label": "a/b@c"},
        {"event": "finished", "label": "a/b@c", "outcome": "perhaps"},
        {"event": "started", "phase": "building"},
        {"event": "case", "step": "build", "verdict": "failed", "code": 7, "said": ""},
        {"event": "ended", "code": 0},
        {"event": "serving", "engines": [{"environment": "dev"}]},
        {"label": "a/b@c"},
    ],
)
def test_what_is_none_does_not_fit_it(said: dict[str, object]) -> None:
    found = {"v": 1, "time": "2026-10-01T03:00:00Z", **said}
    assert not Draft202012Validator(schema()).is_valid(found)


def test_it_takes_kinds_of_events_and_fields_that_are_new() -> None:
    found = json.loads(written({"event": "tomorrow", "more": 1}, _NOW))
    Draft202012Validator(schema()).validate(found)


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema())
