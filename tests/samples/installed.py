"""Samples from a module that is on the path already."""

from __future__ import annotations

import numpy as np

from tests.samples.data import Array


def samples() -> dict[str, Array]:
    return {"x": np.ones((1, 2), np.float32)}
