"""A model made ready for tools: constants as initializers, large weights in one file that can be
mapped and changed, an opset that can say what is wanted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from engineforge.stages.precision.graph import (
    MODEL,
    ONNX,
    WEIGHTS,
    NotConvertible,
    bring,
    copied,
    graphs,
    hollow,
    name_nodes,
    named,
    nodes,
    opset_of,
    refill,
    subgraphs,
)

_FEWEST_IR = 4  # before it, initializers had to be inputs too


def prepare(bound: Path, *, opset: int, out: Path) -> Path:
    """The model as tools take it, as a file in the folder `out`, which must be empty.

    Every node has a name of its own, constants are initializers, initializers are no inputs, and
    the opset is raised to `opset` where it is lower. Large weights are beside it in one file that
    can be changed in place; ONNX Runtime can map it. `bound` may be beside links to its weights.
    """
    model = named(bound)
    _fold(model.graph, {}, frozenset())
    with (out / WEIGHTS).open("xb") as weights:
        for tensor in model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                bring(tensor, bound, weights)
    for tensor in _inner(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            bring(tensor, bound, None)
    if opset_of(model) < opset:
        model = _raised(model, opset)
    initializers = {tensor.name for tensor in model.graph.initializer}
    _say_kernel_shapes(model)
    inputs = [value for value in model.graph.input if value.name not in initializers]
    model.graph.ClearField("input")
    model.graph.input.extend(inputs)
    lowest = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
    model.ir_version = max(model.ir_version, lowest, _FEWEST_IR)
    model.graph.ClearField("value_info")
    path = out / MODEL
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def _say_kernel_shapes(model: ModelProto) -> None:
    """ONNX lets a convolution leave its kernel's shape to its weights; TensorRT 8 does not find it
    there once they are quantized."""
    weights = {t.name: t.dims for graph in graphs(model.graph) for t in graph.initializer}
    for node in nodes(model):
        said = any(attribute.name == "kernel_shape" for attribute in node.attribute)
        if node.op_type in ("Conv", "ConvTranspose") and not said and node.input[1] in weights:
            shape = weights[node.input[1]][2:]
            node.attribute.append(onnx.helper.make_attribute("kernel_shape", list(shape)))


def _fold(graph: GraphProto, renamed: Mapping[str, str], constants: frozenset[str]) -> None:
    """Turn Constant nodes into initializers, and read an initializer where an Identity of it was
    read. What the graph gives out stays as it is, since an output has to be a node's."""
    renamed = dict(renamed)
    known = {*constants, *(tensor.name for tensor in graph.initializer)}
    outputs = {value.name for value in graph.output}
    left = []
    for node in graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = renamed.get(name, name)
        if node.domain in ONNX and node.output and node.output[0] not in outputs:
            if node.op_type == "Constant" and (tensor := _constant(node)) is not None:
                tensor.name = node.output[0]
                graph.initializer.append(tensor)
                known.add(tensor.name)
                continue
            if node.op_type == "Identity" and node.input[0] in known:
                renamed[node.output[0]] = node.input[0]
                continue
        for inner in subgraphs(node):
            _fold(inner, renamed, frozenset(known))
        left.append(node)
    if len(left) < len(graph.node):
        kept = GraphProto(node=left)
        graph.ClearField("node")
        graph.node.extend(kept.node)


def _constant(node: NodeProto) -> TensorProto | None:
    """The value of a Constant; None for texts and sparse tensors, which stay nodes."""
    attribute = node.attribute[0]
    value: NDArray[Any]
    match attribute.name:
        case "value":
            tensor = TensorProto()
            tensor.CopyFrom(attribute.t)
            return tensor
        case "value_float":
            value = np.array(attribute.f, np.float32)
        case "value_floats":
            value = np.array(attribute.floats, np.float32)
        case "value_int":
            value = np.array(attribute.i, np.int64)
        case "value_ints":
            value = np.array(attribute.ints, np.int64)
        case _:
            return None
    return numpy_helper.from_array(value)


def _raised(model: ModelProto, opset: int) -> ModelProto:
    before = opset_of(model)
    # The converter reads initializers of old models as inputs, and cannot carry external data.
    model.ir_version = max(model.ir_version, _FEWEST_IR)
    taken = hollow(model)
    try:
        raised = onnx.version_converter.convert_version(model, opset)
        # It goes by what it has a converter for, and does not look at the result.
        onnx.checker.check_model(_checkable(raised), full_check=True)
    except Exception as error:  # the converter's and the checker's have no parent but Exception
        said = " ".join(str(error).split())
        raise NotConvertible(
            f"the model has opset {before}, this precision needs {opset}, and ONNX cannot raise "
            f"it: {said}",
            hint=f"export the model with opset {opset}",
        ) from error
    refill(raised, taken)
    _fold(raised.graph, {}, frozenset())
    name_nodes(raised)
    return raised


def _checkable(model: ModelProto) -> ModelProto:
    """A copy that ONNX's checker takes: without values, as external data in an empty place."""
    copy = copied(model)
    empty = [t for t in copy.graph.initializer if math.prod(t.dims) and not _has_values(t)]
    for tensor in empty:
        copy.graph.initializer.remove(tensor)
        copy.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    return copy


def _has_values(tensor: TensorProto) -> bool:
    return bool(
        tensor.raw_data
        or tensor.float_data
        or tensor.int32_data
        or tensor.int64_data
        or tensor.double_data
        or tensor.uint64_data
        or tensor.string_data
    )


def _inner(model: ModelProto) -> Iterator[TensorProto]:
    """Tensors that are no initializer of the main graph: ONNX Runtime takes none of them outside
    the model's file."""
    for depth, graph in enumerate(graphs(model.graph)):
        if depth:
            yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from (attribute.t, *attribute.tensors)
