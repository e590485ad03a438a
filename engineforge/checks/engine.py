"""An engine on its GPU against its source model on a CPU, over a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engineforge.checks.accuracy import Measured, compared, expected_of, reference
from engineforge.checks.metrics import Array
from engineforge.checks.run import CheckError
from engineforge.runtime import element_types
from engineforge.runtime.engine import Engine
from engineforge.runtime.interface import Tensor, WrongInput
from engineforge.samples.sample import Sample


def measure_engine(
    source: Path, engine: Engine, samples: Iterable[Sample], *, class_axis: int, scratch: Path
) -> Measured:
    """How far an engine is from the model that it was made of.

    `source` is an ONNX file that loads where it stands; `scratch` an empty folder, which takes the
    source in FP32 arithmetic where it is not FP32 itself. Samples are fed one by one, in the batch
    that each has.

    Returns `{"samples": how many, "outputs": {name: measures}, "order": {"source": [names],
    "engine": [names]}}`: measures as metrics.py defines them. CheckError where an output is missing
    or not to be compared, a value does not fit an input, or no profile takes a sample; what
    `Engine.run` raises.
    """
    exact = reference(source, scratch)
    found = OnEngine(engine)
    for one, other, what in ((exact, found, "source"), (found, exact, "engine")):
        for name in one.outputs:
            if name not in other.outputs:
                raise CheckError(
                    f"output '{name}' of the {what} is not among those of {_of(other)}"
                )
    measured = compared(expected_of(exact, samples), found, class_axis=class_axis)
    return {**measured, "order": {"source": [*exact.outputs], "engine": [*found.outputs]}}


class OnEngine:
    """An engine that samples are fed to as they are to a graph."""

    called = "the engine"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.outputs = tuple(engine.interface.outputs)

    def __call__(self, sample: Sample, names: Sequence[str] | None = None) -> dict[str, Array]:
        """The outputs by name, all or those of `names`, in types that NumPy itself has."""
        feed = {}
        for name, tensor in self._engine.interface.inputs.items():
            if name not in sample.feed:
                raise CheckError(f"{sample.place} has no '{name}', an input of the engine")
            feed[name] = fitted(sample.feed[name], tensor, sample.place)
        try:
            found = self._engine.run(feed)
        except WrongInput as error:
            hint = "check it on what it will see, or widen the profile"
            raise CheckError(f"{sample.place}: {error.args[0]}", hint=hint) from error
        return {name: _native(found[name]) for name in (self.outputs if names is None else names)}


def fitted(array: Array, tensor: Tensor, place: str) -> Array:
    """An input in the type that the engine takes, which may be a smaller one of its kind: INT32 for
    INT64, FP32 for FP64, FP16 for FP32. CheckError where a value has no place in that."""
    wanted = tensor.numpy_type
    if array.dtype == wanted:
        return array
    where = f"{place}, input '{tensor.name}'"
    if array.dtype.kind in "iu" and wanted.kind in "iu":
        limits = np.iinfo(wanted)
        for value in (array.min(), array.max()) if array.size else ():
            if not limits.min <= int(value) <= limits.max:
                raise CheckError(f"{where} holds {value}, and the engine takes {wanted.name}")
        return array.astype(wanted)
    if not (_is_float(array.dtype) and _is_float(wanted)):
        raise CheckError(f"{where} is {array.dtype.name}, and the engine takes {wanted.name}")
    with np.errstate(over="ignore"):
        made = array.astype(wanted)
    if not np.isfinite(made.astype(np.float32)).all():
        largest = np.abs(array.astype(np.float64)).max()
        raise CheckError(f"{where} holds {largest:.6g}, and the engine takes {wanted.name}")
    return made


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name.startswith(("float", "bfloat"))


def _native(found: Any) -> Array:  # noqa: ANN401 - as the engine gives it
    array = np.asarray(found)
    return array if element_types.is_native(array.dtype) else array.astype(np.float32)


def _of(which: Any) -> str:  # noqa: ANN401 - a graph or an engine
    return f"{which.called}: {', '.join(repr(name) for name in which.outputs)}"
