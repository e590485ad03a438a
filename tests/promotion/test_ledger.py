"""Events of a ledger, as they are signed and read."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import Untrusted
from engineforge.promotion.attest.statement import Statement
from engineforge.promotion.ledger import (
    EVENT,
    Event,
    Listed,
    Origin,
    Verdict,
    read_event,
    statement_of,
)

THEN = datetime(2026, 11, 21, 17, 32, 28, tzinfo=timezone.utc)


def listed(name: str = "fp16@h200", **changes: Any) -> Listed:  # noqa: ANN401 - fields of Listed
    variant, _, target = name.partition("@")
    made = Listed(
        variant=variant,
        target=target,
        manifest=_digest(name),
        engine=_digest("engine"),
        plan=_digest("plan"),
        key=_digest("key"),
        since=THEN,
        policy={"approval": {"by": ["alice"], "count": 1}},
        gates={
            "approval": Verdict(passed=True, why="'alice' approved"),
            "freshness": Verdict(passed=False, overridden=True, why="stale"),
        },
    )
    return replace(made, **changes)


def _digest(text: str) -> Digest:
    return digest_bytes(text.encode())


FIRST = Event(
    number=1,
    previous=None,
    action="promote",
    environment="staging",
    spec="ocr/detector",
    time=THEN,
    by="ci@host",
    reason="",
    source=None,
    engines=(listed(), listed("int8@h200")),
)
LATER = replace(
    FIRST,
    number=2,
    previous=_digest("1"),
    action="rollback",
    reason="it was on fire\n",
    source=Origin(environment="dev", number=7),
)


@pytest.mark.parametrize("event", [FIRST, LATER])
def test_what_was_signed_is_read(event: Event) -> None:
    written = statement_of(event).to_bytes()
    assert read_event(Statement.from_bytes(written)) == event


def test_its_subjects_are_the_manifests_of_its_engines() -> None:
    subjects = statement_of(FIRST).subjects
    assert [(each.name, each.digest) for each in subjects] == [
        ("fp16@h200", _digest("fp16@h200")),
        ("int8@h200", _digest("int8@h200")),
    ]


def test_what_was_overridden_is_told_by_name() -> None:
    assert listed().overridden == ["freshness"]


def test_only_the_first_event_follows_none() -> None:
    with pytest.raises(ValueError, match="the first event has no previous one"):
        replace(FIRST, number=2)
    with pytest.raises(ValueError, match="the first event has no previous one"):
        replace(LATER, number=1)


def _changed(path: str, value: object, event: Event = FIRST) -> Statement:
    """The statement of an event where one leaf is another; None takes it away."""
    raw: Any = dict(statement_of(event).predicate)
    raw["engines"] = [dict(each) for each in raw["engines"]]
    at = raw
    *way, last = path.split(".")
    for each in way:
        at = at[int(each)] if isinstance(at, list) else at[each]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return replace(statement_of(event), predicate=raw)


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("number", None, "'number' is missing"),
        ("number", 0, "event 0 of a ledger does not say which one it follows"),
        ("number", True, "expected a whole number"),
        ("number", 2, "event 2 of a ledger does not say which one it follows"),
        ("previous", str(_digest("1")), "event 1 of a ledger does not say which one it follows"),
        ("previous", "sha256:1", "'previous' of an event of a ledger: expected 'sha256:'"),
        ("action", "replace", "expected 'promote' or 'rollback'"),
        ("time", "2026-11-21", "expected a time such as"),
        ("source", {"environment": "dev"}, "'number' is missing"),
        ("source", {"environment": "dev", "number": 1, "x": 1}, "there is 'x'"),
        ("more", 1, "there is 'more', and this version does not know what that means"),
        ("engines.0.more", 1, "there is 'more'"),
        ("engines.0.manifest", str(_digest("x")), "signed for other engines than it names"),
        ("engines.0.variant", "fp32", "signed for other engines than it names"),
        ("engines.0.variant", "../x", "'variant' of an event of a ledger is no name: '../x'"),
        ("engines.0.target", "h200\n", "'target' of an event of a ledger is no name: 'h200\\\\n'"),
        ("engines.0.target", "", "'target' of an event of a ledger is no name: ''"),
        ("engines.0.engine", "sha256:xyz", "'engine' of an event of a ledger"),
        ("engines.0.policy", [], "expected an object"),
        ("engines.0.policy", None, "'policy' is missing"),
        ("engines.0.gates.approval", {"passed": True, "why": ""}, "'overridden' is missing"),
        (
            "engines.0.gates.approval",
            {"passed": 1, "overridden": False, "why": ""},
            "expected true or false",
        ),
        ("engines.0.variant", "int8", "an event of a ledger names two engines int8@h200"),
        ("engines", [], "an event of a ledger names no engine"),
    ],
)
def test_what_is_not_understood_is_refused(path: str, value: object, why: str) -> None:
    with pytest.raises(Untrusted, match=why):
        read_event(_changed(path, value))


def test_another_version_is_refused() -> None:
    other = replace(statement_of(FIRST), predicate_type=f"{EVENT}.1")
    with pytest.raises(Untrusted, match="the statement is a"):
        read_event(other)


def test_an_engine_under_two_names_is_two_engines() -> None:
    """Two variants may come to the same bytes."""
    twice = replace(FIRST, engines=(listed(), replace(listed(), variant="best")))
    assert read_event(statement_of(twice)) == twice
