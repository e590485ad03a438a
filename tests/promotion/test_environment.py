"""What an environment is believed to have, and what happens to it by accident."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

from engineforge.digest import Digest
from engineforge.errors import PromotionRefused, Untrusted
from engineforge.promotion.environment import Opened, tag_of
from engineforge.promotion.oci.repository import Gone
from tests.promotion.attacker import engine_of, next_of
from tests.promotion.world import Watched, World


@pytest.mark.parametrize("spec", ["net", "ocr-detector", "v1.2", "_a", "a" * 100])
def test_the_tag_of_a_spec_is_its_name(spec: str) -> None:
    assert tag_of(spec) == spec


@pytest.mark.parametrize(
    "spec",
    [
        "a/b",
        "",
        ".a",
        "-a",
        "ä",
        "\udcff",
        "a" * 101,
        "net--1",
        "net.claim",
        f"sha256-{'0' * 64}",
        "a b",
    ],
)
def test_a_name_that_is_no_tag_or_means_something_else_has_another(spec: str) -> None:
    tag = tag_of(spec)
    assert tag != spec
    assert tag_of(tag) == tag
    assert len(tag) < 128


def test_two_names_have_two_tags() -> None:
    names = ["a/b", "a-b", "a_b", "a--1", "a b", "ab"]
    assert len({tag_of(each) for each in names}) == len(names)


def test_what_was_promoted_is_there(world: World) -> None:
    state = world.state()
    assert (state.number, set(state.signed_by), len(state.events)) == (1, {"ci"}, 1)
    assert [each.name for each in state.engines] == ["fp32@ada", "fp32@ampere"]
    assert state.event.action == "promote"
    assert {gate for each in state.engines for gate, said in each.gates.items() if said.passed} == {
        "source",
        "provenance",
        "approval",
        "freshness",
    }


def test_what_was_never_promoted_is_not_there(world: World) -> None:
    assert world.open().state("nothing") is None
    assert world.open("production").state("net") is None


def test_all_specs_are_told(world: World) -> None:
    assert world.open().specs() == ["net", "other"]
    assert world.open("production").specs() == []


def test_tags_of_others_are_no_specs(world: World) -> None:
    attacker, state = world.attacker(), world.state()
    attacker.point("theirs", engine_of(state))
    attacker.point("garbage", attacker.put(b"garbage").digest)
    assert world.open().specs() == ["net", "other"]


def test_every_event_is_told_with_who_signed_it(later: World) -> None:
    opened, state = later.open(), later.state()
    events = opened.history(state)
    assert [(event.number, set(by)) for event, by in events] == [(1, {"ci"}), (2, {"ci"})]
    assert opened.event(state, 1) == events[0][0]


def test_an_event_that_is_lost_is_told_and_stops_no_pull(later: World) -> None:
    """Of a longer ledger: the last two are read whenever it is."""
    assert later.rollback().code == 0
    state, attacker = later.state(), later.attacker()
    attacker.lose(state.events[0])
    assert later.pull().code == 0
    with pytest.raises(Gone, match="where something names it"):
        later.open().history(state)
    result = later.promote("staging")
    assert (result.code, "is not in" in result.err) == (4, True)
    assert later.state().number == 3


def test_an_earlier_event_that_somebody_else_signed_is_told_by_history(later: World) -> None:
    """Whoever has a promoter's key cannot hide behind it what was there before."""
    state, attacker = later.state(), later.attacker()
    from engineforge.promotion.ledger import statement_of
    from tests.promotion.attacker import signed

    first = replace(state.event, number=1, previous=None)
    line = attacker.put(signed(statement_of(first), later.key("mallory")))
    second = replace(state.event, previous=line.digest)
    last = attacker.put(signed(statement_of(second), later.key("ci")))
    attacker.show("net", [line, last], state.described.values())
    result = later.run("history", "net", "--in", "staging")
    assert result.code == 3
    assert "counts for nothing: the signature is by none of the keys" in result.err


class TestNumbers:
    def test_a_promotion_that_was_killed_before_its_number_is_believed(self, world: World) -> None:
        world.attacker().point("net--1", None)
        assert world.state().number == 1
        assert world.pull().code == 0

    def test_promoting_again_gives_it_its_number(self, world: World) -> None:
        world.attacker().point("net--1", None)
        assert "nothing to do" in world.promote("staging").out
        assert world.attacker().tags()["net--1"] == world.state().index

    def test_the_next_promotion_gives_it_its_number(self, world: World) -> None:
        """Or a pointer that is set back by one would not be seen."""
        first = world.state()
        world.attacker().point("net--1", None)
        world.edit("environments", "    freshness: {}\n", "")
        assert world.promote("staging").code == 0
        assert world.state().number == 2
        assert world.attacker().tags()["net--1"] == first.index

    def test_a_copy_of_the_pointer_alone_is_believed(self, later: World) -> None:
        """As other tools make one: `skopeo copy --all`."""
        attacker = later.attacker()
        for tag in ("net--1", "net--2"):
            attacker.point(tag, None)
        assert later.state().number == 2
        assert later.pull().code == 0

    def test_tags_that_only_look_like_numbers_are_none(self, world: World) -> None:
        index = world.state().index
        for tag in ("net--0", "net--007", f"net--{'9' * 5000}", "net--x", "other--2", "net-1--1"):
            world.attacker().point(tag, index)
        assert world.open().numbers("net") == [1]
        assert world.pull().code == 0


class TestMeanwhile:
    """The pointer moves while it is read."""

    def test_what_is_there_by_then_is_told(self, later: World) -> None:
        tags = later.attacker().tags()
        attacker = later.attacker()
        attacker.point("net", tags["net--1"])
        attacker.point("net--2", None)

        def before(call: str, tag: str) -> None:
            if (call, tag) == ("resolve", "net--2"):  # as it is asked whether there is a later one
                attacker.point("net", tags["net--2"])
                attacker.point("net--2", tags["net--2"])

        state = later.watched(before).state("net")
        assert state is not None
        assert state.number == 2

    def test_a_first_promotion_is_no_pointer_that_is_gone(self, world: World) -> None:
        index, attacker = world.state().index, world.attacker()
        attacker.point("net", None)
        asked = []

        def before(call: str, tag: str) -> None:
            asked.append(tag)
            if len(asked) == 2:
                attacker.point("net", index)

        state = world.watched(before).state("net")
        assert state is not None
        assert asked[:2] == ["net", "net"]

    def test_it_does_not_go_on_for_ever(self, later: World) -> None:
        attacker, tags = later.attacker(), later.attacker().tags()
        asked = 0

        def before(call: str, tag: str) -> None:
            nonlocal asked
            if tag == "net":
                asked += 1
                attacker.point("net", tags[f"net--{asked // 2 % 2 + 1}"])

        attacker.point("net--3", tags["net--2"])
        with pytest.raises((PromotionRefused, Untrusted)):
            later.watched(before).state("net")
        assert asked < 20


class TestAdvance:
    def test_of_two_events_at_once_one_is_refused(self, world: World) -> None:
        first, second = world.open(), world.open()
        state = world.state()
        key, event = world.key("ci"), next_of(state)
        first.advance(state, event, state.described, key)
        with pytest.raises(PromotionRefused, match="was changed by another promotion meanwhile"):
            second.advance(state, replace(event, reason="other"), state.described, key)
        assert world.state().event.reason == ""
        assert world.state().number == 2

    def test_what_would_not_be_believed_does_not_move_the_pointer(self, world: World) -> None:
        opened, state = world.open(), world.state()
        with pytest.raises(Untrusted, match="signed by alice, who may not promote"):
            opened.advance(state, next_of(state), state.described, world.key("alice"))
        assert world.state().index == state.index

    def test_the_pointer_moves_after_everything_else(self, world: World) -> None:
        calls: list[str] = []
        state = world.state()
        opened = world.watched(lambda call, tag: calls.append(call))
        opened.advance(state, next_of(state), state.described, world.key("ci"))
        changes = [each for each in calls if each != "resolve"]
        assert changes == ["push", "put_manifest", "put_manifest", "move", "tag"]


class TestAttestations:
    def test_those_of_keys_that_count_are_told(self, world: World) -> None:
        opened, state = world.open(), world.state()
        found = opened.attestations(state.engines[0])
        signers = sorted(name for each in found for name in each.signed_by)
        assert signers == ["alice", "ci", "ci", "ci"]

    def test_other_keys_may_be_asked_for(self, world: World) -> None:
        opened, state = world.open(), world.state()
        found = opened.attestations(state.engines[0], {"alice": opened.keys["alice"]})
        assert [set(each.signed_by) for each in found] == [{"alice"}]

    def test_what_does_not_count_is_told(self, world: World) -> None:
        said: list[str] = []
        opened = world.open(said=said.append)
        listed = world.state().engines[0]
        world.attacker().attach(listed.manifest, b"{}")
        assert len(opened.attestations(listed)) == 4
        (note,) = said
        assert "does not count: the bundle: 'mediaType' is missing" in note

    def test_what_others_attach_is_passed_over(self, world: World) -> None:
        attacker, listed = world.attacker(), world.state().engines[0]
        added = attacker.attach(listed.manifest, b"an SBOM")
        others = [each for each in attacker.referrers(listed.manifest) if each != added]
        foreign = replace(added, artifact_type="application/spdx+json")
        attacker.refer(listed.manifest, [*others, foreign])
        said: list[str] = []
        assert len(world.open(said=said.append).attestations(listed)) == 4
        assert not said


def test_a_folder_that_was_copied_is_the_same_environment(world: World) -> None:
    shutil.move(world.root / "envs" / "staging", world.root / "envs" / "elsewhere")
    world.edit("environments", "../envs/staging", "../envs/elsewhere")
    assert world.pull().code == 0


def test_another_repository_gives_nothing(world: World) -> None:
    opened = world.open()
    empty = Opened(
        opened.environment, Watched(world.root / "envs" / "none", lambda *_: None), opened.keys
    )
    assert empty.state("net") is None
    assert empty.specs() == []
    with pytest.raises(PromotionRefused, match="staging has no number 1 of 'net', or no longer"):
        empty.past("net", 1)


def test_an_engine_is_described_by_its_own_manifest(world: World) -> None:
    opened, state = world.open(), world.state()
    listed = state.engines[0]
    assert opened.describe("net", listed) == state.described[listed.manifest]
    with pytest.raises(Untrusted, match="what the ledger of 'other' in staging calls fp32@ada is"):
        opened.describe("other", listed)
    with pytest.raises(Untrusted, match="is not of the engine that the ledger names"):
        opened.engine(replace(listed, engine=Digest("sha256:" + "0" * 64)))
