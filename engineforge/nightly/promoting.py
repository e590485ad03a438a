"""The promotion of a night: every spec of which nothing failed goes to one environment, as far as
its gates let it in."""

from __future__ import annotations

from collections.abc import Callable, Collection

from engineforge.errors import EngineForgeError, PromotionRefused, UsageError
from engineforge.nightly.means import Means
from engineforge.nightly.night import Case
from engineforge.project.plans import Plan
from engineforge.project.promotion import Environments, Promoter
from engineforge.promotion.environment import Opened
from engineforge.promotion.promoting import Judged, Who, judge, may_promote, promote
from engineforge.promotion.retention import expire
from engineforge.store.far.objects import RemoteUnavailable


class Promotion:
    """Of what is planned, less the specs `held` back; what it comes to is told to `add`."""

    def __init__(
        self, means: Means, plan: Plan, held: Collection[str], add: Callable[[Case], None]
    ) -> None:
        self._means, self._plan, self._held, self._add = means, plan, held, add
        self.notes: list[str] = []

    def run(self) -> None:
        means = self._means
        environments = means.environments()
        name = means.to or first(environments)
        destination = environments.open(name)
        if means.signer is None:
            raise UsageError("what is promoted is signed, and there is no key")
        key, who = means.signer()
        # Said once, not for each spec.
        may_promote(destination, who)
        promoter = Promoter(
            means.project, means.specs.paths, means.selection, environments=environments, key=key
        )
        able = {each.spec for each in self._plan.variants if not each.unfit or each.engine}
        unreachable = None
        for spec in promoter.specs:
            if spec in self._held:
                self._skipped(spec, "held back, since something of it failed")
            elif spec not in able:
                if any(each.spec == spec for each in self._plan.variants):
                    self._skipped(spec, "this host can build none of its variants")
            elif unreachable is not None:
                self._skipped(spec, f"not tried: {unreachable}")
            else:
                try:
                    self._one(promoter, destination, spec, who)
                except EngineForgeError as error:
                    code = error.exit_code
                    self._add(
                        Case(
                            step="promotion",
                            verdict="failed",
                            spec=spec,
                            code=code,
                            said=str(error),
                        )
                    )
                    if isinstance(error, RemoteUnavailable):
                        unreachable = f"{name} is out of reach"

    def _skipped(self, spec: str, why: str) -> None:
        self._add(Case(step="promotion", verdict="skipped", spec=spec, said=why))

    def _one(self, promoter: Promoter, destination: Opened, spec: str, who: Who) -> None:
        environment = destination.environment
        offers = promoter.offers(spec, environment)
        judged = judge(
            destination,
            spec,
            offers.offered,
            keeps=offers.keeps,
            overridden=(),
            now=self._means.now(),
        )
        if judged.refused:
            self._refused(judged, environment.name)
            return
        promoted = promote(destination, judged, who, origin=offers.origin)
        number = promoted.state.number
        said = f"{environment.name} has number {number}"
        if not promoted.changed:
            said = f"nothing to do, {said}"
        for label in judged.verdicts:
            self._add(Case(step="promotion", verdict="passed", label=label, spec=spec, said=said))
        try:
            expire(destination, promoted.state, who.now)
        except EngineForgeError as error:  # what was asked for is done
            self.notes.append(f"no earlier state of '{spec}' was untagged: {error}")

    def _refused(self, judged: Judged, environment: str) -> None:
        for label, verdicts in judged.verdicts.items():
            no = [each for each in verdicts if not each.lets_in]
            case = Case(
                step="promotion",
                verdict="failed" if no else "skipped",
                code=PromotionRefused.exit_code if no else 0,
                label=label,
                spec=judged.spec,
                said=f"refused by {environment}: " + "; ".join(f"{e.gate}: {e.why}" for e in no)
                if no
                else "it passed the gates, and others of its spec did not",
                said_no=bool(no),
                detail=tuple(f"hint: {each.hint}" for each in no if each.hint),
            )
            self._add(case)


def first(environments: Environments) -> str:
    """The environment that takes engines from the cache; UsageError where there is not just one."""
    found = environments.first
    if len(found) != 1:
        what = f"{', '.join(found)} do" if found else "none does"
        raise UsageError(
            f"one environment takes engines from the cache (has no 'from'), expected: {what}",
            hint="--to ENV says which one a night promotes to",
        )
    return found[0]
