"""The ledger of a spec in an environment: signed events, each naming the one before it by digest.
The last one says which engines are there; nothing is ever taken out of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from engineforge.digest import Digest
from engineforge.errors import Untrusted
from engineforge.promotion.attest.statement import Statement, Subject, predicate_of
from engineforge.promotion.attest.strict import Fields, time_text

EVENT = "https://engineforge.dev/ledger/v1"
"""The predicate type of an event. Fields of the predicate are those of `Event`; times are UTC, as
RFC 3339 writes them."""

Action = Literal["promote", "rollback"]
_ACTIONS = ("promote", "rollback")
# Of variants and targets, as schema.json has it.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a gate said of an engine when it was let in."""

    passed: bool
    overridden: bool = False
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An engine that an environment has: its manifest there, the sha256 of the engine file, the
    keys of its entry and plan, since when, and by which policy (`gates.policy`) it was let in."""

    variant: str
    target: str
    manifest: Digest
    engine: Digest
    plan: Digest
    key: Digest
    since: datetime
    policy: Mapping[str, Any]
    gates: Mapping[str, Verdict]

    @property
    def name(self) -> str:
        return f"{self.variant}@{self.target}"

    @property
    def overridden(self) -> list[str]:
        """The gates that did not let it pass, and were overridden."""
        return [name for name, verdict in self.gates.items() if verdict.overridden]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The state of another environment that engines came from."""

    environment: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a ledger, the `number`-th from 1; `previous` is the digest of the one before.

    `engines` are all that the environment has of the spec from then on.
    """

    number: int
    previous: Digest | None
    action: Action
    environment: str
    spec: str
    time: datetime
    by: str
    reason: str
    source: Origin | None
    engines: tuple[Listed, ...]

    def __post_init__(self) -> None:
        if (self.number == 1) != (self.previous is None) or self.number < 1:
            raise ValueError("the first event has no previous one, and every other has")


def statement_of(event: Event) -> Statement:
    """An event as what is signed; its subjects are the manifests of its engines."""
    predicate: dict[str, Any] = {
        "number": event.number,
        "previous": event.previous,
        "action": event.action,
        "environment": event.environment,
        "spec": event.spec,
        "time": time_text(event.time),
        "by": event.by,
        "reason": event.reason,
        "source": None,
        "engines": [_written(each) for each in event.engines],
    }
    if event.source is not None:
        predicate["source"] = {
            "environment": event.source.environment,
            "number": event.source.number,
        }
    subjects = tuple(Subject(name=each.name, digest=each.manifest) for each in event.engines)
    return Statement(subjects=subjects, predicate_type=EVENT, predicate=predicate)


def read_event(statement: Statement) -> Event:
    """Untrusted for a statement of anything else."""
    fields = predicate_of(statement, EVENT)
    origin = None
    if not fields.null("source"):
        source = fields.fields("source")
        origin = Origin(environment=source.text("environment"), number=source.whole("number"))
        source.done()
    engines = tuple(_read(each) for each in fields.each("engines"))
    if not engines:
        raise Untrusted("an event of a ledger names no engine")
    names = [each.name for each in engines]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Untrusted(f"an event of a ledger names two engines {twice[0]}")
    number = fields.whole("number")
    previous = None if fields.null("previous") else _digest(fields, "previous")
    if number < 1 or (number == 1) != (previous is None):
        raise Untrusted(f"event {number} of a ledger does not say which one it follows")
    event = Event(
        number=number,
        previous=previous,
        action="rollback" if fields.one_of("action", *_ACTIONS) == "rollback" else "promote",
        environment=fields.text("environment"),
        spec=fields.text("spec"),
        time=fields.time("time"),
        by=fields.text("by"),
        reason=fields.text("reason"),
        source=origin,
        engines=engines,
    )
    fields.done()
    if statement_of(event).subjects != statement.subjects:
        raise Untrusted("an event of a ledger is signed for other engines than it names")
    return event


def _written(engine: Listed) -> dict[str, Any]:
    return {
        "variant": engine.variant,
        "target": engine.target,
        "manifest": engine.manifest,
        "engine": engine.engine,
        "plan": engine.plan,
        "key": engine.key,
        "since": time_text(engine.since),
        "policy": dict(engine.policy),
        "gates": {
            name: {"passed": each.passed, "overridden": each.overridden, "why": each.why}
            for name, each in engine.gates.items()
        },
    }


def _read(fields: Fields) -> Listed:
    found = Listed(
        variant=_name(fields, "variant"),
        target=_name(fields, "target"),
        manifest=_digest(fields, "manifest"),
        engine=_digest(fields, "engine"),
        plan=_digest(fields, "plan"),
        key=_digest(fields, "key"),
        since=fields.time("since"),
        policy=fields.mapping("policy"),
        gates=_verdicts(fields.fields("gates")),
    )
    fields.done()
    return found


def _name(fields: Fields, field: str) -> str:
    """Folders and files are called by it, and people read it."""
    text = fields.text(field)
    if not _NAME.fullmatch(text):
        raise Untrusted(f"'{field}' of an event of a ledger is no name: {text!r}")
    return text


def _verdicts(gates: Fields) -> dict[str, Verdict]:
    found = {}
    for name in gates.names:
        each = gates.fields(name)
        found[name] = Verdict(
            passed=each.flag("passed"), overridden=each.flag("overridden"), why=each.text("why")
        )
        each.done()
    return found


def _digest(fields: Fields, name: str) -> Digest:
    text = fields.text(name)
    try:
        return Digest(text)
    except ValueError as error:
        raise Untrusted(f"'{name}' of an event of a ledger: {error}") from error
