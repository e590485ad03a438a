"""What an environment has of a spec, read and verified: the index, the ledger that goes with it,
and who signed the last event of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import Untrusted, printable
from engineforge.promotion.artifact import ENGINE_TYPE, About
from engineforge.promotion.attest.attestation import read_attestation
from engineforge.promotion.attest.bundle import Bundle
from engineforge.promotion.attest.keys import PublicKey
from engineforge.promotion.attest.statement import Statement
from engineforge.promotion.ledger import Event, Listed, read_event
from engineforge.promotion.oci.documents import (
    BadDocument,
    Descriptor,
    ImageIndex,
    ImageManifest,
)
from engineforge.promotion.oci.repository import BlobCorrupt, Gone, Repository
from engineforge.spec.environments import Environment

STATE = "application/vnd.engineforge.spec.v1"
LEDGER = "application/vnd.engineforge.ledger.v1"
"""The artifact types of a spec's state, an index, and of its ledger."""

NAME = "dev.engineforge."
"""What the names of our annotations begin with."""

_MOST_OF_A_BUNDLE = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What an environment has of a spec: what its last event says, signed by these people; `events`
    are the digests of all, oldest first."""

    environment: str
    spec: str
    index: Digest
    event: Event
    signed_by: frozenset[str]
    events: tuple[Digest, ...]
    ledger: ImageManifest
    described: Mapping[Digest, Descriptor]

    @property
    def number(self) -> int:
        return self.event.number

    @property
    def engines(self) -> tuple[Listed, ...]:
        return self.event.engines

    def engine(self, variant: str, target: str) -> Listed | None:
        found = (each for each in self.engines if (each.variant, each.target) == (variant, target))
        return next(found, None)


class Reader:
    """Believes what is signed by the keys of an environment, and nothing else."""

    def __init__(
        self, environment: Environment, repository: Repository, keys: Mapping[str, PublicKey]
    ) -> None:
        self.environment, self.repository, self.keys = environment, repository, keys

    def state(self, spec: str, digest: Digest) -> State:
        """What an index says, if its ledger's last event says the same, and is signed."""
        what = f"what {self.environment.name} has of '{spec}'"
        try:
            index = ImageIndex.from_bytes(self.manifest(digest, what))
        except BadDocument as error:
            raise Untrusted(f"{what} cannot be read: {error}") from error
        if index.artifact_type != STATE:
            raise Untrusted(f"{what} was not put there by a promotion")
        ledgers = [each for each in index.manifests if each.artifact_type == LEDGER]
        if len(ledgers) != 1:
            raise Untrusted(f"{what} has {len(ledgers)} ledgers, expected 1")
        ledger = self._ledger(ledgers[0], spec)
        events = tuple(each.digest for each in ledger.layers)
        event, signed_by = self.event(ledger.layers[-1], spec)
        before = events[-2] if len(events) > 1 else None
        if (event.number, event.previous) != (len(events), before):
            raise Untrusted(
                f"the ledger of '{spec}' in {self.environment.name} has {len(events)} events, and "
                f"its last one is number {event.number}, or follows another one"
            )
        if before is not None and event.time < self._time(ledger.layers[-2]):
            raise Untrusted(
                f"event {event.number} in the ledger of '{spec}' in {self.environment.name} is "
                "older than the one before it",
                hint="a clock was set back, maybe for a key that has expired to count once more",
            )
        others = [each for each in index.manifests if each.artifact_type != LEDGER]
        described = {each.digest: each for each in others}
        there = sorted(_named(each) for each in others)
        said = sorted((each.variant, each.target, each.manifest) for each in event.engines)
        if there != said or any(each.artifact_type != ENGINE_TYPE for each in others):
            raise Untrusted(
                f"the engines that {self.environment.name} has of '{spec}' are not those that its "
                f"ledger names in event {event.number}"
            )
        return State(
            environment=self.environment.name,
            spec=spec,
            index=digest,
            event=event,
            signed_by=signed_by,
            events=events,
            ledger=ledger,
            described=described,
        )

    def _ledger(self, descriptor: Descriptor, spec: str) -> ImageManifest:
        what = f"the ledger of '{spec}' in {self.environment.name}"
        try:
            ledger = ImageManifest.from_bytes(self.manifest(descriptor.digest, what))
        except BadDocument as error:
            raise Untrusted(f"{what} cannot be read: {error}") from error
        if ledger.artifact_type != LEDGER or not ledger.layers:
            raise Untrusted(f"{what} is none")
        return ledger

    def event(self, layer: Descriptor, spec: str) -> tuple[Event, frozenset[str]]:
        """An event of a ledger, and who of those that may promote signed it."""
        where = f"the ledger of '{spec}' in {self.environment.name}"
        data = self.small(layer)
        try:
            attestation = read_attestation(data, self.keys)
            event = read_event(attestation.statement)
        except Untrusted as error:
            told = readable(error)
            raise Untrusted(
                f"an event in {where} counts for nothing: {told}",
                hint=f"{_KEYS}; or a later version of EngineForge wrote it",
            ) from error
        if (event.environment, event.spec) != (self.environment.name, spec):
            raise Untrusted(f"{where} has an event of '{event.spec}' in {event.environment}")
        counted = attestation.signed_by & set(self.environment.promoters)
        if not counted:
            by = ", ".join(sorted(attestation.signed_by))
            raise Untrusted(
                f"{where}: event {event.number} is signed by {by}, who may not promote to it"
                if by
                else f"{where}: event {event.number} is signed by no key of its signers",
                hint=f"promoters of {self.environment.name} are "
                f"{', '.join(self.environment.promoters) or 'nobody'}",
            )
        signers = self.environment.signers
        in_time = {name for name in counted if signers[name].counts_at(event.time)}
        if not in_time:
            raise Untrusted(
                f"{where}: event {event.number} was signed by "
                f"{', '.join(sorted(counted))} after their keys had expired",
                hint=_KEYS,
            )
        return event, frozenset(in_time)

    def _time(self, layer: Descriptor) -> datetime:
        """Of an event that the next one vouches for by its digest: who signed it is of no account,
        and may be nobody who counts any more."""
        statement = Statement.from_bytes(Bundle.from_bytes(self.small(layer)).envelope.payload)
        return read_event(statement).time

    def manifest(self, digest: Digest, what: str) -> bytes:
        """A manifest that has to be there; Gone."""
        data = self.repository.manifest(digest)
        if data is None:
            raise Gone(f"{what} is gone from '{self.repository.url}' ({digest})")
        return data

    def small(self, blob: Descriptor) -> bytes:
        """All of a blob that holds an attestation."""
        if blob.size > _MOST_OF_A_BUNDLE:
            raise Untrusted(f"an attestation of {blob.size} bytes is not read ({blob.digest})")
        data = b"".join(self.repository.stream(blob))
        if digest_bytes(data) != blob.digest:
            raise BlobCorrupt(f"{blob.digest} in '{self.repository.url}' has other bytes")
        return data


_KEYS = (
    "a key that counted then stays in 'signers', with the day after which it counts no more as "
    "'not_after'; one that may have signed this for somebody else does not"
)


def readable(error: Untrusted) -> str:
    """What is amiss with what anybody may have written, for a terminal."""
    return printable(str(error.args[0]))


def _named(engine: Descriptor) -> tuple[str, str, Digest]:
    about = About.read(engine.annotations)
    return about.variant, about.target, engine.digest
