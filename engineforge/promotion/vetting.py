"""Whether an engine that an environment has may be pulled: by what a machine pulled before, and by
its own idea of the environment's gates and signers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from engineforge.errors import PromotionRefused, Untrusted
from engineforge.promotion.attest.provenance import PROVENANCE
from engineforge.promotion.candidate import Candidate, NotInSource, Unknown
from engineforge.promotion.environment import Opened
from engineforge.promotion.evidence import evidence_of
from engineforge.promotion.gates import evaluate
from engineforge.promotion.ledger import Listed
from engineforge.promotion.placing import Place, Remembered
from engineforge.promotion.policy import looser_than, policy
from engineforge.promotion.state import State

_PROVENANCE = "provenance"


def name_of(state: State) -> str:
    return f"{state.environment}/{state.spec}"


def not_set_back(state: State, before: Remembered, place: Place) -> None:
    """The last event that was seen has to be in the ledger still, at its number."""
    name = name_of(state)
    seen = before.seen.get(name)
    if seen is None:
        return
    if seen.number > state.number:
        raise Untrusted(
            f"the ledger of '{name}' was set back: it is at number {state.number}, and number "
            f"{seen.number} was pulled to '{place.path}' before",
            hint="a rollback is one more event, so this is none: look at the registry's log; "
            f"{place.forgetting}",
        )
    if state.events[seen.number - 1] != seen.event:
        raise Untrusted(
            f"the ledger of '{name}' was rewritten: its event {seen.number} is another than was "
            f"pulled to '{place.path}' before",
            hint="nothing is ever taken out of a ledger: look at the registry's log; "
            f"{place.forgetting}",
        )


def policy_holds(opened: Opened, state: State, listed: Listed) -> None:
    """By what it was let in has to be what is asked for today, by this machine's own file."""
    environment = opened.environment
    what = f"{listed.name} of '{name_of(state)}'"
    again = _again(opened, state)
    if not environment.gates:
        raise PromotionRefused(
            f"'{environment.name}' has no gates: nothing that is there was let in by any",
            hint=f"write under '{environment.name}': gates: {{freshness: {{}}, provenance: {{}}}}",
        )
    if looser := looser_than(listed.policy, environment):
        raise PromotionRefused(
            f"{what} was let in by less than '{environment.name}' asks for: {'; '.join(looser)}",
            hint=f"promote it by today's gates: {again}",
        )
    for gate in policy(environment):
        verdict = listed.gates.get(gate)
        if verdict is None or not (verdict.passed or verdict.overridden):
            raise Untrusted(f"{what} is there, and the gate '{gate}' did not let it in", hint=again)


def provenance_holds(opened: Opened, state: State, listed: Listed, now: datetime) -> None:
    """Who says how it was built is asked again, where a gate asks for it: what was attached when it
    was promoted has to be there still."""
    environment = opened.environment
    gate = environment.gates.get(_PROVENANCE)
    if gate is None or listed.gates[_PROVENANCE].overridden:
        return
    # What else is said of it is no matter here, and may be of a later version.
    said = [
        each for each in opened.attestations(listed) if each.statement.predicate_type == PROVENANCE
    ]
    evidence = evidence_of(
        said,
        variant=listed.variant,
        target=listed.target,
        source=NotInSource("it is pulled"),
        freshness=Unknown("it is pulled"),
    )
    candidate = Candidate(
        spec=state.spec,
        file=state.spec,
        variant=listed.variant,
        target=listed.target,
        manifest=listed.manifest,
        engine=listed.engine,
        plan=listed.plan,
        key=listed.key,
    )
    only = replace(environment, source=None, gates={_PROVENANCE: gate})
    (result,) = evaluate(only, candidate, evidence, None, now)
    if not result.passed:
        raise Untrusted(
            f"{listed.name} of '{name_of(state)}': {result.why}; it was let in with provenance, "
            "which is gone, or counts no longer",
            hint=f"attach it again: {_again(opened, state)}",
        )


def _again(opened: Opened, state: State) -> str:
    return f"engineforge promote specs/{state.spec}.yaml --to {opened.environment.name} --key KEY"


def overridden(
    state: State, listed: Listed, said: Callable[[str], None], *, refused: bool
) -> dict[str, str]:
    found = {name: listed.gates[name].why for name in listed.overridden}
    if not found:
        return {}
    told = "; ".join(f"'{name}' ({why})" for name, why in found.items())
    message = f"{listed.name} of '{name_of(state)}' did not pass, and was let in all the same"
    if refused:
        raise PromotionRefused(
            f"{message}: {told}",
            hint=f"engineforge history {state.spec} --in {state.environment} says by whom, and why",
        )
    said(f"note: {message}: {told}")
    return found
