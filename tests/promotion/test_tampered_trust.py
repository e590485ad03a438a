"""Keys, policies, documents and names: what counts is what whoever pulls wrote down, and nothing
reaches further than it should."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timezone

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

from engineforge.promotion.attest.provenance import PROVENANCE
from engineforge.promotion.ledger import statement_of
from engineforge.promotion.oci.documents import (
    MANIFEST,
    TITLE,
    Descriptor,
)
from engineforge.promotion.state import LEDGER
from tests.promotion.attacker import (
    COUNTS_NOT,
    bundle_in,
    engine_of,
    next_of,
    not_promoted,
    nothing_pulled,
    refused,
    signed,
)
from tests.promotion.world import World


class TestKeysAndPolicies:
    def test_where_another_key_counts_nothing_does(self, world: World) -> None:
        keys = world.specs / "keys"
        (keys / "ci.pub").write_bytes((keys / "mallory.pub").read_bytes())
        refused(world, COUNTS_NOT + "the signature is by none of the keys that count here")

    def test_a_signer_who_was_removed_is_believed_no_more(self, world: World) -> None:
        world.edit(
            "environments", "  promoters: [ci]\n  gates:\n", "  promoters: [alice]\n  gates:\n"
        )
        refused(world, "event 1 is signed by ci, who may not promote to it")

    def test_an_event_after_its_key_had_expired_is_refused(self, world: World) -> None:
        world.expires("staging", "ci", "2020-01-01")
        told = "event 1 was signed by ci after their keys had expired"
        refused(world, told)
        not_promoted(world, told)

    def test_an_event_before_its_key_expired_is_believed(self, world: World) -> None:
        world.expires("staging", "ci", world.state().event.time.date().isoformat())
        assert world.pull().code == 0

    def test_what_an_expired_key_signs_lets_nothing_in(self, world: World) -> None:
        world.expires("production", "ci", "2020-01-01")
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
        refused(world, COUNTS_NOT + "the bundle is no JSON that is read one way")

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
        refused(world, "the layer '../../owned' of net/fp32@ada is not the file of its entry")
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
