"""Times of commands taken in turns, their medians, and tables of them."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pairs:
    """Seconds of two things measured in turns; what is compared is always one round."""

    bare: Sequence[float]
    ours: Sequence[float]

    @property
    def extra(self) -> list[float]:
        return [ours - bare for bare, ours in zip(self.bare, self.ours, strict=True)]

    @property
    def percent(self) -> list[float]:
        return [100 * (ours / bare - 1) for bare, ours in zip(self.bare, self.ours, strict=True)]


def in_turns(bare: Callable[[], None], ours: Callable[[], None], rounds: int) -> Pairs:
    """A B, B A, A B ...: what drifts on a shared machine falls on both."""
    seconds: dict[int, list[float]] = {0: [], 1: []}
    things = (bare, ours)
    for i in range(rounds):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            started = time.perf_counter()
            things[which]()
            seconds[which].append(time.perf_counter() - started)
    return Pairs(seconds[0], seconds[1])


def quiet(command: Sequence[str]) -> str:
    """Run a command that must succeed; what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def settle() -> None:
    """Let what was written reach the disk, so that nobody pays for another's writing."""
    os.sync()


def spread(values: Sequence[float], form: str) -> str:
    """The median, and from where to where."""
    low, high = (format(end, form) for end in (min(values), max(values)))
    return f"{statistics.median(values):{form}} ({low} to {high})"


def verdict(value: float, budget: float) -> str:
    return "kept" if value <= budget else "BROKEN"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, ["-" * width for width in widths], *rows):
        cells = [
            f"{cell:{'<' if i == 0 else '>'}{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip(), flush=True)
