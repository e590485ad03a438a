"""Samples for the digit networks: what models/README.md says of the data, as functions.

A spec names one as `python: digits:convnet_training`; its source and the data are hashed.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

Samples = dict[str, npt.NDArray[np.generic]]
_MODELS = Path(__file__).parent / "models"


def convnet_training() -> Samples:
    return _convnet("train")


def convnet_holdout() -> Samples:
    return _convnet("holdout")


def transformer_training() -> Samples:
    return _transformer("train")


def transformer_holdout() -> Samples:
    return _transformer("holdout")


def _convnet(part: str) -> Samples:
    """`image` float32 [n, 3, 32, 32] in 0..1 (each pixel becomes 4x4), `label` int64 [n]."""
    image8, label = _digits(part)
    large = np.kron(image8, np.ones((1, 4, 4), np.float32)) / np.float32(16)
    return {"image": np.repeat(large[:, np.newaxis], 3, axis=1), "label": label}


def _transformer(part: str) -> Samples:
    """`image` float32 [n, 1, 8, 8] in 0..1, `label` int64 [n]."""
    image8, label = _digits(part)
    return {"image": image8[:, np.newaxis].astype(np.float32) / np.float32(16), "label": label}


def _digits(part: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    with np.load(_MODELS / f"digits-{part}.npz") as data:
        return data["image8"], data["label"].astype(np.int64)
