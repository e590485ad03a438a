"""Which served engines are news, over several nights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engineforge.nightly.night import Serving
from engineforge.nightly.reporting import carried, newly_stale
from tests.nightly.nights import serving


def _nights(*served: Sequence[Serving]) -> list[list[str]]:
    """What each of several nights says is newly stale, by spec."""
    before: Sequence[Mapping[str, Any]] | None = None
    told = []
    for now in served:
        told.append([each.spec for each in newly_stale(now, before)])
        before = carried(now, before)
    return told


FRESH, STALE, UNKNOWN = (serving(fresh=each) for each in (True, False, None))


def test_what_becomes_stale_is_told_once() -> None:
    assert _nights([FRESH], [STALE], [STALE], [STALE]) == [[], ["net"], [], []]


def test_what_is_stale_at_the_first_night_is_told() -> None:
    assert _nights([STALE], [STALE]) == [["net"], []]


def test_what_was_fresh_meanwhile_is_told_again() -> None:
    assert _nights([STALE], [FRESH], [STALE]) == [["net"], [], ["net"]]


def test_an_environment_that_cannot_be_asked_makes_no_news() -> None:
    assert _nights([STALE], [], [STALE]) == [["net"], [], []]


def test_what_cannot_be_told_for_a_night_makes_no_news() -> None:
    assert _nights([STALE], [UNKNOWN], [STALE]) == [["net"], [], []]


def test_another_engine_that_is_stale_is_news() -> None:
    assert _nights([STALE], [serving(fresh=False, engine="2")]) == [["net"], ["net"]]


def test_what_is_replaced_is_forgotten() -> None:
    now = [serving(engine="2")]
    assert carried(now, carried([STALE], None)) == [now[0].as_json()]


def test_a_stale_engine_of_one_environment_is_news_of_another() -> None:
    both = [STALE, serving(fresh=False, environment="production")]
    assert _nights([STALE], both) == [["net"], ["net"]]
