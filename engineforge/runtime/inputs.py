"""Inputs as they are handed in: arrays of the host, and borrowed memory of the GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engineforge.runtime.cuda import Stream
from engineforge.runtime.dlpack import Borrowed
from engineforge.runtime.interface import Interface, Request, Shape, WrongInput

Given = Mapping[str, "npt.NDArray[Any] | Borrowed"]


def given(inputs: Mapping[str, Any], stream: Stream, borrowed: contextlib.ExitStack) -> Given:
    """Inputs as arrays of the host, or as borrowed CUDA memory that is ready in `stream`; what is
    borrowed goes back when `borrowed` ends."""
    if all(type(each) is np.ndarray for each in inputs.values()):
        return inputs
    found: dict[str, npt.NDArray[Any] | Borrowed] = {}
    for name, each in inputs.items():
        if isinstance(each, np.ndarray):
            found[name] = np.asarray(each)
        elif hasattr(each, "__dlpack__"):
            tensor = Borrowed(each, stream.handle)
            borrowed.callback(tensor.close)
            found[name] = tensor if tensor.on_gpu else tensor.array()
        else:
            raise WrongInput(
                f"input '{name}': expected a NumPy array or something with '__dlpack__', found "
                f"{type(each).__name__}"
            )
    return found


def request_of(interface: Interface, arrays: Given) -> Request:
    """The shapes that arrays have, and the values of those that are shape tensors."""
    values = {}
    for name, tensor in interface.inputs.items():
        if tensor.shape_tensor and tensor.on_host:
            array = arrays[name]
            if isinstance(array, Borrowed):
                raise WrongInput(f"input '{name}' decides shapes: give it in CPU memory")
            values[name] = values_of(array)
    return Request(shapes={name: each.shape for name, each in arrays.items()}, values=values)


def values_of(array: npt.NDArray[Any]) -> Shape:
    return tuple(array.ravel().tolist())
