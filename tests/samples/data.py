"""Inputs, files and functions for the tests of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engineforge.samples import BadSamples
from engineforge.samples.read import Sample, Samples
from engineforge.spec.model import ArrayFiles, DataSet, PythonFunction, TensorInterface

Array = NDArray[Any]
Dim = int | str | None


def tensor(name: str = "x", *dims: Dim, type: str = "float32") -> TensorInterface:  # noqa: A002
    return TensorInterface(name=name, type=type, dims=dims)


X = tensor("x", "batch", 3, 4, 4)


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def stream(
    folder: Path,
    data: DataSet | str = "x.npz",
    *inputs: TensorInterface,
    samples: int | None = None,
    seed: int | None = None,
    labels: str | None = None,
    fewest: int = 1,
    calibrating: bool = False,
) -> Samples:
    """Of `x.npz` for the input `x`, where nothing else is said."""
    return Samples(
        ArrayFiles(path=data) if isinstance(data, str) else data,
        folder,
        inputs or (X,),
        samples=samples,
        seed=seed,
        labels=labels,
        fewest=fewest,
        calibrating=calibrating,
    )


def problem(samples: Samples) -> str:
    """What reading them to the end says, with the hint."""
    with pytest.raises(BadSamples) as raised:
        list(samples)
    return str(raised.value)


def feeds(samples: Samples, name: str = "x") -> list[Array]:
    return [sample.feed[name] for sample in samples]


def equal(found: list[Array], expected: list[Array] | Array) -> bool:
    return len(found) == len(expected) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(found, expected, strict=True)
    )


def function(folder: Path, body: str, *, module: str = "given") -> PythonFunction:
    """A module beside the spec whose function `samples` has this body."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    (folder / f"{module}.py").write_text(f"import numpy as np\n\ndef samples():\n{lines}\n")
    return PythonFunction(function=f"{module}:samples")


def places(samples: Samples) -> list[str]:
    return [sample.place for sample in samples]


def labels_of(samples: Samples) -> list[list[int]]:
    return [_labels(sample) for sample in samples]


def _labels(sample: Sample) -> list[int]:
    assert sample.labels is not None
    found: list[int] = sample.labels.tolist()
    return found
