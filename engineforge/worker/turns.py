"""Whose turn it is: the longest job first, and no two that would wait for the same stage."""

from __future__ import annotations

import contextlib
import math
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from engineforge.digest import Digest, digest_value
from engineforge.store.index import Index
from engineforge.worker.job import Job

J = TypeVar("J")

Weight = tuple[float, float]
"""Seconds that a job is expected to take, then nodes of its graph: compared in this order."""


def expected(index: Index, job: Job) -> Weight:
    """What a job took before: converting its model, then building. One that was never built may be
    the longest of all, and comes before those that are known."""
    engine = usual(index, job.label)
    typed = usual(index, typing_of(job.label)) if job.key.typed is not None else None
    seconds = math.inf if engine is None else engine + (typed or 0)
    return seconds, job.interface.nodes


def usual(index: Index, name: str) -> float | None:
    """How many seconds a build took, by the median of the last ones; None where there was none."""
    found = index.history(name)
    return statistics.median(found.seconds) if found is not None and found.seconds else None


def typing_of(label: str) -> str:
    """By what name the index knows how long converting a variant's model took."""
    return f"typed {label}"


def shared_of(job: Job) -> Digest:
    """The stages before the engine's, which jobs that have the same wait for."""
    typed = None if job.key.typed is None else digest_value(job.key.typed)
    return digest_value([digest_value(job.key.onnx), typed])


@dataclass(slots=True, eq=False)
class _Turn(Generic[J]):
    number: int
    job: J
    shared: Digest | None


class Turns(Generic[J]):
    """The jobs of a run, for all its threads: each takes the next one when it has time. `weight`
    and `shared` say of a job what `expected` and `shared_of` do; by themselves, jobs come in their
    order."""

    def __init__(
        self,
        jobs: Sequence[J],
        *,
        weight: Callable[[J], Weight] | None = None,
        shared: Callable[[J], Digest] | None = None,
    ) -> None:
        left = [
            _Turn(number, job, shared(job) if shared is not None else None)
            for number, job in enumerate(jobs)
        ]
        if weight is not None:
            left.sort(key=lambda turn: weight(turn.job), reverse=True)  # stable: ties keep theirs
        self._left = left
        self._holding: dict[int, _Turn[J]] = {}
        self._making: set[Digest] = set()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def next(self) -> Iterator[tuple[int, J]]:
        """The heaviest job that is left and needs no stage which another makes at the moment, and
        its number; waits where there is none. There must be one left for each who asks."""
        with self._changed:
            while (turn := self._free()) is None:
                self._changed.wait()
            self._left.remove(turn)
            if turn.shared is not None:
                self._making.add(turn.shared)
                self._holding[id(turn.job)] = turn
        try:
            yield turn.number, turn.job
        finally:
            self.made(turn.job)

    def made(self, job: J) -> None:
        """What this job shares with others is made, or will not be: they need not wait any more."""
        with self._changed:
            turn = self._holding.pop(id(job), None)
            if turn is not None and turn.shared is not None:
                self._making.discard(turn.shared)
                self._changed.notify_all()

    def _free(self) -> _Turn[J] | None:
        return next((turn for turn in self._left if turn.shared not in self._making), None)
