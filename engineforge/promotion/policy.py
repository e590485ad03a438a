"""By which gates an engine was let in, as its ledger keeps it, and whether these are what an
environment asks for today."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from engineforge.promotion.gates import SOURCE, span
from engineforge.spec.environments import (
    AccuracyGate,
    AgeGate,
    ApprovalGate,
    Environment,
    FreshnessGate,
    Gate,
    LatencyGate,
    LoadGate,
    ProvenanceGate,
)

_LIMITS = {"max_p99_ms": "ms", "max_median_ms": "ms", "max_slower_percent": "%"}


def policy(environment: Environment) -> dict[str, Any]:
    """The gates of an environment by name, with their parameters, as JSON. Limits are texts: 0.1 is
    not exact in binary. Those that a gate does not have are left out: one that gates learn later
    makes no other policy. Where a gate leaves to all signers who signs, their names are in it.
    """
    made: dict[str, Any] = {
        name: _parameters(gate, environment) for name, gate in environment.gates.items()
    }
    return made if environment.source is None else {SOURCE: {"from": environment.source}, **made}


def looser_than(recorded: Mapping[str, Any], wanted: Environment) -> list[str]:
    """What the policy `recorded` lacks of what an environment asks for, in words; none where it
    asked for as much or more. What cannot be read asked for nothing."""
    lacks = []
    for name, asked in policy(wanted).items():
        had = recorded.get(name)
        if not isinstance(had, Mapping):
            lacks.append(f"'{name}' was not asked for")
            continue
        try:
            found = list(_looser(had, asked))
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            found = [f"its parameters cannot be read ({error!r})"]
        lacks += [f"'{name}': {each}" for each in found]
    return lacks


def _parameters(gate: Gate, environment: Environment) -> dict[str, Any]:
    match gate:
        case FreshnessGate():
            return {}
        case AgeGate():
            return {"least_seconds": int(gate.least.total_seconds())}
        case ApprovalGate():
            return {"by": sorted(gate.by), "count": gate.count}
        case AccuracyGate() | LatencyGate() | LoadGate() | ProvenanceGate():
            signers = sorted(gate.signed_by or environment.signers)
            made: dict[str, Any] = {"signed_by": signers}
    if isinstance(gate, AccuracyGate):
        made |= {"of": gate.of, "data": sorted(map(str, gate.data))}
    if isinstance(gate, LatencyGate):
        limits = {name: getattr(gate, name) for name in _LIMITS}
        made |= {name: repr(each) for name, each in limits.items() if each is not None}
    return made


def _looser(had: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """What the parameters of a gate let pass that those asked for do not."""
    for name, value in asked.items():
        found: Any = had.get(name) if name in _LIMITS else had[name]
        match name:
            case "from" | "of":
                if found != value:
                    yield f"'{name}' was '{found}', and is '{value}'"
            case "signed_by" | "by":
                yield from _more(name, _texts(found), value)
            case "data":
                if value and not found:
                    yield "any data did, and only some does"
                elif value:
                    yield from _more(name, _texts(found), value)
            case "count":
                if _whole(found) < value:
                    yield f"{found} had to approve, and {value} have to"
            case "least_seconds":
                if _whole(found) < value:
                    was, now = (span(timedelta(seconds=each)) for each in (found, value))
                    yield f"{was} were enough, and {now} are asked for"
            case _ if name in _LIMITS:
                if found is None:
                    yield f"'{name}' was not asked for"
                elif not float(_text(found)) <= float(value):
                    yield f"'{name}' was {found}, and is {value}"


def _more(name: str, found: Sequence[str], value: Sequence[str]) -> Iterator[str]:
    # Nobody at all is how `signed_by` says everybody; it is never written so.
    if more := [each for each in found if each not in value]:
        yield f"'{name}' had {', '.join(map(repr, more))} as well"
    if not found:
        yield f"'{name}' was empty"


def _texts(found: Any) -> list[str]:  # noqa: ANN401 - any JSON
    if not isinstance(found, list):
        raise TypeError("no list")
    return [_text(each) for each in found]


def _text(found: Any) -> str:  # noqa: ANN401 - any JSON
    if not isinstance(found, str):
        raise TypeError("no text")
    return found


def _whole(found: Any) -> int:  # noqa: ANN401 - any JSON
    if isinstance(found, bool) or not isinstance(found, int):
        raise TypeError("no whole number")
    return found
