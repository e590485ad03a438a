"""One run of a model as data, and what the model's inputs ask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engineforge.samples import BadSamples
from engineforge.spec.model import TensorInterface

Array = NDArray[Any]
# Inputs of a few values are sizes and scales, which may well be the same number twice.
_FEW = 16


@dataclass(frozen=True, slots=True)
class Sample:
    """Every input of the model by name, as the model takes it, with its batch axis.

    `labels` are the right classes, as many as the sample has; `place` is file and sample, for
    messages.
    """

    feed: Mapping[str, Array]
    labels: Array | None
    place: str


@dataclass(frozen=True, slots=True)
class Source:
    """A data set that was opened: how many samples it has, None where only reading tells, and a
    way to read those of the given indices, which ascend; None are all."""

    count: int | None
    read: Callable[[Iterable[int] | None], Iterator[Sample]]


def native(array: Array) -> Array:
    """The same values in this machine's byte order, as every library expects them."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def array_names(inputs: Iterable[TensorInterface], labels: str | None) -> list[str]:
    """The arrays that a data set must have."""
    return [*(each.name for each in inputs), *([labels] if labels is not None else [])]


def require(wanted: Iterable[str], found: Iterable[object], place: str) -> None:
    """BadSamples unless there is an array for each wanted name."""
    names = sorted(each for each in found if isinstance(each, str))
    for name in wanted:
        if name in names:
            continue
        there = ", ".join(f"'{each}'" for each in names) or "none"
        hint = (
            f"call the array what the model, or 'labels', calls it: numpy.savez(file, {name}=...)"
        )
        raise BadSamples(f"{place}: expected an array '{name}', found {there}", hint=hint)


def check_labels(dtype: np.dtype[Any], place: str, name: str) -> None:
    if dtype.kind not in "iu":
        message = f"{place}, labels '{name}': expected integers, found {dtype.name}"
        raise BadSamples(message, hint=".astype(numpy.int64)")


def check_sample(
    sample: Sample, inputs: Sequence[TensorInterface], *, calibrating: bool, hint: str | None
) -> None:
    """BadSamples unless the model takes the sample. Nothing is ever cast: a value that had to be
    is not the one that the model will see in production. A sample that is one number all over
    tells no range, so it is none to calibrate on."""
    sizes: dict[str, tuple[int, str]] = {}
    for tensor in inputs:
        array = sample.feed[tensor.name]
        place = f"{sample.place}, input '{tensor.name}'"
        if array.dtype.name != tensor.type:
            module = "numpy" if hasattr(np, tensor.type) else "ml_dtypes"
            message = f"{place}: expected {tensor.type}, found {array.dtype.name}"
            raise BadSamples(message, hint=f".astype({module}.{tensor.type})")
        _check_shape(array, tensor, place, sizes, hint)
        if tensor.type.startswith(("float", "bfloat")):
            _check_values(array, place, calibrating=calibrating)


def _check_shape(
    array: Array,
    tensor: TensorInterface,
    place: str,
    sizes: dict[str, tuple[int, str]],
    hint: str | None,
) -> None:
    fits = array.ndim == len(tensor.dims) and all(
        size > 0 and (not isinstance(dim, int) or size == dim)
        for size, dim in zip(array.shape, tensor.dims, strict=True)
    )
    if not fits:
        message = f"{place}: expected {written(tensor.dims)}, found {list(array.shape)}"
        raise BadSamples(message, hint=hint)
    for size, dim in zip(array.shape, tensor.dims, strict=True):
        if not isinstance(dim, str):
            continue
        known, where = sizes.setdefault(dim, (size, tensor.name))
        if known != size:
            message = f"{place}: expected '{dim}' to be {known}, as in '{where}', found {size}"
            raise BadSamples(message, hint=hint)


def _check_values(array: Array, place: str, *, calibrating: bool) -> None:
    values = array if array.dtype.kind == "f" else array.astype(np.float32)
    # NaN and infinities survive both, and nothing as large as the array is made on the way.
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        at = np.argwhere(~np.isfinite(values))[0]
        what = "NaN" if np.isnan(values[tuple(at)]) else "infinity"
        raise BadSamples(f"{place}: {what} at {at.tolist()}")
    if calibrating and low == high and array.size > _FEW:
        hint = "calibrate on samples like those of production, prepared in the same way"
        raise BadSamples(f"{place}: all {array.size} values are {low + 0.0}", hint=hint)


def written(dims: Sequence[int | str | None]) -> str:
    return f"[{', '.join('any' if dim is None else str(dim) for dim in dims)}]"
