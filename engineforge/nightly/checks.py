"""The checks of a night: each variant that its spec asks something of, and that was not broken in
building. What needs a GPU is skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from engineforge.errors import EngineForgeError, SpecError
from engineforge.nightly.log import NightLog
from engineforge.nightly.means import Means
from engineforge.nightly.night import Case
from engineforge.project import checking
from engineforge.project.plans import Asked, Plan, PlannedVariant
from engineforge.worker.conditions import Conditions
from engineforge.worker.outcome import Checked, Failed, Finished, Outcome, Skipped, Timed

_NO_GPU = "there is no GPU here"
_BROKEN = "it was not built"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPlan:
    """A plan that was carried out, and what became of its variants, by label."""

    plan: Plan
    outcomes: Mapping[str, Outcome]


class Checks:
    """Of what was built; what they come to is told to `add`."""

    def __init__(
        self, means: Means, built: BuiltPlan, add: Callable[[Case], None], log: NightLog
    ) -> None:
        self._means, self._before, self._built = means, built.plan, built.outcomes
        self._add, self._log = add, log
        self._made: Plan | None = None

    def accuracy(self) -> None:
        """The converted models against their sources, on the CPU."""
        plan = self._planned(say=True)
        if plan.checked:
            self._check(
                "accuracy",
                plan,
                lambda how: checking.check(self._means.project, plan, how, "checks"),
            )
        self._broken("accuracy")

    def on_gpus(self, kind: str) -> None:
        """The engines, against their sources (`engine`) or against the clock (`latency`)."""
        plan = self._planned()
        asked = [each for each in plan.variants if _asks(each, kind)]
        if asked and not self._means.project.gpus():
            for each in asked:
                self._add(_case(kind, each, Skipped(why=_NO_GPU, unfit=True)))
        elif asked:
            project = self._means.project
            if kind == "engine":
                self._check(kind, plan, lambda how: checking.check_engines(project, plan, how))
            else:
                self._check(
                    kind, plan, lambda how: checking.check_latency(project, plan, how, again=False)
                )
        self._broken(kind)

    def _planned(self, *, say: bool = False) -> Plan:
        """The variants that can be checked. What is wrong with the data of checks is found here."""
        if self._made is None:
            means = self._means
            plan = means.specs.planned(Asked(selection=means.selection, checks=True))
            known = set(self._before.problems)
            self._made = replace(
                plan, variants=[each for each in plan.variants if not self._is_broken(each.label)]
            )
            self._made.others += [each for each in plan.variants if self._is_broken(each.label)]
            if say and (new := [each for each in plan.problems if each not in known]):
                raise SpecError(new)
        return self._made

    def _is_broken(self, label: str) -> bool:
        return isinstance(self._built.get(label), Failed)

    def _broken(self, kind: str) -> None:
        """What cannot be checked is said to be so."""
        for each in self._planned().others:
            if self._is_broken(each.label) and _asks(each, kind):
                self._add(_case(kind, each, Skipped(why=_BROKEN)))

    def _check(self, kind: str, plan: Plan, run: Callable[[Conditions], list[Outcome]]) -> None:
        with self._means.watch({each.label: None for each in plan.variants}) as shown:
            told = self._means.told(self._log.telling(shown, kind))
            outcomes = run(self._means.specs.conditions(told))
        for variant, outcome in zip(plan.variants, outcomes, strict=True):
            if not _asks(variant, kind):
                continue
            if (variant.label, kind) not in self._log.finished:
                self._log.tell(Finished(variant.label, outcome), kind)
            self._add(_case(kind, variant, outcome))


def _asks(variant: PlannedVariant, kind: str) -> bool:
    """Whether its spec has such a check of it. Of one that could not be planned further that is not
    known, and its build has said why."""
    if variant.job is None:
        return False
    asked = variant.job.variant
    return (asked.latency if kind == "latency" else asked.accuracy) is not None


def _case(kind: str, variant: PlannedVariant, outcome: Outcome) -> Case:
    made = Case(step=kind, verdict="passed", label=variant.label, spec=variant.spec)
    failed = replace(made, verdict="failed", code=EngineForgeError.exit_code)
    match outcome:
        case Checked(failures=failures, advice=advice) if failures:
            return replace(failed, said="; ".join(failures), detail=advice, said_no=True)
        case Timed(failures=failures) if failures:
            return replace(failed, said="; ".join(failures), said_no=True)
        case Failed(stage=stage, error=error, log=log):
            return replace(failed, said=f"failed in stage {stage}: {error}", detail=log)
        case Skipped(why=why):
            return replace(made, verdict="skipped", said=why)
        case _:
            return made
