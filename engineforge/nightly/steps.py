"""The steps of a night, and what the failure of one means for the next: as much is done as safely
can be, and nothing of it is hidden.

    lock       cannot be read: the night ends, as nothing says which files are meant;
               else what it lacks or has too much is said, and the specs that need it fail to plan
    plan       a spec that is wrong is left out of everything that follows; the others go on;
               where nothing at all can be planned, the night ends
    build      a variant that fails is not checked, and its spec not promoted
    checks     a spec that fails one, or could not be asked, is not promoted, gate or no gate
    promotion  what is refused stays out; the other specs go on, but not to one that is out of reach
    gc         only where all specs can be planned, since what a broken one needs is not known
    report     always, of all that is known

An exception that nobody expected fails its step, and nothing is promoted or collected after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from engineforge.errors import (
    EngineForgeError,
    HostUnfit,
    Problem,
    SpecError,
    StoreCorrupt,
    UsageError,
)
from engineforge.nightly.checks import BuiltPlan, Checks
from engineforge.nightly.log import NightLog
from engineforge.nightly.means import Means
from engineforge.nightly.night import Case, Night, unexpected
from engineforge.nightly.promoting import Promotion
from engineforge.nightly.reporting import reported
from engineforge.project.folder import spec_files, spec_name
from engineforge.project.plans import Asked, Plan
from engineforge.project.roots import all_given
from engineforge.report.text import failure_lines
from engineforge.spec.load import load
from engineforge.worker.outcome import Built, Failed, Finished, Outcome, Reused, Skipped

_Made = TypeVar("_Made")


class Steps:
    """Carries a night out, and adds to it what every step comes to."""

    def __init__(self, means: Means, night: Night, log: NightLog) -> None:
        self._means, self._night, self._log = means, night, log
        self._crashed = False

    def run(self) -> None:
        means = self._means
        lacking = self._step("lock", means.lock)
        if lacking is None:
            return
        self._problems("lock", lacking)
        if not lacking:
            self.add(Case(step="lock", verdict="passed"))
        plan = self._step("plan", self._plan)
        if plan is None:
            return
        self._problems("plan", plan.problems)
        built = self._step("build", partial(self._build, plan))
        if built is not None:
            plan = built.plan
            checks = Checks(means, built, self.add, self._log)
            self._step("accuracy", checks.accuracy)
            for kind in ("engine", "latency"):
                self._step(kind, partial(checks.on_gpus, kind))
        self._promote(plan, done=built is not None)
        self._collect(plan)
        self._step("report", lambda: reported(means, self._night, self._log))
        for fault in means.project.store.faults:
            said = f"{fault}; it was set aside, and is made anew when it is needed"
            self.add(Case(step="store", verdict="failed", code=StoreCorrupt.exit_code, said=said))

    def add(self, case: Case) -> None:
        """Say what a step came to, in the log too."""
        if case.verdict == "failed" and case.at is None and case.spec:
            case = replace(case, at=self._place(case))
        self._night.cases.append(case)
        self._log.case(case)

    def _step(self, step: str, work: Callable[[], _Made]) -> _Made | None:
        """None where it failed, which is a case then."""
        self._log.say("step", {"step": step})
        began = self._means.clock()

        def failed(code: int, said: str) -> None:
            seconds = self._means.clock() - began
            self.add(Case(step=step, verdict="failed", code=code, said=said, seconds=seconds))

        try:
            return work()
        except SpecError as error:
            self._problems(step, error.problems)
        except EngineForgeError as error:
            failed(error.exit_code, str(error))
        except OSError as error:
            where = f"'{error.filename}': " if error.filename else ""
            failed(HostUnfit.exit_code, f"{where}{error.strerror or error}")
        except Exception as error:  # the other steps can do something all the same
            self._crashed = True
            self._means.bug(error)
            failed(EngineForgeError.exit_code, unexpected(error))
        return None

    def _problems(self, step: str, problems: Iterable[Problem]) -> None:
        for each in problems:
            said = f"{each.path}: {each.message}" if each.path else each.message
            said += f"\nhint: {each.hint}" if each.hint else ""
            case = Case(step=step, verdict="failed", code=SpecError.exit_code, said=said, at=each)
            self.add(replace(case, spec=self._names().get(each.file, each.file)))

    def _plan(self) -> Plan:
        means = self._means
        asked = Asked(selection=means.selection, to_build=True, environments=True)
        plan = means.specs.planned(asked)
        self._note(plan)
        for spec in dict.fromkeys(each.spec for each in plan.variants):
            self.add(Case(step="plan", verdict="passed", spec=spec))
        return plan

    def _note(self, plan: Plan) -> None:
        known = self._night.notes
        known += [each for each in dict.fromkeys(plan.notes) if each not in known]

    def _build(self, plan: Plan) -> BuiltPlan:
        means, known = self._means, set(plan.problems)
        if plan.stale:
            self._share()
        expected = {each.label: each.seconds for each in plan.stale}
        with means.watch({**expected, **dict.fromkeys(plan.unmade)}) as shown:
            told = means.told(self._log.telling(shown))
            plan = self._said(means.specs.make_sources(plan, **told), known)
            found = means.specs.build(plan, prepare=False, on=None, **told)
        plan = self._said(found.plan, known)
        built = {variant.label: outcome for variant, outcome in found}
        for variant in plan.variants:
            outcome = built[variant.label]
            if (variant.label, None) not in self._log.finished:
                self._log.tell(Finished(variant.label, outcome))
            self.add(_of_build(variant.label, variant.spec, outcome))
        if built and all(isinstance(each, Skipped) and each.unfit for each in found.outcomes):
            said = "this host can build none of them"
            self.add(Case(step="build", verdict="failed", code=HostUnfit.exit_code, said=said))
        return BuiltPlan(plan=plan, outcomes=built)

    def _said(self, plan: Plan, known: set[Problem]) -> Plan:
        """A plan that was made anew, when what it adds to what is `known` was said."""
        new = [each for each in plan.problems if each not in known]
        known.update(new)
        self._problems("plan", new)
        self._note(plan)
        return plan

    def _share(self) -> None:
        """Use what machines share; where that cannot be used, this one builds by itself."""
        try:
            self._means.specs.overlay()
        except EngineForgeError as error:
            said = f"nothing is shared with other machines: {error}"
            self.add(Case(step="build", verdict="failed", code=error.exit_code, said=said))
            self._means.specs.alone()

    def _promote(self, plan: Plan, *, done: bool) -> None:
        why = self._means.not_promoted
        if why is None and (self._crashed or not done):
            why = "building or checking broke off"
        if why is not None:
            self.add(Case(step="promotion", verdict="skipped", said=why))
            return
        held = {each.spec for each in self._night.cases if each.verdict == "failed" and each.spec}
        promotion = Promotion(self._means, plan, held, self.add)
        self._step("promotion", promotion.run)
        self._night.notes += promotion.notes

    def _collect(self, plan: Plan) -> None:
        means = self._means
        if means.collect is None:
            return
        why = None
        if self._crashed:
            why = "nothing is collected after what nobody expected"
        elif plan.problems:
            why = "specs have problems, and what they need is not known"
        else:
            try:
                all_given(means.project.root, means.specs.paths)
            except UsageError as error:
                why = str(error.args[0])
        if why is not None:
            self.add(Case(step="gc", verdict="skipped", said=why))
            return
        said = self._step("gc", partial(self._collected, means.collect))
        if said is not None:
            self.add(Case(step="gc", verdict="passed", said=said))

    def _collected(self, collect: Callable[[], str]) -> str | None:
        try:
            return collect()
        except SpecError as error:
            # Ours are sound: it is those of another project that builds into this cache.
            self.add(
                Case(step="gc", verdict="skipped", said=f"what others need is not known: {error}")
            )
            self._night.notes.append("nothing is collected: another project has problems")
            return None

    def _names(self) -> dict[str, str]:
        """What the specs are called, by their files."""
        root = self._means.project.root
        try:
            return {
                str(each): spec_name(each, root) for each in spec_files(self._means.specs.paths)
            }
        except (UsageError, OSError):
            return {}

    def _place(self, case: Case) -> Problem | None:
        """Where its spec names a variant, or at least that file; None where it is not known."""
        for file, name in self._names().items():
            if name == case.spec:
                variant = case.label.removeprefix(f"{name}/").rpartition("@")[0]
                with suppress(OSError):
                    document, _ = load(file, Path(file).read_bytes())
                    if document is not None:
                        return document.problem(("variants", variant) if variant else (), "")
                return Problem(file=file, message="")
        return None


def _of_build(label: str, spec: str, outcome: Outcome) -> Case:
    match outcome:
        case Built(seconds=seconds):
            found = Case(step="build", verdict="passed", said="built", seconds=seconds)
        case Reused(why=why):
            found = Case(step="build", verdict="passed", said=f"reused: {why}")
        case Failed(stage=stage, error=error):
            said = f"failed in stage {stage}: {error}"
            detail: Sequence[str] = [*failure_lines(label, outcome)][1:]
            code = EngineForgeError.exit_code
            found = Case(step="build", verdict="failed", code=code, said=said, detail=tuple(detail))
        case Skipped(why=why):
            found = Case(step="build", verdict="skipped", said=why)
        case _:
            raise AssertionError(f"a build came to {type(outcome).__name__}")
    return replace(found, label=label, spec=spec)
