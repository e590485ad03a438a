"""After a power cut at any moment of what the store does: every state that a disk may be in."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.store.crash.cache import Cache
from tests.store.crash.model import Seen, states
from tests.store.crash.places import quick_folder
from tests.store.crash.recorder import Recorder, count, killed, killed_before
from tests.store.crash.recovery import broken_after, read_tree
from tests.store.crash.scenarios import SCENARIOS, Recording, Scenario

Told = Callable[[str, object], None]


@pytest.fixture
def quick() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


def _tried(
    recording: Recording, after: Path, *, damaged: bool = False, seen: Seen | None = None
) -> int:
    """How many states were tried; none of them breaks a promise."""
    tried = 0
    for state in states(recording.base, recording.log, recording.promised, seen):
        tried += 1
        broken = broken_after(state, after, damaged=damaged)
        assert broken == [], f"after {state.after} of {len(recording.log)} changes"
    return tried


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.name)
def test_a_power_cut_at_any_moment_breaks_no_promise(
    scenario: Scenario, quick: Path, record_property: Told
) -> None:
    tried = _tried(scenario.record(quick / "cache"), quick / "after", damaged=scenario.damaged)
    record_property("states", tried)
    sys.stderr.write(f"{tried} states after a power cut: {scenario.name}\n")
    assert tried > 2


# Who is killed, and what the next one does.
_PAIRS: tuple[tuple[Callable[[Cache], None], Callable[[Cache], None]], ...] = (
    (lambda cache: cache.build("a", "first"), lambda cache: cache.build("a", "second")),
    (lambda cache: cache.collect("b"), lambda cache: cache.build("b", "again")),
    (lambda cache: cache.merge_timings(1), lambda cache: cache.merge_timings(2)),
)


def _two(cache: Cache) -> None:
    cache.build("b")
    cache.merge_timings(0)


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_power_cut_after_a_kill_at_any_moment_breaks_no_promise(
    every: int, quick: Path, record_property: Told
) -> None:
    kills = tried = 0
    for number, (first, second) in enumerate(_PAIRS):
        scenario = Scenario(name="", before=(_two,), act=second)
        aside = quick / f"{number}"
        scenario.prepare(aside)
        for at in range(0, count(partial(first, Cache(aside))), every):
            root = quick / f"{number}-{at}"
            recording = _killed_and_then(scenario, first, at, root)
            kills += 1
            tried += _tried(recording, quick / "after")
    record_property("states", tried)
    sys.stderr.write(f"{tried} states after a power cut, after {kills} kills\n")
    assert tried > kills >= 10


def _killed_and_then(
    scenario: Scenario, first: Callable[[Cache], None], at: int, root: Path
) -> Recording:
    promised = scenario.prepare(root)
    base, recorder = read_tree(root), Recorder(root)
    cache = Cache(root, recorder.promised)
    assert killed(killed_before(at, recorder), partial(first, cache))
    assert not killed(recorder, partial(scenario.act, cache))
    return Recording(base=base, promised=tuple(promised), log=recorder.log)


@pytest.mark.parametrize(
    "histories", [range(20), pytest.param(range(20, 300), marks=pytest.mark.slow)], ids=len
)
def test_a_power_cut_in_any_history_breaks_no_promise(
    histories: range, quick: Path, record_property: Told
) -> None:
    tried, seen = 0, Seen()
    for seed in histories:
        root = quick / f"{seed}"
        Cache(root).store.create()
        base, recorder = read_tree(root), Recorder(root)
        _history(random.Random(seed), Cache(root, recorder.promised), recorder)
        recording = Recording(base=base, promised=(), log=recorder.log)
        tried += _tried(recording, quick / "after", seen=seen)
    record_property("states", tried)
    sys.stderr.write(f"{tried} states after a power cut in {len(histories)} histories\n")


def _history(rng: random.Random, cache: Cache, recorder: Recorder) -> None:
    """Some of what may be done, each killed somewhere or not."""
    for version in range(4):
        name = rng.choice("ab")
        acts: list[Callable[[], None]] = [
            partial(cache.build, name, f"{version}"),
            partial(cache.build, name, f"{version}"),
            partial(cache.collect_if_there, name),
            cache.purge,
            partial(cache.take_back, name),
            partial(cache.merge_timings, version),
            partial(cache.save_index, version),
        ]
        killed(killed_before(rng.randrange(80), recorder), rng.choice(acts))
