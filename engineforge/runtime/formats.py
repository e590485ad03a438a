"""How a tensor lies in memory where an engine was built with other formats than packed rows:
arrays into TensorRT's layout and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engineforge.errors import EngineForgeError

LINEAR = "LINEAR"

# TensorFormat -> (spatial dimensions after the channels, channels that lie together), from the
# documentation of TensorFormat: CHW32 is [N][(C+31)/32][H][W][32], HWC8 is [N][H][W][(C+7)/8*8].
_VECTORS = {"CHW2": (2, 2), "CHW4": (2, 4), "CHW16": (2, 16), "CHW32": (2, 32), "CDHW32": (3, 32)}
_CHANNELS_LAST = {"HWC": (2, 1), "HWC8": (2, 8), "HWC16": (2, 16), "DHWC": (3, 1), "DHWC8": (3, 8)}


def stored_shape(shape: tuple[int, ...], layout: str) -> tuple[int, ...]:
    """The shape of the array in memory; EngineForgeError for a format that only DLA has."""
    if layout == LINEAR:
        return shape
    spatial, together = _known(shape, layout)
    axis = len(shape) - spatial - 1
    groups = -(-shape[axis] // together)
    if layout in _VECTORS:
        return (*shape[:axis], groups, *shape[axis + 1 :], together)
    return (*shape[:axis], *shape[axis + 1 :], groups * together)


def pack(array: npt.NDArray[Any], layout: str, into: npt.NDArray[Any]) -> None:
    """Write an array into memory of its `stored_shape`; channels that pad are zero."""
    if layout == LINEAR:
        np.copyto(into, array)
        return
    spatial, together = _known(array.shape, layout)
    axis = array.ndim - spatial - 1
    groups = -(-array.shape[axis] // together)
    last = np.zeros((*np.delete(array.shape, axis), groups * together), array.dtype)
    last[..., : array.shape[axis]] = np.moveaxis(array, axis, -1)
    if layout in _VECTORS:
        last = np.moveaxis(last.reshape(*last.shape[:-1], groups, together), -2, axis)
    np.copyto(into, last)


def unpack(stored: npt.NDArray[Any], shape: tuple[int, ...], layout: str) -> npt.NDArray[Any]:
    """A copy of what lies in memory of `stored_shape`, as an array of `shape`."""
    if layout == LINEAR:
        return np.array(stored)
    spatial, _ = _known(shape, layout)
    axis = len(shape) - spatial - 1
    if layout in _VECTORS:
        grouped = np.moveaxis(stored, axis, -2)
        stored = grouped.reshape(*grouped.shape[:-2], -1)
    return np.ascontiguousarray(np.moveaxis(stored[..., : shape[axis]], -1, axis))


def _known(shape: tuple[int, ...], layout: str) -> tuple[int, int]:
    found = _VECTORS.get(layout) or _CHANNELS_LAST.get(layout)
    if found is None or len(shape) <= found[0]:
        raise EngineForgeError(
            f"a tensor of shape {list(shape)} in TensorRT's format {layout} cannot be read here",
            hint="build the engine with formats 'linear' for its inputs and outputs",
        )
    return found
