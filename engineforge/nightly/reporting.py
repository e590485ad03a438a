"""The report of a night, and which of the engines that serve are stale since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engineforge.errors import EngineForgeError
from engineforge.nightly.log import NightLog
from engineforge.nightly.means import Means
from engineforge.nightly.night import Night, Serving
from engineforge.plan.explain import changes
from engineforge.project.folder import ENVIRONMENTS, spec_files, spec_name
from engineforge.project.overview import overview
from engineforge.project.plans import Asked, Plan, PlannedVariant
from engineforge.project.promotion import freshness
from engineforge.project.reading import names_of
from engineforge.project.served import Served, look
from engineforge.promotion.candidate import Fresh, Unknown
from engineforge.promotion.candidate import Stale as Outdated
from engineforge.promotion.ledger import Listed
from engineforge.report import events
from engineforge.report.page.document import document
from engineforge.store.local import LocalStore


def reported(means: Means, night: Night, log: NightLog) -> bool:
    """Make the document of the night, with what environments have now."""
    project = means.project
    plan = means.specs.planned(Asked(selection=means.selection, checks=True, data_may_miss=True))
    served = _served(means, night)
    if served is not None:
        night.serving = [*_serving(plan, served, night, project.store)]
    night.document = document(
        overview(project, plan, served), means.about, events.read(log.text(), str(log.path))
    )
    return True


def _served(means: Means, night: Night) -> Sequence[Served] | None:
    if not (means.project.root / ENVIRONMENTS).is_file():
        return None
    names = [spec_name(file, means.project.root) for file in spec_files(means.specs.paths)]
    try:
        return look(means.environments(), dict.fromkeys(names))
    except EngineForgeError as error:  # their file is wrong, which the plan has said
        night.notes.append(f"no environment was asked what it serves: {error}")
        return None


def _serving(
    plan: Plan, served: Sequence[Served], night: Night, store: LocalStore
) -> Iterator[Serving]:
    """What environments have, as far as they can be asked."""
    planned = plan.all
    specs = {spec for spec, _, _ in planned}
    for each in served:
        if each.unreachable is not None:
            night.notes.append(f"{each.name} could not be asked what it serves: {each.unreachable}")
        for spec, why in each.faults.items():
            night.notes.append(f"what {each.name} has of '{spec}' is not to be believed: {why}")
        for spec, state in each.states.items():
            for engine in state.engines:
                # A spec that is wrong tonight does not say that it names an engine no longer.
                known = spec in specs
                variant = planned.get((spec, engine.variant, engine.target))
                fresh = freshness(variant, engine)
                unknown = not known or isinstance(fresh, Unknown)
                yield Serving(
                    environment=each.name,
                    spec=spec,
                    variant=engine.variant,
                    target=engine.target,
                    engine=engine.engine,
                    fresh=None if unknown else isinstance(fresh, Fresh),
                    why=_changed(variant, engine, store) or fresh.why
                    if isinstance(fresh, Outdated) and known
                    else None,
                )


def _changed(variant: PlannedVariant | None, engine: Listed, store: LocalStore) -> str:
    """In what a served engine is not what is asked for; empty where that is not known here. What
    is built already is no longer stale for any reason."""
    if variant is None or variant.plan is None:
        return ""
    old, new = store.plan_record(engine.plan), store.plan_record(variant.plan)
    if old is None or new is None:
        return ""
    names = {} if variant.job is None else names_of(variant.job)
    return "; ".join(map(str, changes(old.key_document, new.key_document, names)))


def newly_stale(
    now: Sequence[Serving], before: Sequence[Mapping[str, Any]] | None
) -> list[Serving]:
    """Those that are stale, and were not at the last night; all where there was none."""
    then = {_place(each) for each in before or () if each.get("fresh") is False}
    return [each for each in now if each.fresh is False and _place(each.as_json()) not in then]


def carried(
    now: Sequence[Serving], before: Sequence[Mapping[str, Any]] | None
) -> list[Mapping[str, Any]]:
    """What the next night is to know: what is served now, and what was stale of that which cannot
    be told now, so that it is not said to be news when it can be told again."""
    asked = {(each.environment, each.spec) for each in now}
    told = {_place(each.as_json()) for each in now if each.fresh is not None}
    left = [
        each
        for each in before or ()
        if each.get("fresh") is False
        and _place(each) not in told
        and (_is_there(each, now) or (each.get("environment"), each.get("spec")) not in asked)
    ]
    there = {_place(each) for each in left}
    return [*left, *(each for served in now if _place(each := served.as_json()) not in there)]


def _is_there(served: Mapping[str, Any], now: Sequence[Serving]) -> bool:
    return any(_place(each.as_json()) == _place(served) for each in now)


def _place(served: Mapping[str, Any]) -> tuple[str, ...]:
    """Of an engine where it is; another one in its place is another."""
    parts = ("environment", "spec", "variant", "target", "engine")
    return tuple(str(served.get(part)) for part in parts)
