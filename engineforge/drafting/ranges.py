"""Ranges for the dimensions of a model that may vary, guessed from their names and positions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engineforge.spec.model import ModelInterface, TensorInterface
from engineforge.stages.sources.shape_inputs import ShapeUse

Bounds = tuple[int, int, int]
"""min, opt and max."""

BATCH: Bounds = (1, 4, 8)
SEQUENCE: Bounds = (1, 128, 512)
# Multiples of 64: many networks halve an image five or six times.
SIDE: Bounds = (64, 256, 1024)
DEPTH: Bounds = (8, 16, 32)
CHANNELS: Bounds = (3, 3, 3)
COUNT: Bounds = (1, 16, 64)
_ONE: Bounds = (1, 1, 1)
_MOST_CHANNELS = 4
_IMAGE, _VOLUME, _ROW = 4, 5, 3

# Looked for in this order, in names in lower case.
_NAMES = (
    (re.compile(r"batch|^(bs|n|b)$"), BATCH),
    (re.compile(r"channel|^c$"), CHANNELS),
    (re.compile(r"height|width|^(h|w|hw|size|side|imgsz|rows|cols)$"), SIDE),
    (re.compile(r"seq|length|len$|token|time|frame|past|context|^(t|s|l)$"), SEQUENCE),
    (re.compile(r"depth|^d$"), DEPTH),
    (re.compile(r"num|count|box|point|object"), COUNT),
)
_INTEGERS = ("int32", "int64")


def profile(
    interface: ModelInterface, uses: Mapping[str, ShapeUse]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Inputs that may vary as a spec has them, and what each of their dimensions was taken for.

    Dimensions of one name are one size in TensorRT, and get one range.
    """
    known: dict[str, Bounds] = {}
    shapes: dict[str, list[Bounds]] = {}
    guessed: dict[str, list[str]] = {}
    for tensor in interface.inputs:
        bounds = []
        for axis, dim in enumerate(tensor.dims):
            if isinstance(dim, int):
                bounds.append((dim, dim, dim))
                continue
            guess = known.get(dim) if dim else None
            if guess is None:
                guess = _by_name(dim) or _by_position(tensor, axis)
            if dim:
                known[dim] = guess
            bounds.append(guess)
        shapes[tensor.name] = bounds
        if any(not isinstance(dim, int) for dim in tensor.dims):
            guessed[tensor.name] = [
                _called(dim, at) for dim, at in zip(tensor.dims, bounds, strict=True)
            ]
    made: dict[str, Any] = {}
    for tensor in interface.inputs:
        value: dict[str, Any] = {}
        if tensor.name in guessed:
            value |= _three(shapes[tensor.name])
        if tensor.name in uses and tensor.type in _INTEGERS and len(tensor.dims) <= 1:
            value["values"] = _three(_values(tensor, uses[tensor.name], shapes))
        if value:
            made[tensor.name] = value
    return made, guessed


def _by_name(dim: str | None) -> Bounds | None:
    lower = (dim or "").lower()
    return next((bounds for pattern, bounds in _NAMES if pattern.search(lower)), None)


def _by_position(tensor: TensorInterface, axis: int) -> Bounds:
    rank, last = len(tensor.dims), tensor.dims[-1]
    if axis == 0:
        return BATCH
    if rank in (_IMAGE, _VOLUME):
        channels_last = isinstance(last, int) and last <= _MOST_CHANNELS
        if axis == (rank - 1 if channels_last else 1):
            return CHANNELS
        first = 1 if channels_last else 2
        return DEPTH if rank == _VOLUME and axis == first else SIDE
    if rank == _ROW or tensor.type in _INTEGERS:
        return SEQUENCE
    return COUNT


def _called(dim: int | str | None, at: Bounds) -> str:
    return str(dim) if isinstance(dim, int) else f"{dim or '?'}"


def _values(
    tensor: TensorInterface, use: ShapeUse, shapes: Mapping[str, list[Bounds]]
) -> list[Bounds]:
    """Values that surely are possible, where something is known of them."""
    count = 1 if not tensor.dims else tensor.dims[0] if isinstance(tensor.dims[0], int) else 1
    if use.like is not None and len(shapes[use.like]) == count:
        return shapes[use.like]  # to the shape that it has already
    if use.operator in ("Tile", "TopK"):
        return [_ONE] * count
    return [(1, 1, 1)] * count if use.operator == "Pad" else [COUNT] * count


def _three(bounds: list[Bounds]) -> dict[str, list[int]]:
    low, opt, high = (list(each) for each in zip(*bounds, strict=True)) if bounds else ([], [], [])
    return {"min": low, "opt": opt, "max": high}
