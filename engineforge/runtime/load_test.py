"""Whether an engine loads and runs here: asked of a fresh process before an engine is published."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from engineforge.digest import Digest
from engineforge.runtime.engine import Engine


def load_test(
    path: Path,
    *,
    sha256: Digest | None = None,
    backend: str | None = None,
    plugins: Sequence[Path] = (),
    log: TextIO | None = None,
    device: int | str = 0,
) -> dict[str, Any]:
    """Load an engine and run it once for each profile, at its opt, on zeros.

    Gives `load_seconds`, `device_memory` (bytes of scratch memory), and of each run its seconds and
    outputs, with whether these are finite: what zeros come to need not be. The errors of
    `Engine.load` and `Context.run`.
    """
    started = time.monotonic()
    with Engine.load(
        path, sha256=sha256, backend=backend, plugins=plugins, log=log, device=device
    ) as engine:
        loaded = time.monotonic()
        runs = [_run(engine, index) for index in range(len(engine.interface.profiles))]
        return {
            "engine": engine.sha256,
            "gpu": {"name": engine.loaded.device.name, "uuid": engine.loaded.device.uuid},
            "load_seconds": round(loaded - started, 3),
            "device_memory": engine.loaded.device_memory,
            "runs": runs,
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
