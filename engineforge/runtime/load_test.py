"""Whether an engine loads and runs here: asked of a fresh process before an engine is published."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from engineforge.runtime.engine import Engine


def load_test(engine: Engine, load_seconds: float, *, run: bool = True) -> dict[str, Any]:
    """Run a loaded engine once for each profile, at its opt, on zeros; not where it was built
    without its weights.

    Gives `device_memory` (bytes of scratch memory), and of each run its seconds and outputs, with
    whether these are finite: what zeros come to need not be. The errors of `Context.run`.
    """
    profiles = range(len(engine.interface.profiles)) if run else range(0)
    return {
        "loaded": True,
        "engine": engine.sha256,
        "gpu": {"name": engine.loaded.device.name, "uuid": engine.loaded.device.uuid},
        "load_seconds": round(load_seconds, 3),
        "device_memory": engine.loaded.device_memory,
        "runs": [_run(engine, index) for index in profiles],
    }


def _run(engine: Engine, profile: int) -> dict[str, Any]:
    request = engine.interface.opt(profile)
    inputs = {
        name: np.zeros(request.shapes[name], tensor.numpy_type)
        for name, tensor in engine.interface.inputs.items()
    }
    for name, values in request.values.items():
        inputs[name][...] = np.reshape(values, inputs[name].shape)
    started = time.monotonic()
    outputs = engine.run(inputs, profile)
    seconds = time.monotonic() - started
    return {
        "profile": profile,
        "seconds": round(seconds, 4),
        "outputs": {name: about(np.asarray(each)) for name, each in outputs.items()},
    }


def about(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Shape and type of an array, and whether all of it is finite."""
    wide = array if array.dtype.kind in "iub" else array.astype(np.float64)
    return {
        "shape": list(array.shape),
        "dtype": array.dtype.name,
        "finite": bool(np.isfinite(wide).all()),
    }
