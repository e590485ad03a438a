"""Judging, promoting and rolling back: what is refused, what is written, and what is left of what
was interrupted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

from engineforge.errors import PromotionRefused
from engineforge.promotion.attest.results import SUMMARY
from engineforge.promotion.environment import Opened
from engineforge.promotion.promoting import Promoted, judge, promote
from engineforge.promotion.rolling_back import rollback
from engineforge.spec.environments import FreshnessGate
from tests.promotion.attacker import engine_of, nothing_pulled
from tests.promotion.world import World

AGE = ("    freshness: {}\n", "    freshness: {}\n    age: {least: 1d}\n")
LOAD_TEST = ("gates: {provenance: {signed_by: [ci]},", "gates: {load_test: {},")
"""Edits of environments.yaml: what is asked for besides, and instead."""
QA = "qa: {store: ../envs/qa, signers: {ci: keys/ci.pub}, gates: {freshness: {}}}\n"


def tried(world: World, destination: Opened, key: str = "ci") -> Promoted:
    return promote(destination, world.judge(destination), world.who(key), origin=None)


class TestPromoting:
    def test_an_engine_keeps_its_digest_from_dev_to_production(self, world: World) -> None:
        assert world.promote("production").code == 0
        dev, production = world.state("dev"), world.state("production")
        assert [each.manifest for each in dev.engines] == [
            each.manifest for each in production.engines
        ]
        assert world.fetch("production/net").engine == dev.engines[0].engine

    def test_what_was_attached_goes_along(self, world: World) -> None:
        assert world.promote("production").code == 0
        listed = world.state("production").engines[0]
        kinds = {
            each.statement.predicate_type.rpartition("/")[0].rpartition("/")[2]
            for each in world.open("production").attestations(listed)
        }
        assert kinds == {"provenance", "approval", "verification_summary"}

    def test_it_is_told_where_engines_came_from(self, later: World) -> None:
        assert later.promote("production").code == 0
        source = later.state("production").event.source
        assert source is not None
        assert (source.environment, source.number) == ("staging", 2)

    def test_there_is_nothing_to_do_twice(self, world: World) -> None:
        result = world.promote("staging")
        assert (result.code, result.out.splitlines()[0]) == (
            0,
            "net: nothing to do, staging has number 1",
        )
        assert world.state().number == 1

    def test_a_dry_run_only_asks(self, world: World) -> None:
        result = world.run("promote", "specs/net.yaml", "--to", "production", "--dry-run")
        assert result.code == 0
        assert "net: would be let into production" in result.out
        assert world.open("production").state("net") is None

    def test_what_a_gate_refuses_changes_nothing(self, world: World) -> None:
        world.edit(
            "environments", "gates: {provenance: {signed_by: [ci]},", "gates: {load_test: {},"
        )
        result = world.promote("production")
        assert result.code == 3
        assert "nobody who counts says that it loads and runs" in result.err
        assert not list((world.root / "envs").glob("production/*"))

    def test_what_the_source_does_not_have_is_refused(self, world: World) -> None:
        world.edit("environments", "../envs/dev", "../envs/empty")
        result = world.promote("staging")
        assert (result.code, "dev has nothing of 'net'" in result.err) == (3, True)

    def test_what_is_stale_is_refused(self, later: World) -> None:
        """The specs ask for the newer engine; that of before is not for production."""
        assert later.rollback().code == 0
        result = later.promote("production")
        assert result.code == 3
        assert "REFUSED    freshness  the specs ask for another engine" in result.err

    @pytest.mark.parametrize(
        ("key", "told"),
        [
            ("mallory", "the key is of none of its signers, and may not promote to production"),
            ("alice", "the key is that of 'alice', who may not promote to production"),
        ],
    )
    def test_a_key_that_may_not_promote_is_refused(self, world: World, key: str, told: str) -> None:
        with pytest.raises(PromotionRefused, match=told):
            tried(world, world.open("production"), key)
        assert world.open("production").state("net") is None

    def test_an_expired_key_is_refused(self, world: World) -> None:
        old = "gates: {provenance: {signed_by: [ci]}, freshness: {}}"
        world.edit("environments", old, "gates: {freshness: {}}")
        text = (world.specs / "environments.yaml").read_text()
        head, found, tail = text.partition("production:")
        tail = tail.replace("ci: keys/ci.pub", "ci: {key: keys/ci.pub, not_after: '2020-01-01'}")
        (world.specs / "environments.yaml").write_text(head + found + tail)
        with pytest.raises(PromotionRefused, match="'ci' counts until 2020-01-01 only"):
            tried(world, world.open("production"))


class TestOverriding:
    @pytest.fixture
    def world(self, world: World) -> World:
        world.edit(
            "environments", "gates: {provenance: {signed_by: [ci]},", "gates: {load_test: {},"
        )
        return world

    def test_it_needs_a_reason(self, world: World) -> None:
        result = world.promote("production", "--override", "load_test")
        assert (result.code, "--override needs a reason" in result.err) == (2, True)

    def test_a_gate_that_is_none_cannot_be_overridden(self, world: World) -> None:
        result = world.promote("production", "--override", "laod_test", "--reason", "x")
        assert result.code == 2
        assert "'production' has no gate 'laod_test' to override" in result.err

    def test_it_stays_visible(self, world: World) -> None:
        result = world.promote("production", "--override", "load_test", "--reason", "no GPU here")
        assert (result.code, "OVERRIDDEN load_test" in result.out) == (0, True)
        history = world.run("history", "net", "--in", "production").out
        assert "no GPU here" in history
        assert "OVERRIDDEN: load_test" in history
        assert (
            "overridden: net/fp32@ada in production: load_test" in world.run("status", "specs").out
        )
        assert "OVERRIDDEN  load_test: nobody who counts" in world.verify("production/net").out
        assert "was let in all the same: 'load_test'" in world.pull("production/net").err

    def test_the_verification_summary_does_not_say_that_it_passed(self, world: World) -> None:
        world.promote("production", "--override", "load_test", "--reason", "no GPU here")
        opened, state = world.open("production"), world.state("production")
        said = [
            each.statement.predicate
            for each in opened.attestations(state.engines[0])
            if each.statement.predicate_type == SUMMARY
        ]
        (of_production,) = [each for each in said if "production" in each["policy"]["uri"]]
        assert of_production["verificationResult"] == "FAILED"

    def test_it_can_be_refused_by_who_pulls(self, world: World) -> None:
        world.promote("production", "--override", "load_test", "--reason", "no GPU here")
        result = world.pull("production/net", "--no-overridden")
        assert (result.code, "was let in all the same" in result.err) == (3, True)
        assert nothing_pulled(world)

    def test_it_is_not_gone_with_the_next_promotion(self, world: World) -> None:
        world.promote("production", "--override", "load_test", "--reason", "no GPU here")
        assert world.promote("production").code == 3
        assert world.state("production").number == 1
        assert world.state("production").engines[0].overridden == ["load_test"]


def test_what_is_rolled_back_meanwhile_where_it_comes_from_is_not_promoted(world: World) -> None:
    found = world.offers("staging")
    gone = tuple(replace(each, still=lambda: False) for each in found.offered)
    opened, before = world.open("staging"), world.state("staging").number
    environment = replace(opened.environment, gates={"freshness": FreshnessGate()})
    destination = Opened(environment, opened.repository, opened.keys)
    judged = judge(destination, "net", gone, keeps=found.keeps, overridden=(), now=world.who().now)
    with pytest.raises(PromotionRefused, match="was changed meanwhile where it comes from"):
        promote(destination, judged, world.who(), origin=None)
    assert world.state("staging").number == before


class TestAgain:
    def test_other_gates_are_one_more_event_for_the_same_engines(self, world: World) -> None:
        before = world.state()
        world.edit("environments", "approval: {by: [alice]}", "approval: {by: [alice, ci]}")
        result = world.promote("staging")
        assert (result.code, "net: staging has number 2" in result.out) == (0, True)
        after = world.state()
        assert [each.manifest for each in after.engines] == [
            each.manifest for each in before.engines
        ]
        assert after.engines[0].since == before.engines[0].since
        assert after.engines[0].policy["approval"] == {"by": ["alice", "ci"], "count": 1}
        assert world.pull().code == 0

    def test_a_variant_that_the_spec_names_no_more_is_dropped(self, world: World) -> None:
        world.edit("net", "targets: [ada, ampere]", "targets: [ada]")
        assert world.promote("dev").code == 0
        result = world.promote("staging")
        assert result.code == 0
        assert "fp32@ampere: dropped, the spec does not name it" in result.out
        assert [each.name for each in world.state().engines] == ["fp32@ada"]
        assert "fp32@ampere  dropped" in world.run("history", "net", "--in", "staging").out

    def test_what_is_not_selected_stays(self, later: World) -> None:
        """Only one of two engines is new."""
        assert later.rollback("dev").code == 0
        before = later.state()
        old = "    approval: {by: [alice]}\n    freshness: {}\n"
        later.edit("environments", old, "    approval: {by: [alice]}\n")
        assert later.promote("staging", "--target", "ada").code == 0
        after = later.state()
        assert engine_of(after, "ampere") == engine_of(before, "ampere")
        assert engine_of(after, "ada") != engine_of(before, "ada")


class TestAtOnce:
    def test_of_two_threads_one_promotes_and_the_other_says_so(self, world: World) -> None:
        both = Barrier(2)
        destinations = [world.open("production") for _ in range(2)]
        judged = [world.judge(each) for each in destinations]

        def one(at: int) -> str:
            both.wait(10)
            try:
                promote(destinations[at], judged[at], world.who(reason=str(at)), origin=None)
            except PromotionRefused as error:
                return str(error)
            return "promoted"

        with ThreadPoolExecutor(2) as pool:
            found = sorted(pool.map(one, range(2)))
        assert found[1] == "promoted"
        assert "'net' in production was changed by another promotion meanwhile" in found[0]
        assert world.state("production").number == 1
        assert world.pull("production/net").code == 0

    def test_of_two_processes_nobody_loses_an_event(self, world: World) -> None:
        words = ("promote", "specs/net.yaml", "--to", "production", "--key", "specs/keys/ci.key")
        ran = [world.process(*words, "--reason", str(at)) for at in range(2)]
        said = [each.communicate(timeout=60) for each in ran]
        codes = sorted(each.returncode for each in ran)
        told = "".join(out + err for out, err in said)
        assert codes in ([0, 0], [0, 3]), told
        # Who came later found it there, or was told.
        assert ("nothing to do" in told) == (codes == [0, 0])
        assert ("was changed by another promotion meanwhile" in told) == (codes == [0, 3])
        assert world.state("production").number == 1

    def test_promoting_and_rolling_back_at_once_is_seen(self, later: World) -> None:
        later.edit("environments", "    freshness: {}\n", "")
        destination = later.open()
        judged = later.judge(destination)
        assert later.rollback().code == 0
        with pytest.raises(PromotionRefused, match="was changed by another promotion meanwhile"):
            promote(destination, judged, later.who(), origin=None)
        assert later.state().event.action == "rollback"


class Killed(BaseException):
    """As a process is: nothing catches it."""


class TestKilled:
    def test_wherever_it_is_killed_it_goes_on(self, world: World) -> None:
        """At every change, in its order: what is there is either nothing or all of it."""

        def killing(at: int) -> Callable[[str, str], None]:
            seen = 0

            def before(call: str, _: str) -> None:
                nonlocal seen
                if call != "resolve":
                    seen += 1
                    if seen > at:
                        raise Killed

            return before

        offers, killed = world.offers(), 0
        while True:
            destination = world.watched(killing(killed), "production")
            try:
                judged = world.judge(destination, offers)
                promote(destination, judged, world.who(), origin=offers.origin)
                break
            except Killed:
                killed += 1
            state = world.open("production").state("net")
            assert state is None or len(state.engines) == 2
        assert killed > 5
        state = world.state("production")
        assert state.number == 1
        assert world.open("production").numbers("net") == [1]
        assert world.verify("production/net").code == 0

    def test_a_process_that_was_killed_is_followed_by_one_that_goes_on(self, world: World) -> None:
        words = ("promote", "specs/net.yaml", "--to", "production")
        process = world.process(*words, "--key", "specs/keys/ci.key")
        folder = world.root / "envs" / "production" / "blobs"
        while process.poll() is None and not _any(folder):
            pass
        process.kill()
        process.communicate()
        assert world.promote("production").code == 0
        assert world.state("production").number == 1
        assert world.verify("production/net").code == 0


def _any(folder: Path) -> bool:
    return folder.exists() and any(each.is_file() for each in folder.rglob("*"))


class TestRollback:
    def test_it_has_what_was_there_before(self, later: World) -> None:
        first = later.open().past("net", 1)
        result = later.rollback()
        assert result.code == 0
        assert "net: staging has number 3, those of number 1" in result.out
        state = later.state()
        assert (state.number, state.event.action) == (3, "rollback")
        assert [each.manifest for each in state.engines] == [
            each.manifest for each in first.engines
        ]
        assert later.fetch().engine == first.engines[0].engine

    def test_twice_is_back_again(self, later: World) -> None:
        second = later.state()
        assert later.rollback().code == later.rollback().code == 0
        assert later.state().number == 4
        assert engine_of(later.state()) == engine_of(second)

    def test_a_number_can_be_asked_for(self, later: World) -> None:
        assert later.rollback().code == 0
        assert later.rollback("staging", "--number", "2").code == 0
        assert later.state().number == 4
        assert "nothing to do" in later.rollback("staging", "--number", "2").out

    @pytest.mark.parametrize("number", ["0", "-1", "2", "99"])
    def test_a_number_that_is_not_before_it_is_refused(self, later: World, number: str) -> None:
        result = later.rollback("staging", "--number", number)
        assert result.code == 2
        assert "staging has number 2 of 'net', and nothing before it is number" in result.err

    def test_there_may_be_nothing_before(self, world: World) -> None:
        result = world.rollback()
        assert (result.code, "nothing before it is" in result.err) == (2, True)
        result = world.rollback("production")
        assert (result.code, "production has nothing of 'net'" in result.err) == (3, True)

    def test_an_engine_that_is_gone_by_now_is_told(self, later: World) -> None:
        engine = later.open().past("net", 1).engines[0].engine
        later.attacker().lose(engine)
        result = later.rollback()
        assert (result.code, f"{engine} of fp32@ada is not in " in result.err) == (4, True)
        assert later.state().number == 2

    def test_what_was_let_in_by_less_is_refused(self, later: World) -> None:
        later.edit(
            "environments",
            "approval: {by: [alice]}",
            "approval: {by: [alice], count: 1}, age: {least: 1d}".replace("}, age", "}\n    age"),
        )
        result = later.rollback()
        assert result.code == 3
        assert "fp32@ada was let in by less than staging asks for today: 'age' was not asked" in (
            result.err
        )
        assert "--override age --reason TEXT takes it all the same" in result.err
        assert later.state().number == 2

    def test_what_was_let_in_by_less_is_taken_by_overriding(self, later: World) -> None:
        later.edit(
            "environments", "    freshness: {}\n", "    freshness: {}\n    age: {least: 1d}\n"
        )
        result = later.rollback("staging", "--override", "age", "--reason", "it is on fire")
        assert result.code == 0, result
        assert "OVERRIDDEN: age" in result.out
        assert later.state().engines[0].gates["age"].why == "rolled back: 'age' was not asked for"
        assert "was let in all the same: 'age'" in later.pull().err

    def test_what_came_from_elsewhere_is_told_as_that(self, later: World) -> None:
        later.edit("environments", "  from: dev\n", "  from: qa\n")
        with (later.specs / "environments.yaml").open("a") as file:
            file.write(
                "qa: {store: ../envs/qa, signers: {ci: keys/ci.pub}, gates: {freshness: {}}}"
            )
        result = later.rollback()
        assert result.code == 3
        assert "--override source --reason TEXT takes it all the same" in result.err
        assert "'provenance'" not in result.err
        assert later.rollback("staging", "--override", "source", "--reason", "x").code == 0
        assert later.state().engines[0].overridden == ["source"]

    def test_a_gate_that_is_none_cannot_be_overridden(self, later: World) -> None:
        result = later.rollback("staging", "--override", "age", "--reason", "x")
        assert (result.code, "'staging' has no gate 'age' to override" in result.err) == (2, True)

    def test_where_there_are_no_gates_nothing_gets_in(self, later: World) -> None:
        old = "    provenance: {signed_by: [ci]}\n    approval: {by: [alice]}\n    freshness: {}\n"
        later.edit("environments", f"  gates:\n{old}", "  gates: {}\n")
        result = later.rollback()
        assert (result.code, "'staging' has no gates: nothing gets in" in result.err) == (3, True)

    def test_a_key_that_may_not_promote_does_not_roll_back(self, later: World) -> None:
        with pytest.raises(PromotionRefused, match="'alice', who may not promote to staging"):
            rollback(later.open(), "net", None, later.who("alice"), overridden=())
        assert later.state().number == 2

    def test_since_then_it_is_new_again(self, later: World) -> None:
        """How long an engine has been there without a break is what an age is."""
        rollback(later.open(), "net", None, later.who(), overridden=())
        assert {each.since for each in later.state().engines} == {later.who().now}
