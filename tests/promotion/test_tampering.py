"""What is stored is changed, lost or put in place of something else, by somebody who may write
whatever they like and has no key that counts: nothing of it is promoted, believed or pulled."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import StoreCorrupt, Untrusted
from engineforge.promotion.artifact import CONFIG_TYPE
from engineforge.promotion.oci.documents import (
    MANIFEST,
    TITLE,
    Descriptor,
)
from engineforge.promotion.state import LEDGER
from engineforge.promotion.verifying import verified
from engineforge.store.manifest import Manifest
from tests.promotion.attacker import (
    Attacker,
    engine_of,
    not_promoted,
    nothing_pulled,
    refused,
)
from tests.promotion.world import NOW, World


def reachable(world: World, spec: str = "net") -> dict[str, Digest]:
    """Every blob that is stored of a spec in `staging`, by what it is."""
    state, attacker = world.state(spec=spec), world.attacker()
    found = {"index": state.index, "ledger": _ledger_of(attacker, state.index)}
    found |= {f"event {i}": each for i, each in enumerate(state.events, 1)}
    for engine in state.engines:
        manifest = attacker.manifest(engine.manifest)
        found[f"manifest of {engine.target}"] = engine.manifest
        found[f"config of {engine.target}"] = manifest.config.digest
        for layer in manifest.layers:
            found[f"{layer.annotations[TITLE]} of {engine.target}"] = layer.digest
        found[f"list for {engine.target}"] = attacker.tags()[f"sha256-{engine.manifest.hex}"]
        for i, each in enumerate(attacker.referrers(engine.manifest)):
            found[f"attestation {i} of {engine.target}"] = each.digest
            layer = attacker.manifest(each.digest).layers[0]
            found[f"bundle {i} of {engine.target}"] = layer.digest
    return found


def _ledger_of(attacker: Attacker, index: Digest) -> Digest:
    return next(e.digest for e in attacker.index(index).manifests if e.artifact_type == LEDGER)


def all_verified(world: World) -> None:
    opened = world.open()
    state = opened.state("net")
    assert state is not None
    for each in state.engines:
        found = verified(opened, state, each, NOW)
        if found.lacking:
            raise Untrusted("; ".join(found.lacking))


class TestBlobs:
    def test_what_is_not_tampered_with_is_pulled(self, world: World) -> None:
        assert world.fetch().target == "ada"
        assert world.verify().code == world.pull().code == 0

    @pytest.mark.parametrize("harm", ["flip", "cut", "lose"])
    def test_every_blob_that_is_flipped_cut_or_lost_is_seen(self, world: World, harm: str) -> None:
        attacker = world.attacker()
        blobs = reachable(world)
        assert len(blobs) > 20
        for what, digest in blobs.items():
            data = attacker.blob(digest).read_bytes()
            getattr(attacker, harm)(digest)
            with pytest.raises((StoreCorrupt, Untrusted)) as refusal:
                all_verified(world)
            assert digest.hex[:12] in str(refusal.value), what
            attacker.blob(digest).write_bytes(data)
        all_verified(world)

    def test_every_bit_of_an_event_is_under_its_digest(self, world: World) -> None:
        attacker, event = world.attacker(), world.state().events[-1]
        for at in range(0, attacker.blob(event).stat().st_size, 97):
            attacker.flip(event, at)
            with pytest.raises(StoreCorrupt, match="is not what its name says: it has sha256"):
                world.state()
            attacker.flip(event, at)

    def test_a_flipped_byte_of_the_engine_is_refused(self, world: World) -> None:
        engine = world.state().engines[0].engine
        world.attacker().flip(engine)
        refused(world, f"'blobs/sha256/{engine.hex}' in ", code=4)
        refused(world, "is not what its name says: it has sha256", code=4)
        not_promoted(world, "is not what its name says: it has sha256", code=4)

    def test_a_flipped_byte_of_the_config_is_refused(self, world: World) -> None:
        attacker = world.attacker()
        attacker.flip(attacker.manifest(engine_of(world.state())).config.digest)
        refused(world, "is not what its name says: it has sha256", code=4)
        not_promoted(world, "is not what its name says: it has sha256", code=4)

    def test_a_flipped_byte_of_a_file_beside_the_engine_is_not_promoted(self, world: World) -> None:
        attacker = world.attacker()
        layer = attacker.manifest(engine_of(world.state())).layer("build.log")
        assert layer is not None
        attacker.flip(layer.digest)
        assert "is not what its name says" in world.verify().err
        not_promoted(world, "is not what its name says: it has sha256", code=4)

    def test_an_engine_that_was_cut_is_refused(self, world: World) -> None:
        listed = world.state().engines[0]
        world.attacker().cut(listed.engine)
        size = world.attacker().blob(listed.engine).stat().st_size
        refused(world, f"it has {size} bytes, expected {size + 1}", code=4)

    def test_a_lost_engine_is_told(self, world: World) -> None:
        engine = world.state().engines[0].engine
        world.attacker().lose(engine)
        refused(world, "where something names it", code=4)
        not_promoted(world, "where something names it", code=4)

    def test_a_file_that_was_changed_after_it_was_pulled_is_nobodys(self, world: World) -> None:
        world.fetch()
        assert world.verify(str(world.output)).code == 0
        data = bytearray(world.output.read_bytes())
        data[-1] ^= 1
        world.output.write_bytes(data)
        result = world.verify(str(world.output))
        assert (result.code, "no environment has" in result.err) == (3, True)

    def test_a_file_is_vouched_for_whatever_else_is_broken(self, world: World) -> None:
        world.fetch()
        world.attacker().lose(world.state(spec="other").index)
        result = world.verify(str(world.output))
        assert result.code == 0
        assert result.out.startswith("net/fp32@ada in dev, number 1")
        assert "note: staging could not be asked" in result.err


OTHERS = "the engines that staging has of 'net' are not those that its ledger names in event 1"


class TestManifests:
    def test_a_swapped_layer_is_refused(self, world: World) -> None:
        """A manifest that names the engine of another spec, in place of the right one."""
        attacker, state = world.attacker(), world.state()
        theirs = attacker.manifest(world.state(spec="other").engines[0].manifest)
        mine = attacker.manifest(engine_of(state))
        layers = tuple(theirs.layers[:1] + mine.layers[1:])
        made = attacker.put(replace(mine, layers=layers).to_bytes(), MANIFEST)
        self.replace(attacker, world, made)
        refused(world, OTHERS)
        not_promoted(world, OTHERS)

    def test_a_manifest_under_the_digest_of_another_is_refused(self, world: World) -> None:
        attacker, state = world.attacker(), world.state()
        other = world.state(spec="other").engines[0].manifest
        attacker.blob(engine_of(state)).write_bytes(attacker.blob(other).read_bytes())
        refused(world, "is not what its name says: it has sha256", code=4)
        not_promoted(world, "is not what its name says: it has sha256", code=4)

    def test_nobody_is_made_to_approve_of_what_was_swapped(self, world: World) -> None:
        other = next(iter(world.state(spec="other").described.values()))
        self.replace(world.attacker(), world, other)
        result = world.approve("production")
        assert (result.code, OTHERS in result.err) == (3, True)

    def test_the_engine_of_another_spec_is_refused(self, world: World) -> None:
        attacker = world.attacker()
        theirs = next(iter(world.state(spec="other").described.values()))
        self.replace(attacker, world, theirs)
        refused(world, OTHERS)

    def test_the_engine_of_another_target_is_refused(self, world: World) -> None:
        """Both are signed; which is called what was swapped."""
        state, attacker = world.state(), world.attacker()
        ada, ampere = (state.described[engine_of(state, name)] for name in ("ada", "ampere"))
        swapped = [
            replace(ada, annotations=ampere.annotations),
            replace(ampere, annotations=ada.annotations),
        ]
        attacker.show("net", state.ledger.layers, swapped)
        refused(world, OTHERS)

    def test_a_forged_config_is_refused_by_the_digest_of_the_manifest(self, world: World) -> None:
        """The engine for `ampere` is to run where `ada` is: its config says so, sealed anew."""
        state, attacker = world.state(), world.attacker()
        manifest = attacker.manifest(engine_of(state, "ampere"))
        config = json.loads(attacker.blob(manifest.config.digest).read_bytes())
        document = config["key_document"]
        document["recipe"]["target"]["compute_capabilities"] = ["8.9"]
        forged = Manifest(
            stage="engine",
            key=digest_bytes(b""),
            key_document=document,
            files=Manifest.from_bytes(attacker.blob(manifest.config.digest).read_bytes()).files,
            record=config["record"],
        )
        put = attacker.put(forged.to_bytes(), CONFIG_TYPE)
        made = attacker.put(replace(manifest, config=put).to_bytes(), MANIFEST)
        self.replace(attacker, world, made, target="ampere")
        refused(world, OTHERS)
        # And at the place of the true one, it is not that one.
        attacker.show("net", state.ledger.layers, state.described.values())
        attacker.blob(manifest.config.digest).write_bytes(attacker.blob(put.digest).read_bytes())
        with pytest.raises(StoreCorrupt, match="is not what its name says"):
            world.fetch()
        assert nothing_pulled(world)

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_an_engine_too_few_or_too_many_is_refused(self, world: World, count: int) -> None:
        state, attacker = world.state(), world.attacker()
        engines = [*state.described.values(), state.described[engine_of(state)]]
        attacker.show("net", state.ledger.layers, engines[:count])
        refused(world, OTHERS)

    def test_what_an_index_says_of_an_engine_decides_nothing(self, world: World) -> None:
        state, attacker = world.state(), world.attacker()
        self.call_it(attacker, world)
        assert world.fetch().engine == state.engines[0].engine
        assert world.pull().code == 0

    def test_what_an_index_says_of_an_engine_is_told_where_it_is_not_true(
        self, world: World
    ) -> None:
        self.call_it(world.attacker(), world)
        result = world.verify()
        assert result.code == 3
        assert (
            "what staging says of fp32@ada in its index is not what the engine's own manifest"
            in (result.err)
        )

    def test_what_an_index_says_of_an_engine_is_not_promoted_with_it(self, world: World) -> None:
        self.call_it(world.attacker(), world)
        assert world.promote("production").code == 0
        state = world.state("production")
        assert state.described[engine_of(state)].annotations["dev.engineforge.gpu"] == "8.9"
        assert world.verify("production/net").code == 0

    @staticmethod
    def call_it(attacker: Attacker, world: World) -> None:
        state = world.state()
        engines = [
            replace(each, annotations={**each.annotations, "dev.engineforge.gpu": "any GPU"})
            for each in state.described.values()
        ]
        attacker.show("net", state.ledger.layers, engines)

    @staticmethod
    def replace(attacker: Attacker, world: World, made: Descriptor, *, target: str = "ada") -> None:
        """Have another manifest where that of the engine for a target was."""
        state = world.state()
        engines = [
            replace(each, digest=made.digest, size=made.size)
            if digest == engine_of(state, target)
            else each
            for digest, each in state.described.items()
        ]
        attacker.show("net", state.ledger.layers, engines)
