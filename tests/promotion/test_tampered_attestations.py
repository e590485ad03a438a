"""What is said of engines, lost, replayed or said by others: it does not count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

from engineforge.promotion.attest.bundle import Bundle
from engineforge.promotion.attest.provenance import PROVENANCE
from engineforge.promotion.attest.results import APPROVAL, Approval
from engineforge.promotion.attest.statement import Statement, of_engine
from tests.promotion.attacker import (
    bundle_in,
    engine_of,
    not_promoted,
    nothing_pulled,
    refused,
    signed,
    without,
)
from tests.promotion.world import NOW, World

GONE = "nobody who counts says how it was built; it was let in with provenance, which is gone"


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
        hint = "attach it again: engineforge promote specs/net.yaml --to staging"
        assert hint in world.pull().err
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
        world.expires("production", "alice", "2020-01-01")
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
