"""Environments as lines for people and as JSON: what was promoted, what is where, since when. Pure:
prints nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engineforge.errors import printable
from engineforge.project.plans import PlannedVariant
from engineforge.promotion.attest.strict import time_text
from engineforge.promotion.candidate import Fresh, Freshness, Stale, Unknown
from engineforge.promotion.gates import GateResult
from engineforge.promotion.ledger import Event, Listed
from engineforge.promotion.promoting import Judged, Promoted
from engineforge.promotion.state import State
from engineforge.report.text import counted, duration

_DAY = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One variant in one environment: the engine that it has there, if any."""

    variant: PlannedVariant
    environment: str
    state: State | None
    engine: Listed | None
    freshness: Freshness | None


def plain(lines: Iterable[str]) -> Iterator[str]:
    """The same without what terminals obey: in a reason or a name, anything may be written."""
    # A line break in a reason must not make it look like two lines of ours.
    yield from (printable(line).replace("\n", "\\n") for line in lines)


def promoted_lines(environment: str, judged: Judged, promoted: Promoted | None) -> Iterator[str]:
    """What became of one spec; each refusal with what would mend it."""
    if promoted is None:
        word = "refused by" if judged.refused else "would be let into"
        yield f"{judged.spec}: {word} {environment}"
    elif promoted.changed:
        yield f"{judged.spec}: {environment} has number {promoted.state.number}"
    else:
        yield f"{judged.spec}: nothing to do, {environment} has number {promoted.state.number}"
    for label, verdicts in judged.verdicts.items():
        yield f"  {label}"
        for each in verdicts:
            yield f"    {_word(each):10} {each.gate:10} {each.why}"
            if not each.lets_in and each.hint:
                yield f"    {'':10} {'':10} hint: {each.hint}"
    for engine in judged.dropped:
        yield f"  {engine.name}: dropped, the spec does not name it"


def _word(result: GateResult) -> str:
    return "passed" if result.passed else "OVERRIDDEN" if result.overridden else "REFUSED"


def promoted_data(environment: str, judged: Judged, promoted: Promoted | None) -> dict[str, Any]:
    return {
        "spec": judged.spec,
        "environment": environment,
        "refused": judged.refused,
        "number": promoted.state.number if promoted else None,
        "changed": promoted is not None and promoted.changed,
        "engines": [
            {
                "variant": each.candidate.variant,
                "target": each.candidate.target,
                "manifest": each.candidate.manifest,
                "engine": each.candidate.engine,
                "gates": [
                    {
                        "gate": verdict.gate,
                        "passed": verdict.passed,
                        "overridden": verdict.overridden and not verdict.passed,
                        "why": verdict.why,
                        "hint": verdict.hint,
                    }
                    for verdict in judged.verdicts[each.candidate.label]
                ],
            }
            for each in judged.offered
        ],
        "dropped": [each.name for each in judged.dropped],
    }


def rolled_back_lines(promoted: Promoted) -> Iterator[str]:
    state = promoted.state
    if not promoted.changed:
        yield f"{state.spec}: nothing to do, {state.environment} has these engines"
        return
    origin = state.event.source
    what = f"those of number {origin.number}" if origin else "others"
    yield f"{state.spec}: {state.environment} has number {state.number}, {what}"
    for each in state.engines:
        yield f"  {each.name}  engine {each.engine.short}{_marks(each)}"


def state_data(state: State) -> dict[str, Any]:
    return {
        "spec": state.spec,
        "environment": state.environment,
        "number": state.number,
        "signed_by": sorted(state.signed_by),
        "engines": [engine_data(each) for each in state.engines],
    }


def engine_data(engine: Listed) -> dict[str, Any]:
    return {
        "variant": engine.variant,
        "target": engine.target,
        "manifest": engine.manifest,
        "engine": engine.engine,
        "plan": engine.plan,
        "key": engine.key,
        "since": time_text(engine.since),
        "gates": {
            name: {"passed": each.passed, "overridden": each.overridden, "why": each.why}
            for name, each in engine.gates.items()
        },
    }


def event_data(event: Event, signed_by: Iterable[str]) -> dict[str, Any]:
    return {
        "number": event.number,
        "action": event.action,
        "time": time_text(event.time),
        "by": event.by,
        "signed_by": sorted(signed_by),
        "reason": event.reason,
        "source": None
        if event.source is None
        else {"environment": event.source.environment, "number": event.source.number},
        "engines": [engine_data(each) for each in event.engines],
    }


def history_lines(spec: str, events: Sequence[tuple[Event, frozenset[str]]]) -> Iterator[str]:
    """Newest first: what changed with each event, who did it, and why."""
    yield spec
    before: dict[str, Listed] = {}
    told: list[list[str]] = []
    for event, signed_by in events:
        now = {each.name: each for each in event.engines}
        origin = f" from {event.source.environment} {event.source.number}" if event.source else ""
        by = f"{event.by}, signed by {', '.join(sorted(signed_by))}"
        lines = [f"  {event.number:4}  {time_text(event.time)}  {event.action}{origin}  {by}"]
        if event.reason:
            lines.append(f"        {event.reason}")
        for name, engine in now.items():
            old = before.get(name)
            if old is None or old.manifest != engine.manifest:
                came = f" (was {old.engine.short})" if old else ""
                lines.append(f"        {name}  engine {engine.engine.short}{came}{_marks(engine)}")
        lines += [f"        {name}  dropped" for name in before if name not in now]
        told.append(lines)
        before = now
    for lines in reversed(told):
        yield from lines


def _marks(engine: Listed) -> str:
    return f"  OVERRIDDEN: {', '.join(engine.overridden)}" if engine.overridden else ""


def cell_data(cell: Cell) -> dict[str, Any]:
    fresh = cell.freshness
    return {
        "spec": cell.variant.spec,
        "variant": cell.variant.variant,
        "target": cell.variant.target,
        "environment": cell.environment,
        "number": cell.state.number if cell.state else None,
        "engine": None if cell.engine is None else engine_data(cell.engine),
        "fresh": None if fresh is None or isinstance(fresh, Unknown) else isinstance(fresh, Fresh),
        "why": fresh.why if isinstance(fresh, Stale | Unknown) else None,
    }


def status_lines(cells: Sequence[Cell], names: Sequence[str], now: datetime) -> Iterator[str]:
    """A row for each variant, a column for each environment; below it, what needs a person."""
    rows: dict[str, dict[str, Cell]] = {}
    for each in cells:
        rows.setdefault(each.variant.label, {})[each.environment] = each
    table = [["", *names]]
    table += [[label, *(_cell(row[name], now) for name in names)] for label, row in rows.items()]
    widths = [max(len(row[i]) for row in table) for i in range(len(names) + 1)]
    for row in table:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    for each in cells:
        where = f"{each.variant.label} in {each.environment}"
        if isinstance(each.freshness, Stale):
            yield f"stale: {where}: {each.freshness.why}"
        if each.engine is not None and each.engine.overridden:
            yield f"overridden: {where}: {', '.join(each.engine.overridden)}"
    there = sum(each.engine is not None for each in cells)
    yield f"{counted(len(rows), 'variant')}, {counted(there, 'engine')} in environments"


def _cell(cell: Cell, now: datetime) -> str:
    engine = cell.engine
    if engine is None:
        return "-"
    mark = {Fresh: "", Stale: " stale", Unknown: " ?"}[type(cell.freshness or Fresh())]
    gates = "!" if engine.overridden else ""
    age = max((now - engine.since).total_seconds(), 0)
    told = f"{age / _DAY:.0f} d" if age >= _DAY else duration(age)
    return f"{engine.engine.short}{gates} {told}{mark}"
