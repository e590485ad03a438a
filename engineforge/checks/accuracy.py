"""What was made of a model against its source, over a data set: streamed, sample by sample. The
source runs on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto

from engineforge.checks import twin as twins
from engineforge.checks.metrics import Array, Distance
from engineforge.checks.run import CheckError, Graph
from engineforge.checks.weights import Weights
from engineforge.samples.sample import Sample
from engineforge.stages.sources.onnx import read_model

Measured = dict[str, Any]
Outputs = Mapping[str, Array]


class Runnable(Protocol):
    """What gives outputs for a sample; `called` is what messages call it."""

    @property
    def called(self) -> str: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def __call__(self, sample: Sample, names: Sequence[str] | None = None) -> Outputs: ...


def measure(
    source: Path, typed: Path, samples: Iterable[Sample], *, class_axis: int, scratch: Path
) -> Measured:
    """How far the typed graph is from the source, as its twin shows it.

    `source` and `typed` are ONNX files that load where they stand, with inputs and outputs of equal
    names; their types may differ. `scratch` is an empty folder: it takes the weights of the twin
    and, where the source is not FP32 itself, those of the source in FP32 arithmetic, which the
    twin is then compared with.

    Returns `{"samples": how many, "outputs": {name: measures}, "assumed": [tensors]}`: measures as
    metrics.py defines them, and the tensors whose type was assumed. CheckError where a graph cannot
    be run, a source's output is not finite, or there is no sample.
    """
    twin, assumed = rewritten(typed, twins.twin, scratch / "twin")
    graph = Graph(twin, called="the typed graph")
    exact = reference(source, scratch)
    return {
        **compared(expected_of(exact, samples), graph, class_axis=class_axis),
        "assumed": assumed,
    }


def reference(source: Path, scratch: Path) -> Graph:
    """The source ready to run, in FP32 arithmetic where it is not FP32 itself."""
    if twins.has_low_types(read_model(source)):
        source = rewritten(source, twins.widened, scratch / "source")[0]
    return Graph(source, called="the source graph")


def expected_of(exact: Graph, samples: Iterable[Sample]) -> Iterator[tuple[Sample, Outputs]]:
    """Each sample with what the source gives for it."""
    return ((sample, checked(exact(sample), sample)) for sample in samples)


def rewritten(
    path: Path, rewrite: Callable[..., ModelProto], folder: Path
) -> tuple[Path, list[str]]:
    """A model file's twin as a file in a new folder, and what was assumed of it."""
    folder.mkdir()
    weights = Weights(folder)
    made = rewrite(weights.read(path), weights=weights)
    return weights.write(made, "model"), twins.assumed(made)


def compared(
    expected: Iterable[tuple[Sample, Outputs]], graph: Runnable, *, class_axis: int
) -> Measured:
    """The measures of a graph against outputs that are known."""
    distances: dict[str, Distance] = {}
    count = 0
    for sample, outputs in expected:
        if not distances:
            distances = {name: Distance(class_axis) for name in outputs}
            if missing := sorted(set(outputs) - set(graph.outputs)):
                raise CheckError(f"{graph.called} has no output '{missing[0]}'")
        found = graph(sample, list(outputs))
        for name, array in outputs.items():
            if array.shape != found[name].shape:
                raise CheckError(
                    f"output '{name}' is {list(array.shape)} from the source graph and "
                    f"{list(found[name].shape)} from {graph.called}, on {sample.place}"
                )
            distances[name].add(array, found[name], sample.labels)
        count += 1
    if not count:
        raise CheckError("there are no samples to compare on", hint="name data that has some")
    return {"samples": count, "outputs": {n: each.result() for n, each in distances.items()}}


def checked(outputs: Outputs, sample: Sample) -> Outputs:
    """The source's outputs; CheckError where one is infinite or not a number, as nothing can be
    compared with that."""
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise CheckError(
                f"the source graph gives values in '{name}' that are not finite, on {sample.place}",
                hint="look at that sample, and at the model in FP32",
            )
    return outputs
