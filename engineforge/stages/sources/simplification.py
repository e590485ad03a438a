"""Constants folded and nodes that do nothing removed, by onnxslim kept to what it does soundly and
to the names that nodes have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from engineforge.spec.model import ModelInterface
from engineforge.stages.precision.graph import (
    ONNX,
    bring,
    copied,
    drop_unread,
    graphs,
    nodes,
    subgraphs,
)
from engineforge.stages.sources import SourceFailed
from engineforge.stages.sources.onnx import references

Message = AttributeProto | NodeProto | TensorProto | ValueInfoProto

# What onnxslim may not do. Fusions give nodes other names, or the names of others; equal nodes that
# become one take a name away, and a Clip from below and one from above are equal to it; tying
# weights saves bytes alone. TensorRT does what is of use in these itself.
_NOT_ASKED = ("graph_fusion", "subexpression_elimination", "weight_tying")
_FOLD_BYTES = 1 << 24  # results above, and weights, are left for TensorRT to fold
_LOADED_BYTES = 1 << 29
_MOST_ROUNDS = 10
_RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
_QUANTIZERS = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"))


def simplified(model: ModelProto, path: Path, interface: ModelInterface) -> ModelProto:
    """Constants folded and nodes that do nothing removed, until no more are found; SourceFailed
    where that cannot be done. `interface` is that of the model in the file `path`, which the model
    has its weights from."""
    for node in nodes(model):
        if node.op_type in _RANDOM:
            raise SourceFailed(
                f"node '{node.name}' ({node.op_type}) gives random numbers, and folding would give "
                "the same ones ever after",
                hint="leave 'simplify' out for this model",
            )
    for _ in range(_MOST_ROUNDS):
        before = [node.SerializeToString(deterministic=True) for node in model.graph.node]
        model = _simpler(model, path, interface)
        if before == [node.SerializeToString(deterministic=True) for node in model.graph.node]:
            break
    return model


def _simpler(model: ModelProto, path: Path, interface: ModelInterface) -> ModelProto:
    from onnxslim import slim

    copy = copied(model)
    held = _hold_weights(copy, path)
    _claim_nothing(copy, interface)
    # By ONNX's inference alone: the library's own is ONNX Runtime's symbolic one.
    copy = onnx.shape_inference.infer_shapes(copy, data_prop=True)
    try:
        made: ModelProto = slim(
            copy,
            no_shape_infer=True,
            skip_optimizations=[*_NOT_ASKED],
            size_threshold=_FOLD_BYTES,
        )
    except Exception as error:  # a library that raises what it likes
        said = " ".join(str(error).split())
        raise SourceFailed(
            f"onnxslim cannot simplify the model: {type(error).__name__}: {said}",
            hint="leave 'simplify' out: TensorRT folds constants itself",
        ) from error
    for graph in graphs(made.graph):
        del graph.value_info[:]
    put(made.graph.input, model.graph.input)
    put(made.graph.output, model.graph.output)
    made.graph.initializer.extend(held)
    drop_unread(made)
    return made


def _hold_weights(model: ModelProto, path: Path) -> list[TensorProto]:
    """Make inputs of the large weights that nothing is folded from, and load the others. Returns
    those that are inputs now."""
    graph = model.graph
    _lift(graph)
    sources, loaded, names = _folded_from(graph), 0, set()
    sizes = {each.tensor.name: each.length for each in references(model, path)}
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            size = sizes[tensor.name]
            if tensor.name in sources and size <= _FOLD_BYTES and loaded + size <= _LOADED_BYTES:
                loaded += size
            else:
                names.add(tensor.name)
    held = [*GraphProto(initializer=[x for x in graph.initializer if x.name in names]).initializer]
    put(graph.initializer, [each for each in graph.initializer if each.name not in names])
    for tensor in held:
        value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        graph.input.append(value)
    for reference in references(model, path):
        bring(reference.tensor, path, None)
    return held


def _lift(graph: GraphProto) -> None:
    """Turn large Constant nodes into initializers, which need not be loaded."""
    outputs, left = {value.name for value in graph.output}, []
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ONNX and node.output[0] not in outputs:
            value = node.attribute[0].t
            if value.data_location == TensorProto.EXTERNAL:
                graph.initializer.add().CopyFrom(value)
                graph.initializer[-1].name = node.output[0]
                continue
        left.append(node)
    put(graph.node, left)


def _folded_from(graph: GraphProto) -> set[str]:
    """The tensors that a node reads which reads constants alone."""
    constant = {tensor.name for tensor in graph.initializer}
    read = set()
    for node in graph.node:
        names = {name for name in reads(node) if name}
        if names <= constant and node.op_type not in _QUANTIZERS:
            read |= names
            constant |= {*node.output}
    return read


def _claim_nothing(model: ModelProto, interface: ModelInterface) -> None:
    """Leave no shape to rely on but those of inputs, since exporters write down wrong ones, and
    give each of their axes that has no name one of its own: two of them are not one size."""
    for graph in graphs(model.graph):
        del graph.value_info[:]
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    dims = {each.name: each.dims for each in interface.inputs}
    for value in model.graph.input:
        for axis, size in enumerate(dims.get(value.name, ())):
            if size is None:
                dim = value.type.tensor_type.shape.dim[axis]
                dim.dim_param = f"{value.name}, axis {axis}"


def put(field: Any, messages: Iterable[Message]) -> None:  # noqa: ANN401 - a list of protobuf's
    """Let a repeated field hold just these, which may be some of its own."""
    kept = [type(each).FromString(each.SerializeToString()) for each in messages]
    del field[:]
    field.extend(kept)


def reads(node: NodeProto) -> Iterator[str]:
    """What a node reads, graphs inside it included."""
    yield from node.input
    for inner in subgraphs(node):
        yield from (value.name for value in inner.output)
        for each in inner.node:
            yield from reads(each)
