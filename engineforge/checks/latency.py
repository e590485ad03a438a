"""Whether what was measured of an engine's latency is good enough. Pure; what has no value fails.

Times are `latency_ms`, as runtime/latency.py measures it: copies in, the engine, copies out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engineforge.checks.figures import value_of
from engineforge.spec.model import LatencyCheck

Measured = Mapping[str, Any]
_TIMES = "latency_ms"


def time_of(measured: Measured, which: str) -> float | None:
    """`p99`, `median` or another of a measurement, in ms; None where it has none."""
    times = measured.get(_TIMES)
    return value_of(times.get(which)) if isinstance(times, Mapping) else None


def slower_percent(measured: Measured, than: Measured) -> float | None:
    """By how many percent the median is over that of another measurement; None where one lacks
    it, or the other is 0."""
    mine, other = time_of(measured, "median"), time_of(than, "median")
    if mine is None or not other:
        return None
    return round(100 * (mine / other - 1), 9)  # 1.1 is 10 % over 1, and not a little more


def latency_failures(
    measured: Measured, check: LatencyCheck, than: Measured | None = None
) -> list[str]:
    """What keeps a measurement from passing, a line each; none if it passes. `than` is what was
    measured of the variant that `check.max_slower` names."""
    return [*_absolute(measured, check), *_relative(measured, check, than)]


def _absolute(measured: Measured, check: LatencyCheck) -> Iterator[str]:
    for which, limit in (("p99", check.max_p99_ms), ("median", check.max_median_ms)):
        if limit is None:
            continue
        found = time_of(measured, which)
        if found is None:
            yield f"{which} has no value, expected at most {limit:.6g} ms"
        elif not found <= limit:  # a NaN is not more than anything either
            yield f"{which} is {found:.4g} ms, expected at most {limit:.6g} ms"


def _relative(measured: Measured, check: LatencyCheck, than: Measured | None) -> Iterator[str]:
    if (limit := check.max_slower) is None:
        return
    percent = None if than is None else slower_percent(measured, than)
    if than is None or percent is None:
        yield f"nothing was measured to compare it with '{limit.than}' by"
    elif not percent <= limit.percent:
        mine, other = time_of(measured, "median"), time_of(than, "median")
        yield (
            f"median is {percent:.1f} % over that of '{limit.than}' ({mine:.4g} ms, and "
            f"{other:.4g} ms), expected at most {limit.percent:.6g} %"
        )
