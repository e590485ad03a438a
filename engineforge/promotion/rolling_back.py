"""A rollback: an environment has again what it had before. It is one more event of its ledger."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from engineforge.digest import Digest
from engineforge.errors import PromotionRefused, Untrusted, UsageError
from engineforge.promotion.environment import Opened
from engineforge.promotion.gates import SOURCE
from engineforge.promotion.ledger import Listed, Origin, Verdict
from engineforge.promotion.oci.documents import Descriptor
from engineforge.promotion.oci.repository import Gone
from engineforge.promotion.policy import looser_than, policy
from engineforge.promotion.promoting import Promoted, Who, may_promote, next_event
from engineforge.promotion.state import State
from engineforge.spec.environments import Environment
from engineforge.spec.validate import did_you_mean
from engineforge.store.far.objects import RemoteUnavailable


def rollback(
    destination: Opened, spec: str, number: int | None, who: Who, *, overridden: Collection[str]
) -> Promoted:
    """Have the environment serve what it served before, or at this number of its history. What was
    let in by less than its gates ask for today is refused, unless these gates are overridden.
    PromotionRefused where that state is kept no longer, or another promotion was first."""
    may_promote(destination, who)
    environment = destination.environment
    before = destination.state(spec)
    if before is None:
        raise PromotionRefused(f"{environment.name} has nothing of '{spec}'")
    if number is None:
        number = _number_before(destination, before)
    if not 0 < number < before.number:
        raise UsageError(
            f"{environment.name} has number {before.number} of '{spec}', and nothing before it is "
            f"number {number}",
            hint=f"engineforge history {spec} --in {environment.name}",
        )
    past = destination.past(spec, number)
    if past.events != before.events[:number]:
        raise Untrusted(
            f"what is tagged as number {number} of '{spec}' in {environment.name} is of another "
            "ledger",
            hint="it never was what that environment had: somebody put the tag there",
        )
    engines: dict[tuple[str, str], Listed] = {}
    described = {}
    for each in past.engines:
        described[each.manifest] = _still_there(destination, spec, each)
        held = _held_to_today(environment, each, overridden)
        now = before.engine(each.variant, each.target)
        stayed = now is not None and now.manifest == each.manifest
        since = now.since if now is not None and stayed else who.now
        engines[each.variant, each.target] = replace(held, since=since)
    if _manifests(before.engines) == _manifests(past.engines):
        destination.number(before)
        return Promoted(state=before, changed=False)
    origin = Origin(environment=environment.name, number=number)
    event = next_event(
        destination, spec, before, who, action="rollback", origin=origin, engines=engines
    )
    try:
        state = destination.advance(before, event, described, who.key)
    except RemoteUnavailable as error:
        raise RemoteUnavailable(
            f"{error.args[0]}; the rollback may have been done, or not",
            hint=f"engineforge history {spec} --in {environment.name} tells; --number {number} does"
            " it once, however often it is said, and without a number it is undone",
        ) from error
    return Promoted(state=state, changed=True, engines=state.engines)


def _still_there(destination: Opened, spec: str, engine: Listed) -> Descriptor:
    """What an index has of an engine; Gone where a part of it was removed since."""
    artifact = destination.engine(engine)
    for each in (artifact.config, *artifact.layers):
        if not destination.repository.has(each):
            raise Gone(
                f"{each.digest} of {engine.name} is not in '{destination.repository.url}' any more",
                hint="what that engine was built from builds it again: engineforge promote",
            )
    return destination.describe(spec, engine)


def _number_before(destination: Opened, state: State) -> int:
    """The newest earlier state that has other engines than there are now."""
    now = _manifests(state.engines)
    for event, _ in reversed(destination.history(state)[:-1]):
        if _manifests(event.engines) != now:
            return event.number
    return 0


def _manifests(engines: Collection[Listed]) -> set[tuple[str, str, Digest]]:
    return {(each.variant, each.target, each.manifest) for each in engines}


def _held_to_today(environment: Environment, engine: Listed, overridden: Collection[str]) -> Listed:
    """An engine that comes back, as it was let in then; with the gates of today that would not
    have let it in overridden."""
    if not environment.gates:
        raise PromotionRefused(f"'{environment.name}' has no gates: nothing gets in")
    asked = tuple(policy(environment))
    unknown = sorted(set(overridden) - set(asked))
    if unknown:
        raise UsageError(
            f"'{environment.name}' has no gate '{unknown[0]}' to override",
            hint=did_you_mean(unknown[0], asked),
        )
    lacking = {name: why for name in asked if (why := _lacking(environment, name, engine))}
    if not lacking:
        return engine
    refused = {name: why for name, why in lacking.items() if name not in overridden}
    if refused:
        raise PromotionRefused(
            f"{engine.name} was let in by less than {environment.name} asks for today: "
            f"{'; '.join(refused.values())}",
            hint="--override "
            + " --override ".join(refused)
            + " --reason TEXT takes it all the same, and stays in the ledger",
        )
    gates = dict(engine.gates)
    for name, why in lacking.items():
        gates[name] = Verdict(passed=False, overridden=True, why=f"rolled back: {why}")
    return replace(engine, gates=gates, policy=policy(environment))


def _lacking(environment: Environment, gate: str, engine: Listed) -> str:
    """What a gate of today asks for, and did not ask for when an engine was let in."""
    if gate == SOURCE:
        only = replace(environment, gates={})
    else:
        only = replace(environment, source=None, gates={gate: environment.gates[gate]})
    return "; ".join(looser_than(engine.policy, only))
