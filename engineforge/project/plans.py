"""What planning a project gives: its variants with their states, problems, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypedDict

from engineforge.digest import Digest
from engineforge.errors import Problem, UsageError
from engineforge.plan.planner import Stale, State, UpToDate

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from engineforge.project.outcomes import Results
    from engineforge.project.specs import Specs
    from engineforge.worker.job import Job, SourceJob
    from engineforge.worker.outcome import Event, Outcome

Kind = Literal["accuracy", "engine", "latency", "sensitivity"]
"""Of checks: of the converted model, of its engine, of the engine's speed; and, of a converted
model, what each of its layers costs."""


class Running(TypedDict, total=False):
    """How a plan is carried out: `jobs` variants at once, beside one on each GPU (by default as
    many as there are cores and memory for); `keep_going` with the rest when something fails, and
    past problems; a `timeout` in seconds for each step; `cold`, without timing caches; `observe`
    is told of each event."""

    jobs: int | None
    keep_going: bool
    timeout: float | None
    cold: bool
    observe: Callable[[Event], None]


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
class Asked:
    """What a plan was asked for, to ask it again: see `Specs.plan`."""

    selection: Selection = field(default_factory=Selection)
    versions: Mapping[str, str] = field(default_factory=dict)
    paranoid: bool = False
    checks: bool = False
    data_may_miss: bool = False
    environments: bool = False
    jobs: bool = False
    to_build: bool = False


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
    def why(self) -> str:
        """Why it is stale, in words; nothing where it is up to date."""
        return "; ".join(map(str, self.state.reasons)) if isinstance(self.state, Stale) else ""

    @property
    def label(self) -> str:
        return f"{self.spec}/{self.variant}@{self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What planning cost; a no-op costs none of it."""

    files_hashed: int = 0
    bytes_hashed: int = 0
    specs_parsed: int = 0


@dataclass(slots=True, repr=False)
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
    faults: tuple[str, ...] = ()
    """What was found to be corrupt in the store, and is set aside."""
    specs: Specs | None = field(default=None, compare=False)
    """Which carry it out."""
    asked: Asked = field(default_factory=Asked, compare=False)

    def __repr__(self) -> str:
        # In a notebook it is shown by its name alone, and may have thousands of variants.
        counts = f"{len(self.variants)} variants, {len(self.stale)} stale"
        return f"<Plan: {counts}, {len(self.problems)} problems>"

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

    def explain(self) -> str:
        """A line for each variant: whether it is up to date, and else why not."""
        return "\n".join(
            f"{each.label}: {f'stale: {each.why}' if each.why else 'up to date'}"
            for each in self.variants
        )

    def elsewhere(self) -> Plan:
        """The same plan, in which what is stale says also what the store that machines share has
        of it; RemoteUnavailable where that cannot be asked."""
        return self._by.elsewhere(self)

    def make_sources(self, **running: Unpack[Running]) -> Plan:
        """Export, fetch and prepare the models of `unmade`; the plan that there is then, where one
        that failed is `settled`. Building and checking do so first, by themselves."""
        return self._by.make_sources(self, **running)

    def build(
        self, *, prepare: bool = False, on: str | None = None, **running: Unpack[Running]
    ) -> Results:
        """Build what is stale, each in a process of its own; what fails is an outcome.

        With `prepare`, only import and convert the models; `on` a Ray cluster, `ray://HOST:10001`
        or `ray` for the one that runs here, its nodes build. `running` is described by `Running`.
        SpecError where the plan has problems and is not to keep going; UsageError; StoreCorrupt.
        """
        return self._by.build(self, prepare=prepare, on=on, **running)

    def check(self, kind: Kind, *, again: bool = False, **running: Unpack[Running]) -> Results:
        """Carry out the checks of one kind that the specs ask for; with `again`, latency also where
        it was measured before. HostUnfit without what it takes, SpecError as for `build`."""
        return self._by.measure(self, kind, again=again, **running)

    def rebuild(self, **running: Unpack[Running]) -> Results:
        """Build the engines that are up to date once more, and compare; the store stays as it
        is."""
        return self._by.rebuild(self, **running)

    @property
    def _by(self) -> Specs:
        if self.specs is None:
            raise UsageError(
                "nobody carries out a plan that was made by hand", hint="load_specs(…).plan(…)"
            )
        return self.specs
