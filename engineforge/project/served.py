"""What environments have of specs, as far as they can be asked: one that cannot be reached is said
to be so, and takes nothing else down with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from engineforge.errors import EngineForgeError, PromotionRefused, StoreCorrupt
from engineforge.project.promotion import Environments
from engineforge.promotion.environment import Opened
from engineforge.promotion.ledger import Event
from engineforge.promotion.state import State

_AT_ONCE = 8

History = Sequence[tuple[Event, frozenset[str]]]
"""Events with who signed each, the oldest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One environment: by spec what it has, and its verified ledger. `unreachable` is why it could
    not be asked at all; `faults` say by spec what in it is not to be believed."""

    name: str
    source: str | None = None
    states: Mapping[str, State] = field(default_factory=dict)
    histories: Mapping[str, History] = field(default_factory=dict)
    unreachable: str | None = None
    faults: Mapping[str, str] = field(default_factory=dict)


def look(environments: Environments, specs: Iterable[str]) -> list[Served]:
    """All environments of a file, in its order, with what they have of these specs."""
    names = list(specs)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [*pool.map(lambda name: _served(environments, name, names), environments.names)]


def _served(environments: Environments, name: str, specs: Sequence[str]) -> Served:
    try:
        opened = environments.open(name)
        # The first one alone: of what cannot be reached, the others need not wait for that.
        found = [_of_spec(opened, spec) for spec in specs[:1]]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found += pool.map(lambda spec: _of_spec(opened, spec), specs[1:])
    except EngineForgeError as error:
        return Served(name=name, unreachable=_told(error))
    by_spec = dict(zip(specs, found, strict=True))
    there = {spec: each for spec, each in by_spec.items() if isinstance(each, tuple)}
    return Served(
        name=name,
        source=opened.environment.source,
        states={spec: state for spec, (state, _) in there.items()},
        histories={spec: history for spec, (_, history) in there.items()},
        faults={spec: each for spec, each in by_spec.items() if isinstance(each, str)},
    )


def _of_spec(opened: Opened, spec: str) -> tuple[State, History] | str | None:
    """What is there of a spec, or why that is not to be believed."""
    try:
        state = opened.state(spec)
        return None if state is None else (state, opened.history(state))
    except (PromotionRefused, StoreCorrupt) as error:
        return _told(error)


def _told(error: EngineForgeError) -> str:
    return str(error).replace("\nhint: ", "; ")
