"""What somebody can do who may write whatever they like into an environment, and has no key that
counts: nothing of it is promoted, believed or pulled, and each attempt is told as what it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import StoreCorrupt
from engineforge.promotion import Untrusted
from engineforge.promotion.artifact import CONFIG_TYPE
from engineforge.promotion.attest.bundle import Bundle
from engineforge.promotion.attest.provenance import PROVENANCE
from engineforge.promotion.attest.results import APPROVAL, Approval
from engineforge.promotion.attest.statement import Statement, of_engine
from engineforge.promotion.ledger import Listed, Verdict, statement_of
from engineforge.promotion.oci.documents import (
    MANIFEST,
    TITLE,
    Descriptor,
)
from engineforge.promotion.state import LEDGER
from engineforge.promotion.verifying import verified
from engineforge.store.manifest import Manifest
from tests.promotion.world import (
    NOW,
    Attacker,
    World,
    engine_of,
    next_of,
    nothing_pulled,
    signed,
)


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
        assert result.out.count("net/fp32@ada in ") == 2
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


def with_verdict(engines: Iterable[Listed], *, overridden: bool) -> tuple[Listed, ...]:
    """The same, not approved."""
    verdict = Verdict(passed=False, overridden=overridden, why="why")
    return tuple(replace(e, gates={**e.gates, "approval": verdict}) for e in engines)


EVENT = "an event in the ledger of 'net' in staging counts for nothing: "


class TestLedgers:
    def test_an_event_that_somebody_else_signed_is_refused(self, world: World) -> None:
        world.attacker().add(world.state(), world.key("mallory"))
        told = EVENT + "the signature is by none of the keys that count here: 'alice', 'ci'"
        refused(world, told)
        not_promoted(world, told)
        assert told in world.promote("staging").err

    def test_an_event_of_a_signer_who_is_no_promoter_is_refused(self, world: World) -> None:
        world.attacker().add(world.state(), world.key("alice"))
        told = "event 2 is signed by alice, who may not promote to it"
        refused(world, told)
        not_promoted(world, told)
        assert "hint: promoters of staging are ci" in world.pull().err

    def test_an_event_that_names_another_key_than_signed_it_is_refused(self, world: World) -> None:
        state, attacker = world.state(), world.attacker()
        bundle = Bundle.from_bytes(signed(statement_of(next_of(state)), world.key("mallory")))
        named = replace(bundle, hint=world.key("ci").public.hint)
        line = attacker.put(named.to_bytes())
        attacker.show("net", [*state.ledger.layers, line], state.described.values())
        refused(world, "; it says that it is of 'ci'")

    def test_an_event_whose_payload_was_changed_is_refused(self, world: World) -> None:
        """Other engines under the signature of the event that was."""
        state, attacker = world.state(), world.attacker()
        bundle = Bundle.from_bytes(attacker.blob(state.events[0]).read_bytes())
        event = replace(state.event, reason="nothing was overridden")
        envelope = replace(bundle.envelope, payload=statement_of(event).to_bytes())
        line = attacker.put(replace(bundle, envelope=envelope).to_bytes())
        attacker.show("net", [line], state.described.values())
        refused(world, EVENT + "the signature is by none of the keys")

    def test_an_overridden_gate_is_not_to_be_hidden(self, world: World) -> None:
        """The event says that it was overridden; one that says otherwise is signed by nobody."""
        state, attacker = world.state(), world.attacker()
        attacker.add(state, world.key("ci"), engines=with_verdict(state.engines, overridden=True))
        assert "did not pass, and was let in all the same: 'approval' (why)" in world.pull().err
        world.output.unlink()
        overridden = world.state()
        bundle = Bundle.from_bytes(attacker.blob(overridden.events[1]).read_bytes())
        event = replace(overridden.event, engines=state.engines)
        envelope = replace(bundle.envelope, payload=statement_of(event).to_bytes())
        line = attacker.put(replace(bundle, envelope=envelope).to_bytes())
        attacker.show("net", [state.ledger.layers[0], line], state.described.values())
        told = EVENT + "the signature is by none of the keys"
        assert told in world.pull("staging/net", "--no-overridden").err
        assert told in world.run("history", "net", "--in", "staging").err

    def test_a_gate_that_was_never_passed_is_refused(self, world: World) -> None:
        """Even where a promoter's own tool signed it so."""
        state = world.state()
        engines = with_verdict(state.engines, overridden=False)
        world.attacker().add(state, world.key("ci"), engines=engines)
        assert "the gate 'approval' did not let it in" in world.pull().err
        result = world.verify()
        assert (result.code, "REFUSED     approval" in result.out) == (3, True)
        assert "LACKING     fp32@ada of 'staging/net' is there, and the gate 'approval'" in (
            result.out
        )

    def test_the_ledger_of_another_spec_is_refused(self, world: World) -> None:
        attacker = world.attacker()
        attacker.point("net", world.state(spec="other").index)
        attacker.point("net--1", world.state(spec="other").index)
        told = "the ledger of 'net' in staging has an event of 'other' in staging"
        refused(world, told)
        not_promoted(world, told)

    def test_what_another_environment_has_is_refused(self, world: World) -> None:
        """All that staging has is put into production, past its gates."""
        state, production = world.state(), world.attacker("production")
        (production.folder / "blobs").mkdir(parents=True)
        (production.folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        production.take_from(world.attacker())
        for tag in ("net", "net--1"):
            production.point(tag, state.index)
        told = "the ledger of 'net' in production has an event of 'net' in staging"
        refused(world, told, what="production/net")
        assert told in world.promote("production").err

    @pytest.mark.parametrize("count", [0, 2])
    def test_an_index_with_no_ledger_or_two_is_refused(self, world: World, count: int) -> None:
        state = world.state()
        world.attacker().show("net", state.ledger.layers, state.described.values(), ledgers=count)
        refused(world, f"what staging has of 'net' has {count} ledgers, expected 1")

    def test_a_ledger_without_events_is_refused(self, world: World) -> None:
        world.attacker().show("net", [], world.state().described.values())
        refused(world, "the ledger of 'net' in staging is none")

    def test_a_ledger_of_another_type_is_refused(self, world: World) -> None:
        state, attacker = world.state(), world.attacker()
        listed = attacker.index(state.index).manifests[-1]
        engine = engine_of(state)
        index = replace(
            attacker.index(state.index),
            manifests=(
                *state.described.values(),
                replace(listed, digest=engine, size=attacker.blob(engine).stat().st_size),
            ),
        )
        attacker.point("net", attacker.put(index.to_bytes()).digest)
        attacker.point("net--1", None)
        refused(world, "the ledger of 'net' in staging is none")

    def test_an_index_of_another_type_is_refused(self, world: World) -> None:
        state, attacker = world.state(), world.attacker()
        index = replace(attacker.index(state.index), artifact_type="application/x.other")
        attacker.point("net", attacker.put(index.to_bytes()).digest)
        refused(world, "what staging has of 'net' was not put there by a promotion")

    def test_a_ledger_that_lost_its_first_event_is_refused(self, later: World) -> None:
        state = later.state()
        later.attacker().show("net", state.ledger.layers[1:], state.described.values())
        refused(later, "has 1 events, and its last one is number 2, or follows another one")

    def test_a_ledger_that_lost_its_last_event_is_refused(self, later: World) -> None:
        state = later.state()
        later.attacker().show("net", state.ledger.layers[:1], state.described.values())
        refused(later, "are not those that its ledger names in event 1")

    def test_a_ledger_with_an_event_twice_is_refused(self, later: World) -> None:
        state = later.state()
        layers = [*state.ledger.layers, state.ledger.layers[-1]]
        later.attacker().show("net", layers, state.described.values())
        refused(later, "has 3 events, and its last one is number 2, or follows another one")

    def test_a_ledger_with_another_past_is_refused(self, later: World) -> None:
        """The first event is of another key, and the second does not follow it."""
        state, attacker = later.state(), later.attacker()
        event = replace(state.event, number=1, previous=None)
        line = attacker.put(signed(statement_of(event), later.key("mallory")))
        layers = [line, state.ledger.layers[1]]
        attacker.show("net", layers, state.described.values())
        refused(later, "its last one is number 2, or follows another one")

    def test_one_engine_under_a_name_twice_is_refused(self, world: World) -> None:
        """Even where a promoter signed it: which of the two is meant, nobody could tell."""
        state = world.state()
        first = state.engines[0]
        second = replace(state.engines[1], variant=first.variant, target=first.target)
        world.attacker().add(state, world.key("ci"), engines=(first, second))
        refused(world, EVENT + "an event of a ledger names two engines fp32@ada")

    def test_an_engine_that_a_ledger_calls_by_another_name_is_refused(self, world: World) -> None:
        """Even where a promoter signed it: the manifest says what it is."""
        state, attacker = world.state(), world.attacker()
        engine = replace(state.engines[1], target="ada")
        called = state.described[engine.manifest]
        names = {**called.annotations, "dev.engineforge.target": "ada"}
        line = attacker.put(
            signed(statement_of(next_of(state, engines=(engine,))), world.key("ci"))
        )
        layers = [*state.ledger.layers, line]
        attacker.show("net", layers, [replace(called, annotations=names)])
        told = "what the ledger of staging calls fp32@ada is net:fp32@ampere"
        refused(world, told)
        not_promoted(world, told)

    def test_the_engine_of_another_spec_in_a_signed_ledger_is_refused(self, world: World) -> None:
        attacker, other = world.attacker(), world.state(spec="other")
        event = next_of(other, spec="net", number=1, previous=None)
        line = attacker.put(signed(statement_of(event), world.key("ci")))
        attacker.show("net", [line], other.described.values())
        for result in (world.pull(), world.verify(), world.promote("production")):
            assert result.code == 3
            assert "calls fp32@ada is other:fp32@ada" in result.err
        assert nothing_pulled(world)


SET_BACK = "the tag 'net' of staging stands for number 1 of 'net', and there is a later one"


class TestSetBack:
    def test_a_pointer_that_was_set_back_is_refused(self, later: World) -> None:
        attacker = later.attacker()
        attacker.point("net", attacker.tags()["net--1"])
        refused(later, SET_BACK)
        not_promoted(later, SET_BACK)
        assert "have 'net' stand for what 'net--2' stands for once more" in later.pull().err

    def test_a_pointer_is_put_right_as_the_hint_says(self, later: World) -> None:
        attacker = later.attacker()
        attacker.point("net", attacker.tags()["net--1"])
        attacker.point("net", attacker.tags()["net--2"])
        assert later.pull().code == 0

    def test_a_pointer_that_was_set_back_to_what_is_kept_no_longer_is_refused(
        self, later: World
    ) -> None:
        """The number after it was untagged, too, by retention: those after that one tell."""
        first = later.attacker().tags()["net--1"]
        for number in (1, 2):
            assert later.rollback().code == 0, number
        for tag in ("net--1", "net--2"):
            later.attacker().point(tag, None)
        later.attacker().point("net", first)
        refused(later, SET_BACK)

    def test_a_machine_that_pulled_before_knows_though_all_numbers_are_gone(
        self, later: World
    ) -> None:
        engine = later.fetch().engine
        attacker = later.attacker()
        attacker.point("net", attacker.tags()["net--1"])
        attacker.point("net--2", None)
        result = later.pull()
        assert result.code == 3
        assert "the ledger of 'staging/net' was set back: it is at number 1, and number 2" in (
            result.err
        )
        assert digest_bytes(later.output.read_bytes()) == engine

    def test_without_numbers_and_memory_an_old_pointer_is_an_old_state(self, later: World) -> None:
        """What no signature can tell: that there ever was a later one. Hence both."""
        attacker = later.attacker()
        attacker.point("net", attacker.tags()["net--1"])
        attacker.point("net--2", None)
        assert later.fetch().number == 1

    def test_a_ledger_that_was_rewritten_is_known_by_who_pulled_before(self, later: World) -> None:
        """Whoever has the key of a promoter, and rewrites what was."""
        later.fetch()
        state, attacker = later.state(), later.attacker()
        event = replace(state.event, reason="another")
        line = attacker.put(signed(statement_of(event), later.key("ci")))
        layers = [state.ledger.layers[0], line]
        attacker.show("net", layers, state.described.values())
        result = later.pull()
        assert result.code == 3
        assert "the ledger of 'staging/net' was rewritten: its event 2 is another" in result.err

    def test_a_pointer_that_is_gone_is_not_taken_for_a_beginning(self, later: World) -> None:
        later.attacker().point("net", None)
        told = "'net' was promoted to staging, and its tag 'net' is gone"
        refused(later, told)
        assert told in later.promote("staging").err

    def test_a_pointer_that_is_gone_with_the_first_number_is_no_beginning(
        self, later: World
    ) -> None:
        later.attacker().point("net", None)
        later.attacker().point("net--1", None)
        refused(later, "'net' was promoted to staging, and its tag 'net' is gone")

    def test_the_tag_of_a_number_that_was_moved_is_not_rolled_back_to(self, later: World) -> None:
        """To an event that was signed and lost the race to be number 1: it never was there."""
        state, attacker = later.state(), later.attacker()
        first = later.open().past("net", 1)
        event = replace(first.event, reason="the other one")
        line = attacker.put(signed(statement_of(event), later.key("ci")))
        attacker.show("net", [line], first.described.values())
        attacker.point("net", state.index)
        result = later.rollback()
        assert result.code == 3
        assert "tagged as number 1 of 'net' in staging is of another ledger" in result.err

    def test_another_state_under_a_number_is_not_rolled_back_to(self, later: World) -> None:
        attacker = later.attacker()
        attacker.point("net--1", attacker.tags()["net--2"])
        result = later.rollback()
        assert result.code == 3
        assert "what is tagged as number 1 of 'net' is 2" in result.err


GONE = "nobody who counts says how it was built; it was let in with provenance, which is gone"


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


class TestAttestations:
    def test_a_lost_referrer_is_refused(self, world: World) -> None:
        attacker, ada = world.attacker(), engine_of(world.state())
        attacker.refer(ada, without(attacker, ada, PROVENANCE))
        assert GONE in world.pull().err
        assert nothing_pulled(world)
        result = world.verify()
        assert result.code == 3
        assert f"LACKING     fp32@ada of 'staging/net': {GONE}" in result.out
        assert "built       nobody whose key counts says how" in result.out
        not_promoted(world, "nobody who counts says how it was built")

    def test_a_lost_list_of_referrers_is_refused(self, world: World) -> None:
        world.attacker().point(f"sha256-{engine_of(world.state()).hex}", None)
        assert GONE in world.pull().err
        not_promoted(world, "nobody who counts says how it was built")

    def test_what_was_lost_is_attached_again_by_promoting_again(self, world: World) -> None:
        """As the hint says, and without one more event."""
        attacker, ada = world.attacker(), engine_of(world.state())
        attacker.refer(ada, without(attacker, ada, PROVENANCE))
        assert "attach it again: engineforge promote net --to staging" in world.pull().err
        assert "nothing to do" in world.promote("staging").out
        assert world.state().number == 1
        assert world.pull().code == world.verify().code == 0

    def test_promoting_again_attaches_nothing_that_is_there(self, world: World) -> None:
        before = world.attacker().referrers(engine_of(world.state()))
        assert world.promote("staging").code == world.promote("dev").code == 0
        assert world.attacker().referrers(engine_of(world.state())) == before

    def test_a_referrer_that_is_listed_and_gone_is_told(self, world: World) -> None:
        attacker, ada = world.attacker(), engine_of(world.state())
        lost = attacker.referrers(ada)[0]
        attacker.lose(lost.digest)
        told = f"an attestation of fp32@ada in staging ({lost.digest.short}) is gone from "
        refused(world, told, code=4)

    def test_the_provenance_of_another_engine_does_not_count(self, world: World) -> None:
        """Truly signed, and attached as if it were of this one."""
        attacker, state = world.attacker(), world.state()
        ada, ampere = engine_of(state), engine_of(state, "ampere")
        foreign = bundle_in(attacker, ampere, PROVENANCE)
        attacker.refer(ada, without(attacker, ada, PROVENANCE))
        attacker.attach(ada, foreign)
        result = world.pull()
        assert GONE in result.err
        assert "does not count: it is about another engine" in result.err
        assert nothing_pulled(world)
        not_promoted(world, "nobody who counts says how it was built")

    def test_the_attestation_of_another_engine_that_is_only_listed_does_not_count(
        self, world: World
    ) -> None:
        attacker, state = world.attacker(), world.state()
        ada, ampere = engine_of(state), engine_of(state, "ampere")
        attacker.refer(ada, attacker.referrers(ampere))
        result = world.pull()
        assert GONE in result.err
        assert "does not count: it is attached to another engine" in result.err
        not_promoted(world, "nobody who counts says how it was built")

    def test_provenance_that_names_only_the_engine_file_does_not_count(self, world: World) -> None:
        """The same file under another manifest: what else is beside it, nobody vouched for."""
        attacker, state = world.attacker(), world.state()
        ada = state.engines[0]
        said = Statement.from_bytes(
            Bundle.from_bytes(bundle_in(attacker, ada.manifest, PROVENANCE)).envelope.payload
        )
        partly = replace(said, subjects=said.subjects[1:])
        attacker.refer(ada.manifest, without(attacker, ada.manifest, PROVENANCE))
        attacker.attach(ada.manifest, signed(partly, world.key("ci")))
        assert GONE in world.pull().err

    def test_what_somebody_else_signed_does_not_count(self, world: World) -> None:
        attacker, ada = world.attacker(), engine_of(world.state())
        said = Bundle.from_bytes(bundle_in(attacker, ada, PROVENANCE)).envelope.payload
        attacker.refer(ada, without(attacker, ada, PROVENANCE))
        attacker.attach(ada, signed(Statement.from_bytes(said), world.key("mallory")))
        result = world.pull()
        assert GONE in result.err
        assert "does not count: the signature is by none of the keys that count here" in result.err
        not_promoted(world, "nobody who counts says how it was built")

    def test_what_a_signer_signed_who_does_not_count_for_it_is_told(self, world: World) -> None:
        attacker, ada = world.attacker(), engine_of(world.state())
        said = Bundle.from_bytes(bundle_in(attacker, ada, PROVENANCE)).envelope.payload
        attacker.refer(ada, without(attacker, ada, PROVENANCE))
        attacker.attach(ada, signed(Statement.from_bytes(said), world.key("alice")))
        assert "nobody who counts says how it was built: 'alice' is not 'ci'" in world.pull().err

    def test_what_cannot_be_read_beside_it_changes_nothing(self, world: World) -> None:
        attacker, ada = world.attacker(), engine_of(world.state())
        attacker.attach(ada, b"[" * 100_000)
        result = world.pull()
        assert result.code == 0
        assert "does not count: the bundle is no JSON that is read one way" in result.err


class TestApprovals:
    """For `production`, which asks alice as well."""

    @pytest.fixture
    def world(self, world: World) -> World:
        old = "gates: {provenance: {signed_by: [ci]}, freshness: {}}"
        world.edit("environments", old, "gates: {approval: {by: [alice]}}")
        return world

    def test_what_was_approved_is_promoted(self, world: World) -> None:
        assert world.approve("production").code == 0
        assert world.promote("production").code == 0

    def test_the_approval_of_one_environment_is_none_of_another(self, world: World) -> None:
        """That for staging is attached to the very engine."""
        not_promoted(
            world,
            "expected 1 of 'alice' to approve, found none: 'alice' approved of it as 'staging/net'",
        )

    def test_the_approval_of_another_engine_is_none_of_this_one(self, world: World) -> None:
        attacker, state = world.attacker(), world.state()
        assert (
            world.run(
                *(
                    "attest",
                    "approve",
                    "specs/net.yaml",
                    "--to",
                    "production",
                    "--target",
                    "ampere",
                ),
                *("--key", world.specs / "keys" / "alice.key"),
            ).code
            == 0
        )
        for each in attacker.referrers(engine_of(state, "ampere")):
            bundle = attacker.manifest(each.digest).layers[0].digest
            attacker.attach(engine_of(state), attacker.blob(bundle).read_bytes())
        not_promoted(world, "expected 1 of 'alice' to approve, found none")

    @pytest.mark.parametrize(
        "changed", [{"variant": "int8"}, {"target": "ampere"}, {"spec": "other"}]
    )
    def test_an_approval_under_another_name_is_none_of_this_one(
        self, world: World, changed: dict[str, str]
    ) -> None:
        """Two variants may have the same engine, and one of them be approved of."""
        self.attach(world, "alice", **changed)
        not_promoted(world, "expected 1 of 'alice' to approve, found none")

    def test_who_says_to_be_alice_is_not(self, world: World) -> None:
        self.attach(world, "mallory", by="alice")
        not_promoted(world, "expected 1 of 'alice' to approve, found none")

    def test_who_counts_otherwise_does_not_approve(self, world: World) -> None:
        self.attach(world, "ci", by="alice")
        not_promoted(world, "; 'ci' is not 'alice'")

    def test_an_approval_after_the_key_had_expired_does_not_count(self, world: World) -> None:
        assert world.approve("production").code == 0
        expires(world, "production", "alice", "2020-01-01")
        result = world.promote("production")
        assert (result.code, ", after 2020-01-01" in result.err) == (3, True)

    def test_an_approval_in_the_future_does_not_count(self, world: World) -> None:
        self.attach(world, "alice", time=NOW.replace(year=2999))
        not_promoted(world, "'alice' signed at 2999-01-01 12:00:00 UTC, which is yet to come")

    @staticmethod
    def attach(world: World, key: str, **changed: Any) -> None:  # noqa: ANN401
        ada = world.state().engines[0]
        said = Approval(
            environment="production",
            spec="net",
            variant=ada.variant,
            target=ada.target,
            by=key,
            time=world.state().event.time,
        )
        statement = of_engine(
            APPROVAL,
            replace(said, **changed).to_predicate(),
            label=ada.name,
            manifest=ada.manifest,
            engine=ada.engine,
        )
        world.attacker().attach(ada.manifest, signed(statement, world.key(key)))


def expires(world: World, name: str, signer: str, day: str) -> None:
    """Have the key of a signer count until a day, where `name` is concerned."""
    before, found, after = (world.specs / "environments.yaml").read_text().partition(f"{name}:\n")
    key = f"keys/{signer}.pub"
    changed = after.replace(f"{signer}: {key}", f"{signer}: {{key: {key}, not_after: '{day}'}}", 1)
    assert changed != after
    (world.specs / "environments.yaml").write_text(before + found + changed)


class TestKeysAndPolicies:
    def test_where_another_key_counts_nothing_does(self, world: World) -> None:
        keys = world.specs / "keys"
        (keys / "ci.pub").write_bytes((keys / "mallory.pub").read_bytes())
        refused(world, EVENT + "the signature is by none of the keys that count here")

    def test_a_signer_who_was_removed_is_believed_no_more(self, world: World) -> None:
        world.edit(
            "environments", "  promoters: [ci]\n  gates:\n", "  promoters: [alice]\n  gates:\n"
        )
        refused(world, "event 1 is signed by ci, who may not promote to it")

    def test_an_event_after_its_key_had_expired_is_refused(self, world: World) -> None:
        expires(world, "staging", "ci", "2020-01-01")
        told = "event 1 was signed by ci after their keys had expired"
        refused(world, told)
        not_promoted(world, told)

    def test_an_event_before_its_key_expired_is_believed(self, world: World) -> None:
        expires(world, "staging", "ci", world.state().event.time.date().isoformat())
        assert world.pull().code == 0

    def test_what_an_expired_key_signs_lets_nothing_in(self, world: World) -> None:
        expires(world, "production", "ci", "2020-01-01")
        not_promoted(world, "nobody who counts says how it was built: 'ci' signed at ")

    def test_a_clock_that_was_set_back_makes_no_expired_key_count(self, world: World) -> None:
        """Whoever got hold of an old key signs as if it were still its day."""
        state = world.state()
        then = datetime(2020, 1, 1, tzinfo=timezone.utc)
        world.edit(
            "environments",
            "signers: {ci: keys/ci.pub, alice: keys/alice.pub}\n  promoters: [ci]\n  gates:\n",
            "signers: {ci: keys/ci.pub, old: {key: keys/mallory.pub, not_after: '2020-06-30'}, "
            "alice: keys/alice.pub}\n  promoters: [ci, old]\n  gates:\n",
        )
        world.attacker().add(state, world.key("mallory"), time=then)
        told = "event 2 in the ledger of 'net' in staging is older than the one before it"
        refused(world, told)
        not_promoted(world, told)

    def test_an_engine_that_was_let_in_by_looser_gates_is_refused(self, world: World) -> None:
        """Whoever pulls goes by their own file, not by what the environment says of itself."""
        world.edit(
            "environments", "approval: {by: [alice]}", "approval: {by: [alice, ci], count: 2}"
        )
        told = (
            "fp32@ada of 'staging/net' was let in by less than 'staging' asks for: "
            "'approval': 1 had to approve, and 2 have to"
        )
        assert told in world.pull().err
        assert nothing_pulled(world)
        result = world.verify()
        assert (result.code, f"LACKING     {told}" in result.out) == (3, True)

    def test_an_engine_that_came_from_elsewhere_is_refused(self, world: World) -> None:
        world.edit("environments", "  from: dev\n", "  from: qa\n")
        with (world.specs / "environments.yaml").open("a") as file:
            file.write(
                "qa: {store: ../envs/qa, signers: {ci: keys/ci.pub}, gates: {freshness: {}}}"
            )
        assert "'source': 'from' was 'dev', and is 'qa'" in world.pull().err
        assert nothing_pulled(world)

    def test_without_gates_nothing_is_vouched_for(self, world: World) -> None:
        text = (world.specs / "environments.yaml").read_text()
        head, _, tail = text.partition("    provenance: {signed_by: [ci]}\n")
        _, _, rest = tail.partition("    freshness: {}\n")
        (world.specs / "environments.yaml").write_text(
            head.removesuffix("  gates:\n") + "  gates: {}\n" + rest
        )
        assert "'staging' has no gates" in world.pull().err
        result = world.verify()
        assert (result.code, "LACKING     'staging' has no gates" in result.out) == (3, True)


DEEP = b"[" * 200_000


class TestDocuments:
    """What is larger or deeper than anything that is ever written there."""

    def test_a_huge_index_is_not_read(self, world: World) -> None:
        attacker = world.attacker()
        attacker.point("net", attacker.put(b" " * (5 << 20)).digest)
        refused(world, "it has 5242880 bytes, and no manifest has so many", code=4)

    def test_a_deep_index_is_not_read(self, world: World) -> None:
        attacker = world.attacker()
        attacker.point("net", attacker.put(DEEP).digest)
        refused(world, "what staging has of 'net' cannot be read: not JSON")

    def test_a_huge_event_is_not_read(self, world: World) -> None:
        state, attacker = world.state(), world.attacker()
        line = attacker.put(b" " * (5 << 20))
        attacker.show("net", [line], state.described.values())
        refused(world, "an attestation of 5242880 bytes is not read")

    def test_an_event_is_not_larger_than_it_says(self, world: World) -> None:
        state, attacker = world.state(), world.attacker()
        line = attacker.put(b" " * (5 << 20))
        attacker.show("net", [replace(line, size=100)], state.described.values())
        refused(world, "it has 5242880 bytes, expected 100", code=4)

    def test_a_deep_event_is_not_read(self, world: World) -> None:
        state, attacker = world.state(), world.attacker()
        attacker.show("net", [attacker.put(DEEP)], state.described.values())
        refused(world, EVENT + "the bundle is no JSON that is read one way")

    def test_a_deep_ledger_is_not_read(self, world: World) -> None:
        state, attacker = world.state(), world.attacker()
        listed = attacker.put(DEEP, MANIFEST, artifact_type=LEDGER)
        index = replace(attacker.index(state.index), manifests=(*state.described.values(), listed))
        attacker.point("net", attacker.put(index.to_bytes()).digest)
        refused(world, "the ledger of 'net' in staging cannot be read: not JSON")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("manifests", {"a": 1}),
            ("manifests", None),
            ("manifests", [[]]),
            ("annotations", [1]),
            ("schemaVersion", 1),
            ("mediaType", MANIFEST),
        ],
    )
    def test_an_index_of_another_form_is_not_read(
        self, world: World, field: str, value: object
    ) -> None:
        attacker = world.attacker()
        raw = {**attacker.json(world.state().index), field: value}
        attacker.point("net", attacker.put_json(raw).digest)
        refused(world, "what staging has of 'net' cannot be read: ")


ESCAPE = "\x1b[2J\u202e\u009b2J"


class TestNames:
    """Those that would leave a folder, or tell a terminal what to do."""

    def test_a_layer_is_not_written_where_its_title_says(self, world: World) -> None:
        """Even where a promoter signed for it."""
        state, attacker = world.state(), world.attacker()
        manifest = attacker.manifest(engine_of(state))
        extra = attacker.put(
            b"owned", "application/octet-stream", annotations={TITLE: "../../owned"}
        )
        made = replace(manifest, layers=(*manifest.layers, extra)).to_bytes()
        self.sign(world, manifest=attacker.put(made, MANIFEST))
        refused(world, "the layer '../../owned' of net:fp32@ada is not the file of its entry")
        assert not list(world.root.parent.rglob("owned"))

    @pytest.mark.parametrize("name", ["../../owned", "/owned", "..", "a/b", ESCAPE])
    def test_an_engine_is_not_called_by_what_is_no_name(self, world: World, name: str) -> None:
        self.sign(world, target=name)
        for result in (
            world.pull("staging/net", "--variant", "fp32"),
            world.run("export", "triton", "staging/net", world.root / "models"),
            world.verify(),
        ):
            assert result.code == 3, result
            assert "no name" in result.err
            assert "\x1b" not in result.out + result.err
        assert not list(world.root.parent.rglob("owned"))

    def test_what_people_wrote_does_not_reach_the_terminal_as_it_is(self, world: World) -> None:
        reason = f"{ESCAPE}\n   9  2030-01-01T00:00:00Z  promote  root, signed by ci"
        world.attacker().add(world.state(), world.key("ci"), reason=reason, by=ESCAPE)
        lines = world.run("history", "net", "--in", "staging").out.splitlines()
        assert [each.split()[0] for each in lines] == [
            "net",
            "2",
            "\\x1b[2J\\u202e\\x9b2J\\n",
            "1",
            "fp32@ada",
            "fp32@ampere",
        ]
        told = world.verify().out + world.pull().out + world.run("status", "specs").out
        assert not set(told) & set(ESCAPE[0] + ESCAPE[4:6])

    def test_what_anybody_attached_does_not_reach_the_terminal_as_it_is(self, world: World) -> None:
        attacker, ada = world.attacker(), engine_of(world.state())
        bundle = json.loads(bundle_in(attacker, ada, PROVENANCE))
        attacker.attach(ada, json.dumps({**bundle, "mediaType": ESCAPE}).encode())
        attacker.attach(ada, json.dumps({**bundle, ESCAPE: 1}).encode())
        said = world.pull().err
        assert said.count("does not count: ") == 2
        assert not set(said) & set(ESCAPE[0] + ESCAPE[4:6])

    def test_a_spec_is_not_listed_under_a_name_that_nobody_signed(self, world: World) -> None:
        attacker, state = world.attacker(), world.state()
        raw = attacker.json(state.index)
        for i, name in enumerate((ESCAPE, "../../x", "\ud800", "other", None)):
            said = {"annotations": {"dev.engineforge.spec": name}} if name else {}
            made = attacker.put_json({**raw, "annotations": {}, **said})
            attacker.point(f"x{i}", made.digest)
        assert world.open().specs() == ["net", "other"]

    @staticmethod
    def sign(world: World, *, manifest: Descriptor | None = None, target: str = "ada") -> None:
        """A promoter signs for one engine, of another manifest or under another name."""
        state, attacker = world.state(), world.attacker()
        engine = replace(state.engines[0], target=target)
        called = state.described[engine.manifest]
        names = {**called.annotations, "dev.engineforge.target": target}
        called = replace(called, annotations=names)
        if manifest is not None:
            engine = replace(engine, manifest=manifest.digest)
            called = replace(called, digest=manifest.digest, size=manifest.size)
        line = attacker.put(
            signed(statement_of(next_of(state, engines=(engine,))), world.key("ci"))
        )
        attacker.show("net", [*state.ledger.layers, line], [called])
