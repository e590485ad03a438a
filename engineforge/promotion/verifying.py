"""All that an environment says of an engine, held together: ledger, manifest, layers and
attestations, read and verified anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from engineforge.errors import PromotionRefused, Untrusted
from engineforge.promotion.artifact import EngineArtifact, entry_manifest
from engineforge.promotion.attest import provenance
from engineforge.promotion.attest.attestation import Attestation
from engineforge.promotion.attest.provenance import Provenance, read_provenance
from engineforge.promotion.environment import Opened, config_of
from engineforge.promotion.ledger import Listed
from engineforge.promotion.oci.documents import Descriptor
from engineforge.promotion.oci.repository import Gone
from engineforge.promotion.state import State
from engineforge.promotion.vetting import policy_holds, provenance_holds
from engineforge.store.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """An engine of an environment with what counts of it there. `lacking` says why nobody would
    pull it today."""

    state: State
    engine: Listed
    artifact: EngineArtifact
    manifest: Manifest
    provenance: tuple[tuple[Provenance, frozenset[str]], ...]
    attestations: tuple[Attestation, ...]
    lacking: tuple[str, ...]


def verified(opened: Opened, state: State, engine: Listed, now: datetime) -> Verified:
    """Every byte that is stored of an engine, read and compared; Untrusted, BlobCorrupt or Gone."""
    artifact = opened.engine(engine)
    if state.described[engine.manifest] != opened.describe(state.spec, engine):
        raise Untrusted(
            f"what {state.environment} says of {engine.name} in its index is not what the engine's "
            "own manifest says",
            hint="nothing here goes by it, but other tools may: promote something, and it is "
            "written anew",
        )
    manifest = entry_manifest(artifact, config_of(opened, artifact))
    for layer in artifact.layers:
        _read(opened, layer, engine)
    attestations = opened.attestations(engine)
    return Verified(
        state=state,
        engine=engine,
        artifact=artifact,
        manifest=manifest,
        provenance=tuple(
            (read_provenance(each.statement), each.signed_by)
            for each in attestations
            if each.statement.predicate_type == provenance.PROVENANCE
        ),
        attestations=tuple(attestations),
        lacking=tuple(_lacking(opened, state, engine, now)),
    )


def _lacking(opened: Opened, state: State, engine: Listed, now: datetime) -> Iterator[str]:
    try:
        policy_holds(opened, state, engine)
        provenance_holds(opened, state, engine, now)
    except PromotionRefused as error:
        yield str(error.args[0])


def _read(opened: Opened, layer: Descriptor, engine: Listed) -> None:
    read = sum(len(chunk) for chunk in opened.repository.stream(layer))
    if read != layer.size:
        raise Gone(f"a layer of {engine.name} has {read} bytes, expected {layer.size}")
