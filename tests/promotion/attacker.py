"""Somebody who may write whatever they like into an environment, and has no key that counts; and
what becomes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engineforge.digest import Digest
from engineforge.promotion.attest.attestation import sign_attestation
from engineforge.promotion.attest.bundle import MEDIA_TYPE as BUNDLE
from engineforge.promotion.attest.bundle import Bundle
from engineforge.promotion.attest.keys import PrivateKey
from engineforge.promotion.attest.statement import Statement
from engineforge.promotion.ledger import Event, statement_of
from engineforge.promotion.oci.documents import (
    EMPTY_BYTES,
    EMPTY_CONFIG,
    INDEX,
    MANIFEST,
    REF_NAME,
    Descriptor,
    ImageIndex,
    ImageManifest,
)
from engineforge.promotion.state import LEDGER, STATE, State

if TYPE_CHECKING:
    from tests.promotion.world import World


COUNTS_NOT = "an event in the ledger of 'net' in staging counts for nothing: "


class Attacker:
    """Writes past everything that would check it: into the folder of an environment itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / "sha256" / digest.partition(":")[2]

    def json(self, digest: Digest) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.blob(digest).read_bytes())
        return found

    def put(self, data: bytes, media_type: str = BUNDLE, **more: Any) -> Descriptor:  # noqa: ANN401
        made = Descriptor.of(data, media_type, **more)
        self.blob(made.digest).write_bytes(data)
        return made

    def put_json(self, raw: Mapping[str, Any], media_type: str = MANIFEST) -> Descriptor:
        return self.put(json.dumps(raw).encode(), media_type)

    def flip(self, digest: Digest, at: int = -1) -> None:
        """One bit of a blob."""
        data = bytearray(self.blob(digest).read_bytes())
        data[at] ^= 1
        self.blob(digest).write_bytes(data)

    def cut(self, digest: Digest) -> None:
        self.blob(digest).write_bytes(self.blob(digest).read_bytes()[:-1])

    def lose(self, digest: Digest) -> None:
        self.blob(digest).unlink()

    def tags(self) -> dict[str, Digest]:
        return {
            each["annotations"][REF_NAME]: Digest(each["digest"])
            for each in self._index()["manifests"]
        }

    def point(self, tag: str, to: Digest | None) -> None:
        """Have a tag stand for something, or for nothing."""
        raw = self._index()
        raw["manifests"] = [e for e in raw["manifests"] if e["annotations"][REF_NAME] != tag]
        if to is not None:
            size = self.blob(to).stat().st_size
            about = {"annotations": {REF_NAME: tag}}
            raw["manifests"].append({"mediaType": INDEX, "digest": to, "size": size, **about})
        (self.folder / "index.json").write_text(json.dumps(raw))

    def _index(self) -> dict[str, Any]:
        if not (self.folder / "index.json").exists():
            return {"schemaVersion": 2, "manifests": []}
        found: dict[str, Any] = json.loads((self.folder / "index.json").read_bytes())
        return found

    def referrers(self, subject: Digest) -> list[Descriptor]:
        tag = self.tags().get(f"sha256-{subject.hex}")
        return [] if tag is None else list(self.index(tag).manifests)

    def refer(self, subject: Digest, to: Iterable[Descriptor]) -> None:
        """Have just these refer to a manifest, as the list of them has it."""
        made = self.put(ImageIndex(manifests=tuple(to)).to_bytes())
        self.point(f"sha256-{subject.hex}", made.digest)

    def attach(self, subject: Digest, bundle: bytes) -> Descriptor:
        """An attestation, attached to a manifest beside those that are."""
        self.put(EMPTY_BYTES)
        made = ImageManifest(
            artifact_type=BUNDLE,
            config=EMPTY_CONFIG,
            layers=(self.put(bundle),),
            subject=Descriptor(
                media_type=MANIFEST, digest=subject, size=self.blob(subject).stat().st_size
            ),
        )
        added = self.put(made.to_bytes(), MANIFEST, artifact_type=BUNDLE)
        self.refer(subject, [*self.referrers(subject), added])
        return added

    def index(self, digest: Digest) -> ImageIndex:
        return ImageIndex.from_bytes(self.blob(digest).read_bytes())

    def manifest(self, digest: Digest) -> ImageManifest:
        return ImageManifest.from_bytes(self.blob(digest).read_bytes())

    def take_from(self, other: Attacker) -> None:
        """Have all blobs that another environment has."""
        shutil.copytree(other.folder / "blobs", self.folder / "blobs", dirs_exist_ok=True)

    def show(
        self,
        spec: str,
        ledger: Iterable[Descriptor],
        engines: Iterable[Descriptor],
        *,
        ledgers: int = 1,
    ) -> Digest:
        """Have the tag of a spec, and that of its number, stand for these engines and this
        ledger."""
        self.put(EMPTY_BYTES)
        layers = tuple(ledger)
        written = ImageManifest(artifact_type=LEDGER, config=EMPTY_CONFIG, layers=layers).to_bytes()
        listed = self.put(written, MANIFEST, artifact_type=LEDGER)
        again = [replace(listed, annotations={"copy": str(i)}) for i in range(1, ledgers)]
        index = ImageIndex(
            artifact_type=STATE,
            manifests=(*engines, *([listed] if ledgers else []), *again),
            annotations={"dev.engineforge.spec": spec},
        )
        digest = self.put(index.to_bytes()).digest
        self.point(spec, digest)
        self.point(f"{spec}--{len(layers)}", digest)
        return digest

    def add(self, state: State, key: PrivateKey, **changes: Any) -> Digest:  # noqa: ANN401
        """One more event, like the last one but for these changes, signed by a key."""
        event = next_of(state, **changes)
        line = self.put(signed(statement_of(event), key))
        engines = [state.described[each.manifest] for each in event.engines]
        return self.show(state.spec, [*state.ledger.layers, line], engines)


def next_of(state: State, **changes: Any) -> Event:  # noqa: ANN401 - fields of an event
    after = {
        "number": state.number + 1,
        "previous": state.events[-1],
        "time": state.event.time + timedelta(seconds=1),
    }
    return replace(state.event, **{**after, **changes})


def signed(statement: Statement, key: PrivateKey) -> bytes:
    return sign_attestation(statement, key)


def engine_of(state: State, target: str = "ada") -> Digest:
    found = state.engine("fp32", target)
    assert found is not None
    return found.manifest


def nothing_pulled(world: World) -> bool:
    """Neither an engine nor a part of one lies where one was to be."""
    return not [each for each in world.root.iterdir() if each.name.startswith("model.engine")]


def refused(world: World, told: str, *, code: int = 3, what: str = "staging/net") -> None:
    """It is neither pulled nor vouched for, and both say why."""
    for result in (world.pull(what), world.verify(what)):
        assert result.code == code, result
        assert told in result.err
    assert nothing_pulled(world)


def not_promoted(world: World, told: str, *, code: int = 3, to: str = "production") -> None:
    """It goes nowhere from where it is."""
    result = world.promote(to)
    assert result.code == code, result
    assert told in result.err
    assert "net" not in Attacker(world.root / "envs" / to).tags()


def without(attacker: Attacker, manifest: Digest, kind: str) -> list[Descriptor]:
    """The referrers of an engine that say something else than this."""
    return [
        each
        for each in attacker.referrers(manifest)
        if statement_in(attacker, each).predicate_type != kind
    ]


def statement_in(attacker: Attacker, attestation: Descriptor) -> Statement:
    data = attacker.blob(attacker.manifest(attestation.digest).layers[0].digest).read_bytes()
    return Statement.from_bytes(Bundle.from_bytes(data).envelope.payload)


def bundle_in(attacker: Attacker, manifest: Digest, kind: str) -> bytes:
    """What somebody who counts said of an engine."""
    return next(
        attacker.blob(attacker.manifest(each.digest).layers[0].digest).read_bytes()
        for each in attacker.referrers(manifest)
        if statement_in(attacker, each).predicate_type == kind
    )
