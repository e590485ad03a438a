"""Two engines of one model: whether they give the same, and equally fast."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engineforge.runtime.engine import Engine
from engineforge.runtime.latency import measure, random_inputs

_SECONDS = 0.5


def compare(one: Engine, other: Engine, *, seed: int = 0) -> dict[str, Any]:
    """Run both on the same random inputs, at the opt of each profile.

    Gives `equal` (to the last bit, everywhere), the largest `relative_error` (L2, of an output of
    `other` against `one`), and in `median_ms` the latencies of both, for the first profile.
    """
    equal, worst = True, 0.0
    for profile in range(len(one.interface.profiles)):
        inputs = random_inputs(one, one.interface.opt(profile), seed)
        expected, found = one.run(inputs, profile), other.run(inputs, profile)
        for name, array in expected.items():
            equal = equal and np.array_equal(array, found[name], equal_nan=array.dtype.kind == "f")
            worst = max(worst, _relative_error(array, found[name]))
    times = [measure(each, duration_s=_SECONDS, seed=seed) for each in (one, other)]
    return {
        "equal": bool(equal),
        "relative_error": worst,
        "median_ms": [each["latency_ms"]["median"] for each in times],
    }


def _relative_error(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """L2 of the difference over L2 of what was expected; infinite where that says nothing."""
    if expected.shape != found.shape:
        return float("inf")
    wide = expected.astype(np.float64)
    distance = float(np.linalg.norm(found.astype(np.float64) - wide))
    norm = float(np.linalg.norm(wide))
    if distance == 0:
        return 0.0
    return distance / norm if norm and np.isfinite(distance) else float("inf")
