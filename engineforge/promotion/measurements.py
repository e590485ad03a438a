"""Which of several measurements decide, which limits they miss, and which can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from engineforge.checks.latency import slower_percent
from engineforge.promotion.candidate import Accuracy, Latency, LoadTest
from engineforge.spec.environments import LatencyGate
from engineforge.target import Gpu

R = TypeVar("R", Accuracy, Latency, LoadTest)


def has_failed(result: Accuracy | Latency | LoadTest) -> bool:
    """Whether it was told so, in one way or the other. A measurement fails by a gate only."""
    match result:
        case Latency():
            return False
        case Accuracy():
            return not result.passed or bool(result.failures)
        case LoadTest():
            return not result.passed


def decisive(results: Sequence[R]) -> list[R]:
    """Of those with the newest first: the newest on each kind of GPU. Of two at one time, it is the
    one that failed."""
    newest: dict[Gpu | None, R] = {}
    for each in results:
        first = newest.setdefault(kind(each.gpu), each)
        if each.time == first.time and has_failed(each):
            newest[kind(each.gpu)] = each
    return list(newest.values())


def kind(gpu: Gpu | None) -> Gpu | None:
    """A GPU without its total memory, of which drivers keep different amounts for themselves."""
    return None if gpu is None else replace(gpu, memory=0)


def missed(measured: Latency, gate: LatencyGate) -> Iterator[str]:
    """The absolute limits of a gate that a measurement misses."""
    for which, found, limit in (
        ("p99", measured.p99_ms, gate.max_p99_ms),
        ("median", measured.median_ms, gate.max_median_ms),
    ):
        if limit is not None and not (found is not None and found <= limit):  # a NaN is not, either
            yield f"{which} is {ms(found)}, expected at most {limit:.6g} ms"


def unlike(other: Latency, mine: Latency) -> Iterator[str]:
    """How else another measurement was made."""
    if other.driver != mine.driver:
        yield f"driver {other.driver}"
    if other.point != mine.point:
        yield "other shapes"
    if other.settings != mine.settings:
        yield "other settings"


def slower(mine: Latency, other: Latency) -> float | None:
    """By how many percent one median is over the other; None where one is not known, or 0."""
    medians = ({"latency_ms": {"median": each.median_ms}} for each in (mine, other))
    return slower_percent(*medians)


def ms(value: float | None) -> str:
    """A latency, for people."""
    return "not known" if value is None else f"{value:.4g} ms"


def words(failures: Iterable[str]) -> str:
    """What failed, to follow a sentence that says that something did."""
    said = "; ".join(filter(None, failures))
    return f": {said}" if said else ""
