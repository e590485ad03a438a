"""Promotion: engines that pass an environment's gates are copied there by digest, read back, and
only then does its pointer move."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import PromotionRefused, Untrusted
from engineforge.promotion.artifact import entry_manifest
from engineforge.promotion.attest import results
from engineforge.promotion.attest.attestation import Attestation, sign_attestation
from engineforge.promotion.attest.keys import SigningKey
from engineforge.promotion.attest.statement import of_engine
from engineforge.promotion.attest.strict import written
from engineforge.promotion.candidate import Candidate, Freshness, InSource, NotInSource, Replaced
from engineforge.promotion.environment import Opened, config_of
from engineforge.promotion.evidence import evidence_of
from engineforge.promotion.gates import GateResult, evaluate
from engineforge.promotion.ledger import Action, Event, Listed, Origin, Verdict
from engineforge.promotion.oci.copying import Told
from engineforge.promotion.oci.documents import Descriptor
from engineforge.promotion.oci.repository import Gone, Repository
from engineforge.promotion.policy import policy
from engineforge.promotion.state import State

VERIFIER = "https://engineforge.dev/promotion/v1"
"""Who verifies, in the verification summary of a promotion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """An engine that is to be promoted. `attestations` are what counts of it by the keys of the
    destination, attached already or not. `send` has a repository have its artifact, with all that
    is attached to it where it comes from."""

    candidate: Candidate
    descriptor: Descriptor
    attestations: tuple[Attestation, ...]
    source: InSource | NotInSource
    freshness: Freshness
    send: Callable[[Repository, Told], None]
    still: Callable[[], bool] = lambda: True
    """Whether it is still there, where it comes from."""

    @property
    def name(self) -> tuple[str, str]:
        return self.candidate.variant, self.candidate.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who promotes, with which key, why, and when."""

    key: SigningKey
    by: str
    reason: str
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the gates of an environment say of the engines offered of a spec, by label. `before` is
    what it has of the spec now; `dropped` are engines of it that are not kept."""

    spec: str
    before: State | None
    offered: tuple[Offered, ...]
    verdicts: Mapping[str, list[GateResult]]
    dropped: tuple[Listed, ...] = ()

    @property
    def refused(self) -> bool:
        return any(not each.lets_in for found in self.verdicts.values() for each in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promoted:
    """What an environment has of a spec now; `engines` are those that are new there, and `changed`
    is False where there was nothing to do."""

    state: State
    changed: bool
    engines: tuple[Listed, ...] = field(default=())


def judge(
    destination: Opened,
    spec: str,
    offered: Sequence[Offered],
    *,
    keeps: Callable[[Listed], bool],
    overridden: Collection[str],
    now: datetime,
) -> Judged:
    """Ask every gate about every engine offered; nothing is changed. Engines that the environment
    has already, and are not offered, stay if `keeps` says so."""
    before = destination.state(spec)
    verdicts = {}
    for each in offered:
        evidence = evidence_of(
            each.attestations,
            variant=each.candidate.variant,
            target=each.candidate.target,
            source=each.source,
            freshness=each.freshness,
        )
        verdicts[each.candidate.label] = evaluate(
            destination.environment,
            each.candidate,
            evidence,
            _replaced(destination, before, each),
            now,
            overridden=overridden,
        )
    names = {each.name for each in offered}
    others = [
        each
        for each in (before.engines if before else ())
        if (each.variant, each.target) not in names
    ]
    return Judged(
        spec=spec,
        before=before,
        offered=tuple(offered),
        verdicts=verdicts,
        dropped=tuple(each for each in others if not keeps(each)),
    )


def _replaced(destination: Opened, before: State | None, offered: Offered) -> Replaced | None:
    there = before.engine(*offered.name) if before else None
    if there is None:
        return None
    if there.engine == offered.candidate.engine:
        return Replaced(engine=there.engine)
    try:
        evidence = evidence_of(
            destination.attestations(there),
            variant=there.variant,
            target=there.target,
            source=offered.source,
            freshness=offered.freshness,
        )
    except Untrusted:  # what cannot be read was never measured: for the gate to refuse
        return Replaced(engine=there.engine)
    return Replaced(engine=there.engine, latency=evidence.latency)


def promote(
    destination: Opened,
    judged: Judged,
    who: Who,
    *,
    origin: Origin | None,
    told: Told = lambda _done, _all: None,
) -> Promoted:
    """Have the environment have what was judged. Nothing that is there already is sent again, so
    what was interrupted goes on; the pointer moves last.

    PromotionRefused where a gate refuses, the key may not promote there, or another promotion was
    first.
    """
    if judged.refused:
        raise PromotionRefused(f"{destination.environment.name} refuses '{judged.spec}'")
    may_promote(destination, who)
    before = judged.before
    current = policy(destination.environment)
    listed = [_listed(each, judged, current, who.now) for each in judged.offered]
    there = {(each.variant, each.target): each for each in (before.engines if before else ())}
    new = [each for each in listed if not _is_same(there.get((each.variant, each.target)), each)]
    if before is not None and not new and not judged.dropped:
        for offered, engine in zip(judged.offered, listed, strict=True):
            _attach_lost(destination, offered, engine)
        destination.number(before)
        return Promoted(state=before, changed=False)
    for offered, engine in zip(judged.offered, listed, strict=True):
        if engine in new:
            _send(destination, offered, engine, who, told)
        else:
            _attach_lost(destination, offered, engine)
    kept = {name: each for name, each in there.items() if each not in judged.dropped}
    engines = {**kept, **{(each.variant, each.target): each for each in new}}
    event = next_event(
        destination,
        judged.spec,
        before,
        who,
        action="promote",
        origin=origin,
        engines=engines,
    )
    described = {each.manifest: destination.describe(judged.spec, each) for each in event.engines}
    if not all(each.still() for each in judged.offered):
        raise PromotionRefused(
            f"'{judged.spec}' was changed meanwhile where it comes from",
            hint="run again; what was copied already is not sent again",
        )
    state = destination.advance(before, event, described, who.key)
    return Promoted(state=state, changed=True, engines=tuple(new))


def may_promote(destination: Opened, who: Who) -> str:
    """The name of the key in the environment's signers; PromotionRefused where it may not promote
    there, or has expired."""
    environment = destination.environment
    names = [name for name, key in destination.keys.items() if key == who.key.public]
    allowed = [name for name in names if name in environment.promoters]
    if not allowed:
        told = f"is that of '{names[0]}'" if names else "is of none of its signers"
        raise PromotionRefused(
            f"the key {told}, who may not promote to {environment.name}"
            if names
            else f"the key {told}, and may not promote to {environment.name}",
            hint=f"promoters of {environment.name} in environments.yaml: "
            f"{', '.join(environment.promoters) or 'nobody'}",
        )
    signer = environment.signers[allowed[0]]
    if not signer.counts_at(who.now):
        raise PromotionRefused(
            f"the key of '{allowed[0]}' counts until {signer.not_after} only",
            hint="sign with another one, or change not_after in environments.yaml",
        )
    return allowed[0]


def _listed(
    offered: Offered, judged: Judged, current: Mapping[str, object], now: datetime
) -> Listed:
    candidate = offered.candidate
    there = judged.before.engine(*offered.name) if judged.before else None
    stayed = there is not None and there.manifest == candidate.manifest
    return Listed(
        variant=candidate.variant,
        target=candidate.target,
        manifest=candidate.manifest,
        engine=candidate.engine,
        plan=candidate.plan,
        key=candidate.key,
        since=there.since if there is not None and stayed else now,
        policy=current,
        gates={
            each.gate: Verdict(
                passed=each.passed, overridden=each.overridden and not each.passed, why=each.why
            )
            for each in judged.verdicts[candidate.label]
        },
    )


def _is_same(there: Listed | None, engine: Listed) -> bool:
    """Whether an environment has an engine already, let in by as much."""
    return (
        there is not None
        and there.manifest == engine.manifest
        and there.policy == engine.policy
        and there.overridden == engine.overridden
    )


def _send(destination: Opened, offered: Offered, engine: Listed, who: Who, told: Told) -> None:
    """Copy, attach what was said, and read it all back."""
    offered.send(destination.repository, told)
    wanted = _attach_lost(destination, offered, engine)
    environment = destination.environment
    provenance = engine.gates.get("provenance")
    summary = results.Summary(
        verifier=VERIFIER,
        time=who.now,
        resource=f"{destination.repository.url}@{engine.manifest}",
        policy_uri=f"urn:engineforge:environment:{environment.name}",
        policy=digest_bytes(written(engine.policy)),
        inputs=tuple(sorted(wanted)),
        passed=not engine.overridden,
        levels=("SLSA_BUILD_LEVEL_1",) if provenance and provenance.passed else (),
    )
    statement = of_engine(
        results.SUMMARY,
        summary.to_predicate(),
        label=engine.name,
        manifest=engine.manifest,
        engine=engine.engine,
    )
    bundle = sign_attestation(statement, who.key)
    destination.attach(offered.descriptor, bundle)
    artifact = destination.engine(engine)
    entry_manifest(artifact, config_of(destination, artifact))
    there = {each.digest for each in destination.attestations(engine)}
    if lost := (wanted | {digest_bytes(bundle)}) - there:
        raise Gone(
            f"{len(lost)} attestations of {engine.name} are not found in "
            f"'{destination.repository.url}', where they were just put",
            hint="run again; if it stays so, that store loses what refers to a manifest",
        )


def _attach_lost(destination: Opened, offered: Offered, engine: Listed) -> set[Digest]:
    """Attach what was said of an engine that is there, and is not attached to it: new, or lost.
    The digests of all of it, as it is attached now."""
    there = {
        (each.statement.to_bytes(), each.signed_by): each.digest
        for each in destination.attestations(engine)
    }
    found = set()
    for each in offered.attestations:
        said = (each.statement.to_bytes(), each.signed_by)
        # Said by an earlier try that was interrupted: the same, under another signature.
        if said not in there:
            destination.attach(offered.descriptor, each.data)
        found.add(there.get(said, each.digest))
    return found


def next_event(
    destination: Opened,
    spec: str,
    before: State | None,
    who: Who,
    *,
    action: Action,
    origin: Origin | None,
    engines: Mapping[tuple[str, str], Listed],
) -> Event:
    """The event after those that there are, by which an environment has these engines, by variant
    and target."""
    return Event(
        number=before.number + 1 if before else 1,
        previous=before.events[-1] if before else None,
        action=action,
        environment=destination.environment.name,
        spec=spec,
        # A clock that was set back must not make the ledger look rewritten.
        time=max(who.now, before.event.time) if before else who.now,
        by=who.by,
        reason=who.reason,
        source=origin,
        engines=tuple(sorted(engines.values(), key=lambda each: (each.variant, each.target))),
    )
