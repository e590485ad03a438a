"""Threads that take turns at each change on disk, and each look at it, as a schedule says: every
schedule with few preemptions is tried, or those that are drawn."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from engineforge.store import disk

_PATIENCE_SECONDS = 30
_STEPS = frozenset({"create", "write", "rename", "unlink", "mkdir", "truncate"})
"""Changes that others see. What makes them durable does not matter here."""

_REAL_FLOCK = fcntl.flock


@dataclass(frozen=True, slots=True)
class Turn:
    """Who was given a turn, and who might have been: the one who had the last turn comes first,
    where it could go on (then giving it to another is a preemption)."""

    chosen: int
    options: tuple[int, ...]
    goes_on: bool
    preemptions: int


class _Actor(threading.Thread):
    def __init__(self, schedule: Schedule, number: int, act: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.turn = threading.Semaphore(0)
        self.blocked = self.done = False
        self.error: BaseException | None = None
        self._schedule, self._act, self.number = schedule, act, number

    def run(self) -> None:
        self.turn.acquire()
        try:
            with disk.watched(self._told):
                self._act()
        except BaseException as error:
            self.error = error
        self.done = True
        self._schedule.parked.release()

    def _told(self, change: disk.Change) -> None:
        if change.kind in _STEPS:
            self.pause()

    def pause(self, *, blocked: bool = False) -> None:
        self.blocked = blocked
        self._schedule.parked.release()
        self.turn.acquire()


class Schedule:
    """One run of some actors. `choose` is given the options and the number of the turn."""

    def __init__(self, acts: Sequence[Callable[[], None]], after_each: Callable[[], None]) -> None:
        self.parked = threading.Semaphore(0)
        self._actors = [_Actor(self, number, act) for number, act in enumerate(acts)]
        self._after_each = after_each

    def run(self, choose: Callable[[int, tuple[int, ...]], int]) -> list[Turn]:
        for actor in self._actors:
            actor.start()
        turns: list[Turn] = []
        last, preemptions = -1, 0
        while not all(actor.done for actor in self._actors):
            able = [a.number for a in self._actors if not a.done and not a.blocked]
            assert able, "every actor waits for another"
            goes_on = last in able
            options = tuple(sorted(able, key=lambda number: (number != last, number)))
            chosen = choose(len(turns), options)
            turns.append(Turn(chosen, options, goes_on, preemptions))
            preemptions += goes_on and chosen != last
            last = chosen
            actor = self._actors[chosen]
            actor.turn.release()
            assert self.parked.acquire(timeout=_PATIENCE_SECONDS), "an actor hangs"
            if actor.error is not None:
                raise actor.error
            if not actor.blocked:
                for other in self._actors:
                    other.blocked = False  # what it waited for may be free now
            self._after_each()
        return turns


def step() -> None:
    """A place in an actor where others may come between."""
    if isinstance(actor := threading.current_thread(), _Actor):
        actor.pause()


def flock(handle: int, kind: int) -> None:
    """`fcntl.flock` for actors: to wait for a lock is to let the others go on."""
    actor = threading.current_thread()
    if not isinstance(actor, _Actor) or kind & fcntl.LOCK_NB:
        _REAL_FLOCK(handle, kind)
        return
    actor.pause()
    while True:
        try:
            _REAL_FLOCK(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            actor.pause(blocked=True)
        else:
            return


def every_schedule(
    run: Callable[[Callable[[int, tuple[int, ...]], int]], list[Turn]], preemptions: int
) -> Iterator[int]:
    """Run under every schedule with at most so many preemptions; counts them."""
    prefix: list[int] = []
    count = 0
    while True:

        def choose(turn: int, options: tuple[int, ...], given: list[int] = prefix) -> int:
            return given[turn] if turn < len(given) else options[0]

        turns = run(choose)
        count += 1
        yield count
        for number in reversed(range(len(turns))):
            turn = turns[number]
            others = turn.options[turn.options.index(turn.chosen) + 1 :]
            if others and turn.preemptions + turn.goes_on <= preemptions:
                prefix = [*(each.chosen for each in turns[:number]), others[0]]
                break
        else:
            return
