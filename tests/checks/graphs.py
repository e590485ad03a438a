"""Small graphs in low types, and running them and their twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from engineforge.checks.run import Graph
from engineforge.checks.twin import twin
from engineforge.samples.sample import Sample

Array = npt.NDArray[Any]
Value = tuple[str, int, list[Any]]

F32, F16, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    weights: Sequence[TensorProto] = (),
    *,
    opset: int = 21,
) -> ModelProto:
    """Types are not checked here: that is what the tests are about."""
    for i, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}_{i}"
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run(made: ModelProto, folder: Path, feed: Mapping[str, Array]) -> dict[str, Array]:
    """By ONNX Runtime, as it stands."""
    path = folder / "run.onnx"
    onnx.save(made, path)
    return Graph(path, called="the graph")(sample(feed))


def run_twin(made: ModelProto, folder: Path, feed: Mapping[str, Array]) -> dict[str, Array]:
    return run(twin(made), folder, feed)


def reference(made: ModelProto, feed: Mapping[str, Array]) -> dict[str, Array]:
    """By ONNX's own evaluator, which computes in the types of the graph."""
    names = [value.name for value in made.graph.output]
    found: list[Array] = ReferenceEvaluator(made).run(None, dict(feed))  # type: ignore[assignment]
    return {n: np.asarray(each).astype(np.float32) for n, each in zip(names, found, strict=True)}


def sample(feed: Mapping[str, Array], labels: Array | None = None, place: str = "s") -> Sample:
    return Sample(feed, labels, place)


def constant(name: str, values: Any, elem_type: int) -> TensorProto:  # noqa: ANN401 - array-like
    array = np.asarray(values, np.float32)
    return helper.make_tensor(name, elem_type, array.shape, array.ravel().tolist())
