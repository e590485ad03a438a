"""The element type of every tensor of a graph, found without its weights.

ONNX's shape inference knows them; behind an operator that ONNX does not know they are assumed, and
the assumption is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.inliner import inline_local_functions

from engineforge.errors import EngineForgeError
from engineforge.stages.precision.graph import graphs, subgraphs

LOW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
"""The types that a twin computes in FP32 and rounds to."""

FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, *LOW)
_INLINE = 1024  # below this shape inference may want the value


@dataclass(frozen=True, slots=True)
class Typed:
    """A copy of a model whose `value_info` tells the type of every tensor, in subgraphs too.

    Its functions are inlined, and its large initializers hold no values. `assumed` are the tensors
    whose type is that of the first float input of what makes them, for want of knowledge.
    """

    model: ModelProto
    assumed: tuple[str, ...]


def infer(model: ModelProto) -> Typed:
    """The types of a model that is left alone."""
    skeleton = inlined(_skeleton(model))
    for graph in graphs(skeleton.graph):
        # Tools leave the types of before a conversion here, and inference would hold to them.
        del graph.value_info[:]
    assumed: list[str] = []
    while True:
        skeleton = _inferred(skeleton)
        found = list(_unknown(skeleton.graph, {}))
        if not found:
            return Typed(skeleton, tuple(assumed))
        for graph, name, elem_type in found:
            graph.value_info.add(name=name).type.tensor_type.elem_type = elem_type
            assumed.append(name)


def inlined(model: ModelProto) -> ModelProto:
    """The model without functions of its own: each call of one is replaced by its nodes."""
    if not model.functions:
        return model
    made: ModelProto = inline_local_functions(model)
    return made


def types_of(graph: GraphProto) -> dict[str, int]:
    """The element types of what the graph itself names; sequences and the like are UNDEFINED."""
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: _elem_type(value) for value in values}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    types.update({each.values.name: each.values.data_type for each in graph.sparse_initializer})
    return types


def _elem_type(value: ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else 0


def _skeleton(model: ModelProto) -> ModelProto:
    skeleton = ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL and tensor.ByteSize() < _INLINE:
            graph.initializer.add().CopyFrom(tensor)
            continue
        stub = graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        stub.data_location = TensorProto.EXTERNAL
        stub.external_data.add(key="location", value="weights")
    return skeleton


def _inferred(skeleton: ModelProto) -> ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(skeleton, check_type=False, strict_mode=False)
    except onnx.shape_inference.InferenceError as error:
        raise EngineForgeError(f"the types of the graph contradict each other: {error}") from error


def _unknown(graph: GraphProto, outer: Mapping[str, int]) -> Iterator[tuple[GraphProto, str, int]]:
    """Tensors without a type whose maker has all of its inputs typed, and the type to assume."""
    types = {**outer, **types_of(graph)}
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _unknown(inner, types)
        if all(name in types for name in node.input if name):
            for name in node.output:
                if name and name not in types:
                    yield graph, name, _assumed(node, types)


def _assumed(node: NodeProto, types: Mapping[str, int]) -> int:
    known = [types[name] for name in node.input if name]
    if node.op_type == "QuantizeLinear":
        return known[2] if len(known) > 2 else TensorProto.UINT8  # noqa: PLR2004 - x, scale, zero
    if node.op_type == "DequantizeLinear":
        return known[1]
    return next((each for each in known if each in FLOATS), TensorProto.UNDEFINED)
