"""What many times come to, as trtexec sums them up (NVIDIA/TensorRT samples/common/
sampleReporting.cpp)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

PERCENTILES = (90, 95, 99)
HOW = (
    "as trtexec: of n sorted times, percentile p is the one at index n - 1 - floor((1 - p/100) n), "
    "and the median of an even number is the mean of the middle two"
)


def percentile(times: Sequence[float], p: float) -> float:
    """Of times in rising order, the one at index n - 1 - floor((1 - p/100) n), or the first."""
    # In single precision, as trtexec: in double, 1 - 90/100 is a little less than a tenth.
    excluded = int((1 - np.float32(p) / np.float32(100)) * np.float32(len(times)))
    return times[max(len(times) - 1 - excluded, 0)]


def summary(times: Sequence[float]) -> dict[str, float]:
    """Min, mean, median, percentiles and max of at least one time, in their unit."""
    ordered = sorted(times)
    middle = len(ordered) // 2
    return {
        "min": ordered[0],
        "mean": sum(ordered) / len(ordered),
        "median": (ordered[middle] + ordered[~middle]) / 2,
        **{f"p{p}": percentile(ordered, p) for p in PERCENTILES},
        "max": ordered[-1],
    }


def by_layer(reported: Sequence[tuple[str, float]]) -> list[dict[str, float | str]]:
    """Layers in the order in which they were first reported, `ms` being the mean per run and
    `share` its part of all. One name may be several layers: those of a run are added up."""
    total: dict[str, float] = {}
    for name, ms in reported:
        total[name] = total.get(name, 0.0) + ms
    # A layer inside a loop is reported more than once a run, and some layer is not.
    counts = Counter(name for name, _ in reported)
    runs = min(counts.values(), default=1)
    whole = sum(total.values()) or 1.0
    return [{"name": n, "ms": ms / runs, "share": ms / whole} for n, ms in total.items()]


def bound_by(times: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What trtexec warns of: the GPU waiting for the host, or for copies."""
    compute = times["compute"]["median"]
    found = []
    if times["enqueue"]["median"] > 0.8 * compute:
        found.append("enqueuing takes the host about as long as computing: try a CUDA graph")
    for name, what in (("h2d", "inputs to"), ("d2h", "outputs from")):
        if times[name]["median"] >= compute > 0:
            found.append(f"copying {what} the GPU takes longer than computing")
    return found
