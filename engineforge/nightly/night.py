"""What came of a night: a case for each thing that was done to each variant, and the exit code that
all of them come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from engineforge.errors import (
    EngineForgeError,
    HostUnfit,
    Problem,
    PromotionRefused,
    SpecError,
    StoreCorrupt,
)

STEPS = (
    "lock",
    "plan",
    "build",
    "accuracy",
    "engine",
    "latency",
    "promotion",
    "gc",
    "report",
    "store",
)
"""In their order, accuracy, engine and latency being the checks; `store` is what was found corrupt
on the way."""

INTERRUPTED = 130
WORST_FIRST = (
    INTERRUPTED,
    StoreCorrupt.exit_code,
    SpecError.exit_code,
    EngineForgeError.exit_code,
    PromotionRefused.exit_code,
    HostUnfit.exit_code,
)
"""Of all that happens in a night, the exit code that counts: what may have lost something before
what is wrong with what people wrote, then with what was made of it, then what was not let in, then
what this host lacks."""

Verdict = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a step came to for a variant, for a spec or, with no `label`, as a whole. `code` is the
    exit code that a failure comes to, `detail` the end of its log, `at` is where specs say what
    failed; `said_no` is whether a check or gate was asked, and that was its answer."""

    step: str
    verdict: Verdict
    label: str = ""
    spec: str = ""
    code: int = 0
    said: str = ""
    detail: tuple[str, ...] = ()
    said_no: bool = False
    seconds: float | None = None
    at: Problem | None = None

    @property
    def name(self) -> str:
        """Who it is about, for people."""
        return self.label or self.spec or self.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """An engine that an environment has; `fresh` is None where that cannot be told, `why` says what
    is stale about it."""

    environment: str
    spec: str
    variant: str
    target: str
    engine: str
    fresh: bool | None
    why: str | None = None

    @property
    def name(self) -> str:
        return f"{self.environment}: {self.spec}/{self.variant}@{self.target}"

    def as_json(self) -> dict[str, Any]:
        return {
            "environment": self.environment,
            "spec": self.spec,
            "variant": self.variant,
            "target": self.target,
            "engine": self.engine,
            "fresh": self.fresh,
            "why": self.why,
        }


@dataclass(slots=True, kw_only=True)
class Night:
    """Grows while it goes on, so that what there is when it is interrupted can be told. `serving`
    is None until environments were asked; `newly_stale` were not so at the last night."""

    started: datetime
    project: str = ""
    cases: list[Case] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    serving: Sequence[Serving] | None = None
    newly_stale: Sequence[Serving] = ()
    document: Mapping[str, Any] | None = None
    interrupted: bool = False

    @property
    def code(self) -> int:
        codes = {each.code for each in self.cases} | ({INTERRUPTED} if self.interrupted else set())
        return worst(codes)

    @property
    def failed(self) -> list[Case]:
        """In the order of what they come to, the worst first."""
        found = [each for each in self.cases if each.verdict == "failed"]
        return sorted(found, key=lambda each: WORST_FIRST.index(each.code))

    def counted(self, step: str) -> Mapping[str, int]:
        """How many cases of a step came to what."""
        return Counter(each.verdict for each in self.cases if each.step == step)


def worst(codes: Iterable[int]) -> int:
    """0 where nothing went wrong."""
    found = set(codes)
    return next((code for code in WORST_FIRST if code in found), 0)


def unexpected(error: Exception) -> str:
    """What is said of an exception that nobody expected."""
    return (
        f"what nobody expected: {type(error).__name__}; its traceback is in what this command said"
    )
