"""Latency checks as text. Pure: prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engineforge.checks.latency import slower_percent, time_of
from engineforge.worker.outcome import Timed

# Reasons for a low clock that say nothing of the measurement.
_USUAL = ("gpu_idle", "applications_clocks_setting")


def verdict(timed: Timed | None) -> str:
    """Of one variant in a line: whether it was as fast, when last measured, as its spec asks."""
    if timed is None:
        return "not measured: engineforge check --latency"
    if timed.failures:
        return f"FAILED: {'; '.join(timed.failures)}"
    return f"passed: {summary(timed)}"


def summary(timed: Timed) -> str:
    """What people look at first, with what was asked for."""
    check = timed.check
    parts = [
        _time(timed.measured, "p99", check.max_p99_ms),
        _time(timed.measured, "median", check.max_median_ms),
    ]
    if (limit := check.max_slower) is not None:
        percent = None if timed.than is None else slower_percent(timed.measured, timed.than)
        told = "unknown" if percent is None else f"{percent:+.1f} %"
        parts.append(f"{told} against '{limit.than}' (max +{limit.percent:.6g} %)")
    return f"{', '.join(parts)}; {'; '.join(_how(timed))}"


def _time(measured: Mapping[str, Any], which: str, limit: float | None) -> str:
    found = time_of(measured, which)
    told = "unknown" if found is None else f"{found:.4g} ms"
    return f"{which} {told}" + ("" if limit is None else f" (max {limit:.6g})")


def _how(timed: Timed) -> Iterator[str]:
    measured = timed.measured
    shapes = (f"{name} {'x'.join(map(str, dims))}" for name, dims in measured["shapes"].items())
    yield f"at {timed.check.profile}, {', '.join(shapes)}"
    yield str(measured["gpu"]["name"]) + (", measured before" if timed.kept else "")
    if held := held_down(measured):
        yield f"held down by {', '.join(held)}"


def held_down(measured: Mapping[str, Any]) -> list[str]:
    """Why the clocks of the GPU were lower than they can be, as the driver says it, under load."""
    found: dict[str, None] = {}
    for when in ("start", "end"):
        reasons = (measured["gpu"].get(when) or {}).get("throttled_by") or ()
        found.update(dict.fromkeys(each for each in reasons if each not in _USUAL))
    return list(found)
