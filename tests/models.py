"""Small ONNX models, made when a test asks for them; weights are seeded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dim = int | str | None


def convnet(
    path: Path,
    *,
    seed: int = 0,
    dims: Sequence[Dim] = ("batch", 3, 16, 16),
    external: str | None = None,
    doc: str = "",
    producer: str = "tests",
    channels: int = 16,
) -> Path:
    """conv 3→`channels`, ReLU, global average, Gemm to 10: `image` to `logits`.

    `external` is the name of a file beside the model that takes the weights.
    """
    random = np.random.default_rng(seed)
    weights = {
        "conv.weight": random.standard_normal((channels, 3, 3, 3)) * 0.1,
        "fc.weight": random.standard_normal((10, channels)) * 0.1,
    }
    nodes = [
        helper.make_node(
            "Conv",
            ["image", "conv.weight"],
            ["conv"],
            name="/conv/Conv",
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            doc_string=doc,
        ),
        helper.make_node("Relu", ["conv"], ["relu"], name="/relu/Relu"),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"], name="/pool/Pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], name="/flat/Flatten"),
        helper.make_node("Gemm", ["flat", "fc.weight"], ["logits"], name="/head/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "convnet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [dims[0], 10])],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
        doc_string=doc,
    )
    return save(graph, path, external=external, producer=producer)


def elementwise(
    path: Path, *, inputs: Sequence[tuple[str, Sequence[Dim]]], length: int = 1
) -> Path:
    """Adds all inputs, then `length` ReLUs: no weights, any number of inputs."""
    nodes, total = [], inputs[0][0]
    for name, _ in inputs[1:]:
        nodes.append(helper.make_node("Add", [total, name], [f"sum_{name}"], name=f"add_{name}"))
        total = f"sum_{name}"
    for i in range(length):
        nodes.append(
            helper.make_node("Relu" if i % 2 else "Tanh", [total], [f"y{i}"], name=f"n{i}")
        )
        total = f"y{i}"
    graph = helper.make_graph(
        nodes,
        "elementwise",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in inputs],
        [helper.make_tensor_value_info(total, TensorProto.FLOAT, inputs[0][1])],
    )
    return save(graph, path)


def branches(path: Path, tensor: TensorProto) -> Path:
    """An If whose branches both give `tensor`, a constant: weights in subgraphs and attributes."""
    dims = list(tensor.dims)
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["out"], value=tensor)],
        "branch",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, dims)],
    )
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
    )
    return save(graph, path)


def save(
    graph: onnx.GraphProto,
    path: Path,
    *,
    external: str | None = None,
    producer: str = "tests",
    domains: Mapping[str, int] | None = None,
) -> Path:
    versions = {"": 17, **(domains or {})}
    opsets = [helper.make_opsetid(name, version) for name, version in versions.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name=producer)
    path.parent.mkdir(parents=True, exist_ok=True)
    if external is None:
        onnx.save(model, path)
    else:
        (path.parent / external).unlink(missing_ok=True)
        onnx.save(model, path, save_as_external_data=True, location=external, size_threshold=0)
    return path
