"""Decides, for each variant, whether it is up to date, and if not why. Pure: facts in, plan out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engineforge.digest import Digest, document
from engineforge.plan.explain import Change, changes
from engineforge.plan.keys import PlanKey


@dataclass(frozen=True, slots=True)
class NeverBuilt:
    """No engine of this variant is known here."""

    def __str__(self) -> str:
        return "never built here"


@dataclass(frozen=True, slots=True)
class Changed:
    """What differs from the plan that this variant last had."""

    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return ", ".join(str(change) for change in self.changes)


@dataclass(frozen=True, slots=True)
class EntryMissing:
    """It was built, and its entry is gone from the store (or was found broken)."""

    stage: str
    key: Digest

    def __str__(self) -> str:
        return f"its {self.stage} entry {self.key.short} is not in the store"


@dataclass(frozen=True, slots=True)
class BuiltElsewhere:
    """The store at `where` has what this very plan led to; or, with `changes`, what the variant
    last led to there, which differs in these."""

    where: str
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        if not self.changes:
            return f"never built here, but elsewhere: it is in {self.where}"
        differs = ", ".join(str(change) for change in self.changes)
        return f"never built here; in {self.where} it differs: {differs}"


@dataclass(frozen=True, slots=True)
class SourceUnmade:
    """The ONNX model of its source is not there: what that is, what it has to be first (exported,
    downloaded, prepared), and how it differs from what this variant was last made of."""

    source: str
    first: str
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        return f"the {self.source} is not {self.first} yet"


Reason = NeverBuilt | Changed | EntryMissing | BuiltElsewhere | SourceUnmade


@dataclass(frozen=True, slots=True)
class UpToDate:
    engine: Digest


@dataclass(frozen=True, slots=True)
class Stale:
    """`stages` are those that will run unless what they would make turns out to be there."""

    reasons: tuple[Reason, ...]
    stages: tuple[str, ...]


State = UpToDate | Stale


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the store says of one variant.

    `engine` is the engine that its plan led to before, `engine_there` whether that is still whole;
    `missing` the stages before it whose entries are not there; `last` the key document that the
    variant last had; `names` what its leaves are that are mere digests.
    """

    engine: Digest | None
    engine_there: bool
    missing: tuple[str, ...]
    last: object | None
    names: Mapping[str, str]


def decide(key: PlanKey, facts: Facts) -> State:
    """Up to date only if this very plan led to an engine and that engine is still there."""
    if facts.engine is not None and facts.engine_there:
        return UpToDate(facts.engine)
    reasons: Sequence[Reason]
    if facts.engine is not None:
        reasons = (EntryMissing("engine", facts.engine),)
    elif facts.last is None:
        reasons = (NeverBuilt(),)
    else:
        reasons = (Changed(tuple(changes(facts.last, document(key), facts.names))),)
    return Stale(tuple(reasons), (*facts.missing, "engine"))
