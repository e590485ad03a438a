"""Measuring what a plan comes to: converted models, and engines that can be run on this host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from engineforge.backends import host
from engineforge.backends.gpu import HostGpu
from engineforge.checks.installed import onnxruntime_version
from engineforge.errors import EngineForgeError, HostUnfit
from engineforge.project.plans import Plan, PlannedVariant
from engineforge.project.project import Project
from engineforge.stages.precision import tools
from engineforge.store.local import Entry, LocalStore
from engineforge.worker.conditions import Conditions
from engineforge.worker.job import Engine, StageFailed
from engineforge.worker.latency import Kept, Subject
from engineforge.worker.local import Worker
from engineforge.worker.measured import last_check as _last_check
from engineforge.worker.outcome import Checked, Failed, Outcome, Skipped

_Check = Callable[[Worker, Sequence[Engine]], list[Outcome]]
Gpus = Callable[[], Sequence[HostGpu]]
_BUILD = "engineforge build"


def check(project: Project, plan: Plan, conditions: Conditions, stage: str) -> list[Outcome]:
    """Run the accuracy checks of a plan made with `checks`, or (`sensitivity`) measure what each
    layer costs: an outcome for each of its variants, in their order."""
    if (why := tools.missing("onnxruntime")) is not None:
        raise HostUnfit(f"accuracy is measured with ONNX Runtime: {why}")
    jobs = {each: found.job for each, found in plan.checked.items() if found.job is not None}
    with project.worker(conditions) as worker:
        done = dict(zip(jobs, worker.check(list(jobs.values()), stage), strict=True))
    none = Skipped(why="its spec has no accuracy check")
    return [done.get((each.spec, each.variant)) or each.settled or none for each in plan.variants]


def check_engines(project: Project, plan: Plan, conditions: Conditions) -> list[Outcome]:
    """Check the accuracy of the engines of a plan made with `checks`, on the GPUs of this host: an
    outcome for each of its variants, in their order. HostUnfit without ONNX Runtime."""
    onnxruntime_version()
    engines = Engines(plan, project.store, project.gpus)
    found = [each.settled or engines.for_accuracy(each) for each in plan.variants]
    return _on_gpus(project, found, conditions, lambda worker, these: worker.check_engines(these))


def check_latency(
    project: Project, plan: Plan, conditions: Conditions, *, again: bool
) -> list[Outcome]:
    """The same for latency; with `again` also where it was measured before."""
    engines = Engines(plan, project.store, project.gpus)
    found = [each.settled or engines.for_latency(each) for each in plan.variants]
    return _on_gpus(
        project,
        found,
        conditions,
        lambda worker, these: worker.check_latency(these, again=again),
    )


def _on_gpus(
    project: Project, found: Sequence[Engine | Outcome], conditions: Conditions, run: _Check
) -> list[Outcome]:
    engines = [each for each in found if isinstance(each, Engine)]
    done: Iterator[Outcome] = iter(())
    if engines:
        with project.worker(conditions) as worker:
            done = iter(run(worker, engines))
    return [next(done) if isinstance(each, Engine) else each for each in found]


def bench(
    project: Project,
    subject: Subject,
    gpu: HostGpu,
    conditions: Conditions,
    waiting: Callable[[str], None],
) -> Kept:
    """Measure an engine of a project's store on a GPU that nobody else uses meanwhile, and keep
    what was measured. EngineForgeError with the last words of what fails."""
    try:
        with project.worker(conditions) as worker:
            return worker.bench(subject, gpu, waiting)
    except StageFailed as failure:
        said = "".join(f"\n  {line}" for line in failure.log)
        raise EngineForgeError(f"{failure.error}{said}") from failure


def last_check(project: Project, variant: PlannedVariant) -> Checked | None:
    """What the accuracy check of a variant, planned with `checks`, came to the last time."""
    return None if variant.job is None else _last_check(project.store, variant.job)


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
