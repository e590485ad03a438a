"""Which engines of a plan can be checked on this host, and why not the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from engineforge.backends import host
from engineforge.backends.gpu import HostGpu
from engineforge.errors import EngineForgeError
from engineforge.project.plans import Plan, PlannedVariant
from engineforge.store.local import Entry, LocalStore
from engineforge.worker.job import Engine
from engineforge.worker.outcome import Failed, Skipped

Gpus = Callable[[], Sequence[HostGpu]]
_BUILD = "engineforge build"


class Engines:
    """Finds the engines of a plan made with `checks`; `gpus` gives the GPUs of this host."""

    def __init__(self, plan: Plan, store: LocalStore, gpus: Gpus) -> None:
        self._store, self._gpus = store, gpus
        self._all = plan.all

    def for_accuracy(self, variant: PlannedVariant) -> Engine | Skipped | Failed:
        """The engine of a variant, to be compared with its source."""
        if variant.job is None or variant.job.variant.accuracy is None:
            return Skipped(why="its spec has no accuracy check")
        return self._engine(variant)

    def for_latency(self, variant: PlannedVariant) -> Engine | Skipped | Failed:
        """The engine of a variant, with the one that its latency is compared with."""
        check = None if variant.job is None else variant.job.variant.latency
        if check is None:
            return Skipped(why="there is no latency check for it")
        found = self._engine(variant)
        if not isinstance(found, Engine) or check.max_slower is None:
            return found
        name = check.max_slower.than
        than = self._all.get((variant.spec, name, variant.target))
        other = Skipped(why="is not planned") if than is None else self._engine(than)
        if not isinstance(other, Engine):
            why = f"'{name}', which it is compared with, cannot be measured"
            if isinstance(other, Failed):
                return replace(other, error=f"{why}: {other.error}")
            return replace(other, why=f"{why}: {other.why}")
        return replace(found, than=other)

    def _engine(self, variant: PlannedVariant) -> Engine | Skipped | Failed:
        job = variant.job
        if job is None:
            return Skipped(why="it could not be planned")
        try:
            why = host.why_not(job.variant.target, self._gpus, job.builder)
            gpus = () if why else _able(variant, self._gpus())
        except EngineForgeError as error:  # a GPU that cannot be read
            return Skipped(why=str(error), unfit=True)
        if why is not None:
            return Skipped(why=why, unfit=True)
        if not gpus:
            wanted = ", ".join(job.variant.target.compute_capabilities)
            why = f"the target is for compute capability {wanted}, and no GPU of this host has that"
            return Skipped(why=why, unfit=True)
        entry = self._entry(variant)
        if entry is None:
            # Nothing to check must not look like nothing to complain of.
            why = f"it is not built, or not up to date: `{_BUILD}` builds it"
            return Failed(stage="engine", error=why)
        if job.builder.get("strip_plan"):
            return Skipped(why="it was built without its weights, and cannot run by itself")
        return Engine(job=replace(job, gpus=tuple(gpus)), entry=entry)

    def _entry(self, variant: PlannedVariant) -> Entry | None:
        return None if variant.engine is None else self._store.get("engine", variant.engine)


def _able(variant: PlannedVariant, gpus: Sequence[HostGpu]) -> Sequence[HostGpu]:
    """The GPUs that can run an engine: those that classic TensorRT could have built it on, and for
    TensorRT-RTX those of a compute capability that it was built for."""
    job = variant.job
    if job is None:
        return ()
    target = job.variant.target
    if target.gpu is not None:
        return host.matching(target, gpus, job.builder)
    return [g for g in gpus if g.gpu.compute_capability in target.compute_capabilities]
