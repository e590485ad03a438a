"""All that is known of a project at one time: its variants with their engines, what those came to,
how they were built, and where they serve. Nothing is built, and nothing measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engineforge.project.last import LastChecks
from engineforge.project.past import Build, builds
from engineforge.project.plans import Plan, PlannedVariant
from engineforge.project.project import Project
from engineforge.project.reading import names_of
from engineforge.project.served import Served
from engineforge.store.local import Entry, LocalStore
from engineforge.worker.latency import LATENCY
from engineforge.worker.measured import CHECKS, ENGINE_CHECKS, last_check, read_measured
from engineforge.worker.outcome import Checked, Timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a check came to, or (`timed` without a check in the spec) a measurement alone; with the
    entry that holds it."""

    entry: Entry
    checked: Checked | None = None
    timed: Timed | None = None

    @property
    def measured(self) -> Mapping[str, Any]:
        if self.checked is not None:
            return self.checked.measured
        return self.timed.measured if self.timed is not None else read_measured(self.entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One variant. `engine` is the entry that is up to date; `model` and `accuracy` are what the
    converted model and the engine came to against the source, `latency` how fast the engine is;
    `builds` are those that the store still has, `seconds` what the last ones took."""

    variant: PlannedVariant
    engine: Entry | None
    model: Found | None
    accuracy: Found | None
    latency: Found | None
    builds: Sequence[Build]
    seconds: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """`environments` is None where the project names none, or they were not asked for."""

    plan: Plan
    variants: Sequence[Known]
    builds: Sequence[Build]
    environments: Sequence[Served] | None


def overview(project: Project, plan: Plan, served: Sequence[Served] | None) -> Overview:
    """All of a plan that was made with `checks`; `builds` are those of its variants, the newest
    first."""
    names = {each.label: names_of(each.job) for each in plan.variants if each.job is not None}
    past = builds(project.store, names)
    last = LastChecks(plan, project.store)
    known = [_known(project, last, each, past.get(each.label, ())) for each in plan.variants]
    every = [build for each in known for build in each.builds]
    return Overview(
        plan=plan,
        variants=known,
        builds=sorted(every, key=lambda build: (build.finished, build.label), reverse=True),
        environments=served,
    )


def _known(
    project: Project, last: LastChecks, variant: PlannedVariant, past: Sequence[Build]
) -> Known:
    store = project.store
    engine = None if variant.engine is None else store.get("engine", variant.engine)
    model = None
    if variant.job is not None and variant.job.check is not None:
        model = _of_check(store, CHECKS, last_check(store, variant.job))
    history = project.index.history(variant.label)
    return Known(
        variant=variant,
        engine=engine,
        model=model,
        accuracy=_of_check(store, ENGINE_CHECKS, last.accuracy(variant)),
        latency=_latency(store, last, variant),
        builds=past,
        seconds=history.seconds if history else (),
    )


def _of_check(store: LocalStore, stage: str, checked: Checked | None) -> Found | None:
    entry = None if checked is None else store.get(stage, checked.entry)
    return None if entry is None else Found(entry=entry, checked=checked)


def _latency(store: LocalStore, last: LastChecks, variant: PlannedVariant) -> Found | None:
    if (timed := last.latency(variant)) is not None:
        entry = store.get(LATENCY, timed.entry)
        return None if entry is None else Found(entry=entry, timed=timed)
    entry = last.benched(variant)
    return None if entry is None else Found(entry=entry)
