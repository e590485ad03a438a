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
    """Whether axis 0 is the batch: of all inputs it varies, and is equally long in the example."""
    return (
        all(axes.dims and axes.dims[0] is None for axes in inputs.values())
        and len({axes.example[0] for axes in inputs.values()}) == 1
    )


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
    """By name where all have one of the model's own, else by position."""
    if len(own) != len(inputs):
        has, wants = ", ".join(own), ", ".join(inputs)
        raise SourceFailed(f"'{called}' has inputs ({has}), and the spec has ({wants})")
    return list(own) if set(own) == set(inputs) else list(inputs)
