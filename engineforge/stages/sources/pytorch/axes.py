"""Inputs for PyTorch's exporters: which axes vary, their names, and in which order inputs come."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engineforge.spec.sources import InputAxes
from engineforge.stages.sources import SourceFailed

BATCH = "batch"
Inputs = Mapping[str, InputAxes]
Tensor = Any


def varying(axes: InputAxes) -> Iterator[tuple[int, int]]:
    """The axes that vary, each with its size in the example."""
    for axis, size in enumerate(axes.dims):
        if size is None:
            yield axis, axes.example[axis]


def has_batch(inputs: Inputs) -> bool:
    """Whether axis 0 of all inputs is one, the batch."""
    return all(axes.batch for axes in inputs.values())


def axis_names(inputs: Inputs) -> dict[str, dict[int, str]]:
    """What the axes that vary are called, of each input."""
    batch = has_batch(inputs)
    return {
        name: {
            axis: BATCH if batch and axis == 0 else re.sub(r"\W", "_", f"{name}_{axis}")
            for axis, _ in varying(axes)
        }
        for name, axes in inputs.items()
    }


def zeros(axes: InputAxes, shape: Sequence[int]) -> Tensor:
    import torch

    return torch.zeros(shape, dtype=getattr(torch, axes.type))


def in_order(own: Sequence[str], inputs: Inputs, called: str) -> list[str]:
    """By name; a single one may have a name of its own."""
    if set(own) == set(inputs):
        return list(own)
    if len(own) == len(inputs) == 1:
        return list(inputs)
    has, wants = ", ".join(own), ", ".join(inputs)
    message = f"'{called}' has inputs ({has}), and the spec has ({wants})"
    raise SourceFailed(message, hint="give the spec's inputs the model's names")
