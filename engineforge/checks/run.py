"""Graphs run on a CPU by ONNX Runtime, with no optimisation: each node as it stands in the graph.

The only file that knows ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from engineforge.checks.metrics import Array
from engineforge.errors import EngineForgeError
from engineforge.samples.sample import Sample

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
}
_ERROR = 3


class CheckError(EngineForgeError):
    """A check could not be carried out; it has neither passed nor failed."""


class Graph:
    """A loaded graph."""

    def __init__(self, path: Path, *, called: str) -> None:
        """Loads it. `called` is what messages call it. CheckError where ONNX Runtime refuses."""
        options = onnxruntime.SessionOptions()
        # Optimisation would drop pairs of casts and merge what the twin keeps apart, and makes
        # INVALID_GRAPH of FP8.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = _ERROR
        # Samples may differ in shape: an arena would keep the largest of everything.
        options.enable_cpu_mem_arena = False
        self.called = called
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions have no parent but Exception
            raise CheckError(
                f"ONNX Runtime {onnxruntime.__version__} cannot load {called}: {_said(error)}"
            ) from error
        self._inputs = {each.name: _TYPES.get(each.type) for each in self._session.get_inputs()}
        self.outputs = tuple(str(each.name) for each in self._session.get_outputs())

    def __call__(self, sample: Sample, names: Sequence[str] | None = None) -> dict[str, Array]:
        """The outputs by name, all or those of `names`. Floats are cast to what an input takes."""
        missing = sorted(set(self._inputs) - set(sample.feed))
        if missing:
            raise CheckError(f"{sample.place} has no '{missing[0]}', an input of {self.called}")
        feed = {
            name: np.asarray(sample.feed[name], dtype=type_) for name, type_ in self._inputs.items()
        }
        asked = list(self.outputs if names is None else names)
        try:
            found = self._session.run(asked, feed)
        except Exception as error:
            raise CheckError(
                f"{self.called} does not run on {sample.place}: {_said(error)}"
            ) from error
        for name, value in zip(asked, found, strict=True):
            if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
                raise CheckError(f"output '{name}' of {self.called} holds no numbers")
        return dict(zip(asked, found, strict=True))


def _said(error: Exception) -> str:
    return " ".join(str(error).split())
