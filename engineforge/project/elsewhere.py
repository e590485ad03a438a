"""Why a variant is stale here, and what the store that machines share has of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from engineforge.digest import document
from engineforge.plan.explain import changes
from engineforge.plan.planner import BuiltElsewhere, NeverBuilt, Stale
from engineforge.project.plans import Plan, PlannedVariant
from engineforge.project.reading import names_of
from engineforge.store.far.overlay import Overlay

_AT_ONCE = 8


def seek(plan: Plan, overlay: Overlay) -> None:
    """Put into a plan made with `jobs` where what is stale has been built already, or how the
    nearest that was built elsewhere differs from it."""

    def sought(variant: PlannedVariant) -> PlannedVariant:
        state, job = variant.state, variant.job
        if not isinstance(state, Stale) or job is None or variant.plan is None:
            return variant
        found = None
        if overlay.record(variant.plan) is not None:
            found = BuiltElsewhere(overlay.where, ())
        elif state.reasons == (NeverBuilt(),) and (near := overlay.nearest(variant.label)):
            differs = changes(near.key_document, document(job.key), names_of(job))
            found = BuiltElsewhere(overlay.where, tuple(differs))
        if found is None:
            return variant
        kept = [each for each in state.reasons if not isinstance(each, NeverBuilt)]
        return replace(variant, state=replace(state, reasons=(*kept, found)))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        plan.variants[:] = pool.map(sought, plan.variants)
