"""Ledgers that somebody forged, replayed or set back: refused, and told as what they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

from engineforge.digest import digest_bytes
from engineforge.promotion.attest.bundle import Bundle
from engineforge.promotion.ledger import Listed, Verdict, statement_of
from tests.promotion.attacker import (
    COUNTS_NOT,
    engine_of,
    next_of,
    not_promoted,
    nothing_pulled,
    refused,
    signed,
)
from tests.promotion.world import World


def with_verdict(engines: Iterable[Listed], *, overridden: bool) -> tuple[Listed, ...]:
    """The same, not approved."""
    verdict = Verdict(passed=False, overridden=overridden, why="why")
    return tuple(replace(e, gates={**e.gates, "approval": verdict}) for e in engines)


class TestLedgers:
    def test_an_event_that_somebody_else_signed_is_refused(self, world: World) -> None:
        world.attacker().add(world.state(), world.key("mallory"))
        told = COUNTS_NOT + "the signature is by none of the keys that count here: 'alice', 'ci'"
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
        refused(world, COUNTS_NOT + "the signature is by none of the keys")

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
        told = COUNTS_NOT + "the signature is by none of the keys"
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

    def test_an_event_of_another_number_is_refused(self, world: World) -> None:
        """Even where a promoter signed it: a later one would look as if it were an older one."""
        world.attacker().add(world.state(), world.key("ci"), number=5)
        refused(world, "has 2 events, and its last one is number 5, or follows another one")

    def test_one_engine_under_a_name_twice_is_refused(self, world: World) -> None:
        """Even where a promoter signed it: which of the two is meant, nobody could tell."""
        state = world.state()
        first = state.engines[0]
        second = replace(state.engines[1], variant=first.variant, target=first.target)
        world.attacker().add(state, world.key("ci"), engines=(first, second))
        refused(world, COUNTS_NOT + "an event of a ledger names two engines fp32@ada")

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
        told = "what the ledger of staging calls fp32@ada is net/fp32@ampere"
        refused(world, told)
        not_promoted(world, told)

    def test_the_engine_of_another_spec_in_a_signed_ledger_is_refused(self, world: World) -> None:
        attacker, other = world.attacker(), world.state(spec="other")
        event = next_of(other, spec="net", number=1, previous=None)
        line = attacker.put(signed(statement_of(event), world.key("ci")))
        attacker.show("net", [line], other.described.values())
        for result in (world.pull(), world.verify(), world.promote("production")):
            assert result.code == 3
            assert "calls fp32@ada is other/fp32@ada" in result.err
        assert nothing_pulled(world)


SET_BACK = "the tag 'net' of staging stands for number 1 of 'net', and there is a later one"


class TestSetBack:
    def test_a_pointer_that_was_set_back_is_refused(self, later: World) -> None:
        attacker = later.attacker()
        attacker.point("net", attacker.tags()["net--1"])
        refused(later, SET_BACK)
        not_promoted(later, SET_BACK)
        assert "have 'net' stand for what 'net--2' stands for once more" in later.pull().err

    def test_another_state_of_the_same_number_is_refused(self, later: World) -> None:
        """An event that was signed, and lost the race to be number 2."""
        state, attacker = later.state(), later.attacker()
        line = attacker.put(
            signed(statement_of(replace(state.event, reason="lost")), later.key("ci"))
        )
        layers = [state.ledger.layers[0], line]
        attacker.show("net", layers, state.described.values())
        attacker.point("net--2", state.index)
        refused(later, "stands for number 2 of 'net', and there is another one of that number")

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
