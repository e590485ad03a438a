"""How many earlier states can be rolled back to."""

from __future__ import annotations

from datetime import timedelta

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

from engineforge.promotion.environment import Opened
from engineforge.promotion.retention import expire
from engineforge.promotion.state import State
from tests.promotion.attacker import next_of
from tests.promotion.world import NOW, World


def events(world: World, count: int) -> tuple[Opened, State]:
    """The same engines at so many more numbers, a second each."""
    opened, state = world.open(), world.state()
    for _ in range(count):
        state = opened.advance(state, next_of(state), state.described, world.key("ci"))
    return opened, state


def keep(world: World, retention: str) -> None:
    world.edit("environments", "  from: dev\n", f"  from: dev\n  retention: {retention}\n")


def test_ten_earlier_ones_are_kept_unless_it_is_said(world: World) -> None:
    opened, state = events(world, 11)
    assert expire(opened, state, NOW) == [1]
    assert opened.numbers("net") == list(range(2, 13))


def test_as_many_are_kept_as_is_said(world: World) -> None:
    keep(world, "{keep: 2}")
    opened, state = events(world, 4)
    assert expire(opened, state, NOW) == [1, 2]
    assert opened.numbers("net") == [3, 4, 5]
    assert expire(opened, state, NOW) == []


def test_those_of_the_last_days_are_kept_all_the_same(world: World) -> None:
    keep(world, "{keep: 1, days: 7}")
    opened, state = events(world, 4)
    now = state.event.time
    assert expire(opened, state, now) == []
    assert expire(opened, state, now + timedelta(days=8)) == [1, 2, 3]


def test_those_of_one_spec_are_none_of_another(world: World) -> None:
    keep(world, "{keep: 1}")
    opened, state = events(world, 3)
    expire(opened, state, NOW)
    assert opened.numbers("other") == [1]


def test_the_ledger_keeps_every_event(world: World) -> None:
    keep(world, "{keep: 1}")
    opened, state = events(world, 3)
    assert expire(opened, state, NOW) == [1, 2]
    assert [event.number for event, _ in opened.history(world.state())] == [1, 2, 3, 4]


def test_what_is_kept_no_longer_is_not_rolled_back_to(later: World) -> None:
    keep(later, "{keep: 1}")
    assert later.rollback().code == 0
    opened = later.open()
    expire(opened, later.state(), NOW)
    result = later.rollback("staging", "--number", "1")
    assert result.code == 3
    assert "staging has no number 1 of 'net', or no longer" in result.err


def test_a_tag_that_somebody_else_put_is_not_counted(world: World) -> None:
    keep(world, "{keep: 2}")
    opened, state = events(world, 2)
    for tag in ("net--0", "net--01", "net--002", "net--x"):
        world.attacker().point(tag, state.index)
    assert expire(opened, state, NOW) == []
    assert opened.numbers("net") == [1, 2, 3]


def test_it_goes_with_every_promotion(later: World) -> None:
    keep(later, "{keep: 1}")
    later.edit("environments", "    freshness: {}\n", "")
    assert later.promote("staging").code == 0
    assert later.open().numbers("net") == [2, 3]


def test_an_earlier_event_that_cannot_be_read_spoils_no_promotion(later: World) -> None:
    """What was asked for is done by then."""
    assert later.rollback().code == 0
    keep(later, "{keep: 1, days: 7}")
    attacker = later.attacker()
    attacker.flip(later.state().events[0])
    later.edit("environments", "    freshness: {}\n", "")
    result = later.promote("staging")
    assert result.code == 0, result
    assert "note: no earlier state of 'net' was untagged: " in result.err
    assert later.state().number == 4
