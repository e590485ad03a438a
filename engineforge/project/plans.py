"""What planning a project gives: its variants with their states, problems, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engineforge.digest import Digest
from engineforge.errors import Problem
from engineforge.plan.planner import Stale, State, UpToDate

if TYPE_CHECKING:
    from engineforge.worker.job import Job, SourceJob
    from engineforge.worker.outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which variants of the specs are meant; empty means all."""

    variants: frozenset[str] = frozenset()
    targets: frozenset[str] = frozenset()

    @property
    def all(self) -> bool:
        return not self.variants and not self.targets

    def takes(self, variant: PlannedVariant) -> bool:
        return (not self.variants or variant.variant in self.variants) and (
            not self.targets or variant.target in self.targets
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedVariant:
    """One variant: its plan, and what this host and the past say of it.

    `unfit` is why this host cannot build it; `seconds` the median of its last builds. A variant
    that is known to be up to date was not read, and has no job. One whose model is not made yet has
    no plan either; where that was tried in vain, `settled` is what it came to.
    """

    spec: str
    variant: str
    target: str
    plan: Digest | None
    state: State
    unfit: str | None = None
    seconds: float | None = None
    job: Job | None = None
    settled: Outcome | None = None

    @property
    def engine(self) -> Digest | None:
        """The key of its engine, where that is up to date."""
        return self.state.engine if isinstance(self.state, UpToDate) else None

    @property
    def label(self) -> str:
        return f"{self.spec}/{self.variant}@{self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What planning cost; a no-op costs none of it."""

    files_hashed: int = 0
    bytes_hashed: int = 0
    specs_parsed: int = 0


@dataclass(slots=True)
class Plan:
    """All selected variants of all specs, the `others` of those specs, and the problems of what
    could not be planned; `unmade` are the models, by spec, that have to be made first."""

    variants: list[PlannedVariant] = field(default_factory=list)
    others: list[PlannedVariant] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    effort: Effort = field(default_factory=Effort)
    unmade: dict[str, SourceJob] = field(default_factory=dict)
    whole: bool = False
    """Whether these are all variants that the project has, as far as they could be planned."""

    @property
    def stale(self) -> list[PlannedVariant]:
        return [each for each in self.variants if isinstance(each.state, Stale)]

    @property
    def all(self) -> dict[tuple[str, str, str], PlannedVariant]:
        """The selected variants and the others, by spec, variant and target."""
        everything = (*self.variants, *self.others)
        return {(each.spec, each.variant, each.target): each for each in everything}

    @property
    def checked(self) -> dict[tuple[str, str], PlannedVariant]:
        """Those with an accuracy check, one for each spec and variant: what is compared is the
        same for every target, so the first one stands for all."""
        found: dict[tuple[str, str], PlannedVariant] = {}
        for each in self.variants:
            if each.job is not None and each.job.variant.accuracy is not None:
                found.setdefault((each.spec, each.variant), each)
        return found
