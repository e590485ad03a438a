"""What of a model not every GPU and every TensorRT can run."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import GraphProto, ModelProto, TensorProto

from engineforge.stages.sources.graph import graphs, nodes

# ONNX element type -> the feature that not every GPU has.
_TYPE_FEATURES: dict[int, str] = {
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.FLOAT8E4M3FN: "fp8-e4m3",
    TensorProto.FLOAT8E5M2: "fp8-e5m2",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "int4",
    TensorProto.FLOAT4E2M1: "fp4",
}


# From opset 18 on, their axes are an input: TensorRT 8 looks for an attribute, and reduces all.
_REDUCE = frozenset(
    f"Reduce{each}"
    for each in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
)


def features_of(model: ModelProto) -> dict[str, str]:
    """What of the graph needs a certain GPU or TensorRT, each with the first place that has it."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=False)
    found: dict[str, str] = {}
    for node in nodes(inferred):
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            found.setdefault("quantized", node.name or node.op_type)
        if node.op_type in _REDUCE and len(node.input) > 1 and node.input[1]:
            found.setdefault("reduce-axes", node.name or node.op_type)
    for graph in graphs(inferred):
        types = _types(graph)
        for name, elem_type in types.items():
            if feature := _TYPE_FEATURES.get(elem_type):
                found.setdefault(feature, name)
        for node in graph.node:
            where = node.name or next(iter(node.output), node.op_type)
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") and (
                types.get(node.input[1]) in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
            ):
                found.setdefault("low-scales", where)
            if node.op_type in ("MatMul", "Gemm") and any(
                types.get(name) == TensorProto.FLOAT for name in (*node.output, *node.input[:2])
            ):
                found.setdefault("fp32-gemm", where)
    return dict(sorted(found.items()))


def float_types(model: ModelProto) -> dict[str, str]:
    """HALF or FLOAT, in TensorRT's words, of every tensor that is one of the two, by name."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=False)
    words: dict[int, str] = {TensorProto.FLOAT16: "HALF", TensorProto.FLOAT: "FLOAT"}
    return {
        name: words[elem_type]
        for graph in graphs(inferred)
        for name, elem_type in _types(graph).items()
        if elem_type in words
    }


def _types(graph: GraphProto) -> dict[str, int]:
    values: Iterable[onnx.ValueInfoProto] = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    return types
