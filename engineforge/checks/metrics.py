"""How far the outputs of two graphs are apart, added up sample by sample.

With x what the source gives and y what the typed graph gives, over all elements of all samples,
in float64:

    max_absolute_error  max |y - x|
    relative_error      sqrt(sum (y - x)^2 / sum x^2); 0 if both sums are 0, "inf" if just the
                        second is
    cosine              sum xy / sqrt(sum x^2 * sum y^2); 1 if x and y are all 0, 0 if one is
    sqnr_db             10 log10(sum x^2 / sum (y - x)^2): the signal-to-quantization-noise ratio;
                        "inf" if y is x
    non_finite          elements where y is infinite or not a number (x never is)
    count               elements

An element that is not finite makes the errors "inf", sqnr_db "-inf" and cosine None: no value.

A decision is an argmax along `class_axis`, so an output of shape
[n, classes] makes n of them per sample:

    decisions           how many
    top1_agreement      share of decisions that are equal in both
    source_top1, top1   share of decisions of the source and of the typed graph that equal the label

A decision over values that are not all finite agrees with nothing, and neither does one between
classes that are equal, unless all values are those of the source. These are absent where an
output makes no decisions, as it has no such axis or a single class, and the last two where its
decisions are not what the labels are for, as their numbers differ.

An output of integers or booleans is a decision already: it has `count` and `agreement`, the share
of equal elements.

Every result can be written as JSON, see figures.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from engineforge.checks.figures import Figure, figure

Array = npt.NDArray[Any]


class Distance:
    """Of one output. Holds sums, never samples."""

    def __init__(self, class_axis: int) -> None:
        self._axis = class_axis
        self._floats = True
        self._count = self._equal = self._non_finite = 0
        self._noise = self._signal = self._measured = self._dot = self._largest = 0.0
        self._decisions = self._agreed = 0
        self._labelled = self._source_right = self._right = 0

    def add(self, source: Array, typed: Array, labels: Array | None = None) -> None:
        """One sample: arrays of one shape. The source's values must be finite."""
        if source.shape != typed.shape:
            raise ValueError(f"shapes differ: {source.shape} and {typed.shape}")
        self._count += source.size
        if source.dtype.kind != "f":
            self._floats = False
            self._equal += int(np.count_nonzero(source == typed))
            return
        finite = np.isfinite(typed)
        bad = typed.size - int(np.count_nonzero(finite))
        self._non_finite += bad
        self._decide(source, typed, finite, labels)
        if bad:
            return
        x, y = source.ravel().astype(np.float64), typed.ravel().astype(np.float64)
        self._signal += float(x @ x)
        self._measured += float(y @ y)
        self._dot += float(x @ y)
        np.subtract(y, x, out=y)
        self._noise += float(y @ y)
        if y.size:
            self._largest = max(self._largest, float(np.abs(y, out=y).max()))

    def _decide(self, source: Array, typed: Array, finite: Array, labels: Array | None) -> None:
        axis = self._axis
        if not -source.ndim <= axis < source.ndim or source.shape[axis] < 2:  # noqa: PLR2004
            return  # over one class, every decision is the same
        right = source.argmax(axis)
        found = np.where(finite.all(axis) & ~_tied(typed, axis), typed.argmax(axis), -1)
        found = np.where(_tied(source, axis) & (source == typed).all(axis), right, found)
        self._decisions += right.size
        self._agreed += int(np.count_nonzero(right == found))
        if labels is None or labels.size != right.size:
            return
        labels = labels.reshape(right.shape)
        self._labelled += labels.size
        self._source_right += int(np.count_nonzero(right == labels))
        self._right += int(np.count_nonzero(found == labels))

    def result(self) -> dict[str, Figure]:
        """The measures by name, as the module says."""
        if not self._floats:
            return {"count": self._count, "agreement": _share(self._equal, self._count)}
        bad = self._non_finite > 0
        noise = math.inf if bad else self._noise
        found: dict[str, Figure] = {
            "count": self._count,
            "non_finite": self._non_finite,
            "max_absolute_error": figure(math.inf if bad else self._largest),
            "relative_error": figure(math.sqrt(_ratio(noise, self._signal))),
            "cosine": None if bad else self._cosine(),
            "sqnr_db": figure(decibel(self._signal, noise)),
        }
        if self._decisions:
            found["decisions"] = self._decisions
            found["top1_agreement"] = _share(self._agreed, self._decisions)
        if self._labelled and self._labelled == self._decisions:
            found["source_top1"] = _share(self._source_right, self._labelled)
            found["top1"] = _share(self._right, self._labelled)
        return found

    def _cosine(self) -> float:
        if self._signal == 0 or self._measured == 0:
            return 1.0 if self._signal == self._measured else 0.0
        cosine = self._dot / (math.sqrt(self._signal) * math.sqrt(self._measured))
        return max(-1.0, min(1.0, cosine))


def _tied(values: Array, axis: int) -> Array:
    """Where the largest value along an axis is there more than once."""
    tied: Array = np.count_nonzero(values == values.max(axis, keepdims=True), axis=axis) > 1
    return tied


def decibel(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two sums of squares; inf without noise, and -inf where the noise
    is not finite or all there is."""
    if not math.isfinite(noise) or not math.isfinite(signal):
        return -math.inf
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _ratio(part: float, whole: float) -> float:
    if whole == 0:
        return 0.0 if part == 0 else math.inf
    return part / whole


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
