"""The twin of a typed graph: the same graph in FP32 arithmetic, with every tensor that is FP16 or
BF16 rounded to what that type holds.

ONNX Runtime runs it on a CPU and shows what the typed graph computes: it has no BF16 kernels, and
computes FP16 graphs in FP32 between casts, so that an overflow stays hidden. Quantization (INT8,
FP8, INT4) stays as it is, with scales in FP32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    helper,
    numpy_helper,
)

from engineforge.checks.tensor_types import LOW, infer, types_of
from engineforge.checks.weights import Weights
from engineforge.stages.precision.graph import graphs, subgraphs
from engineforge.stages.sources.onnx import type_name

# What ONNX Runtime 1.31 reads; later ones add nothing that a twin could hold.
_NEWEST_IR = 13
_MARK = "engineforge"
_ROUNDING = "rounding"
_LOW_NAMES = {type_name(each): each for each in LOW}
_STANDARD = ("", "ai.onnx")

# fmt: off
MOVERS = frozenset({
    "Abs", "Compress", "Concat", "ConcatFromSequence", "Constant", "ConstantOfShape",
    "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
    "GlobalMaxPool", "Identity", "If", "Loop", "Max", "MaxPool", "Min", "Neg", "Optional",
    "OptionalGetElement", "Relu", "ReduceMax", "ReduceMin", "Reshape", "ReverseSequence", "Scan",
    "SequenceAt", "SequenceConstruct", "Sign", "Slice", "SpaceToDepth", "Split", "SplitToSequence",
    "Squeeze", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where",
})
"""Operators that give values as they got them, so that rounding those again is idle."""
# fmt: on
# Attributes that hold a type to compute in or to give, on whatever operator.
_TYPE_ATTRIBUTES = ("dtype", "output_dtype", "output_datatype", "stash_type", "precision")


def twin(model: ModelProto, *, weights: Weights | None = None) -> ModelProto:
    """The twin: no tensor in it is FP16 or BF16, except between the two casts that round.

    Inputs and outputs that were low are FP32, an input is rounded first. Tensors keep their names
    and nodes theirs. An output that was low is `wide(low(op(x)))`, where `op` runs in FP32 and
    `low` rounds to nearest, ties to even, and gives infinity beyond the range.
    `weights` is where the model's initializers are held and those of the twin will be; without it
    they must be in the model. A new model, the given one is left alone.
    """
    return _wide(model, rounds=True, weights=weights)


def widened(model: ModelProto, *, weights: Weights | None = None) -> ModelProto:
    """The same without any rounding: what FP32 arithmetic makes of the model's own weights. It is
    what a model that is low itself is compared with."""
    return _wide(model, rounds=False, weights=weights)


def has_low_types(model: ModelProto) -> bool:
    """Whether any tensor is FP16 or BF16, so that running the model as it is would not do."""
    return any(
        elem_type in LOW
        for graph in graphs(infer(model).model.graph)
        for elem_type in types_of(graph).values()
    )


def assumed(model: ModelProto) -> list[str]:
    """Of a twin: the tensors whose type was assumed, as no schema of ONNX knows it."""
    held = (each.value.splitlines() for each in model.metadata_props if each.key == _MARK)
    return next(held, [])


def is_rounding(node: NodeProto) -> bool:
    """Whether a node of a twin is one of the two casts that round what another one makes."""
    return any(each.key == _MARK and each.value == _ROUNDING for each in node.metadata_props)


def low_types(graph: GraphProto) -> dict[str, int]:
    """Of a twin's graph: what was low in the typed graph, and which type it had."""
    return {
        value.name: _LOW_NAMES[each.value]
        for value in graph.value_info
        for each in value.metadata_props
        if each.key == _MARK
    }


def rounding(exact: str, low: str, to: int, wide: str) -> Iterator[NodeProto]:
    """The two casts, from the tensor `exact` to `wide`."""
    for source, result, elem_type in ((exact, low, to), (low, wide, TensorProto.FLOAT)):
        node = helper.make_node("Cast", [source], [result], name=f"{result}/round", to=elem_type)
        node.metadata_props.add(key=_MARK, value=_ROUNDING)
        yield node


def _wide(model: ModelProto, *, rounds: bool, weights: Weights | None) -> ModelProto:
    typed = infer(model)
    made = typed.model
    made.ir_version = min(model.ir_version, _NEWEST_IR)
    if typed.assumed:
        made.metadata_props.add(key=_MARK, value="\n".join(typed.assumed))
    _Widening(rounds=rounds).graph(made.graph, {}, {}, main=True)
    del made.graph.initializer[:]
    for tensor in model.graph.initializer:
        made.graph.initializer.append(_wide_tensor(tensor, weights))
    return made


class _Widening:
    """One pass over a graph whose `value_info` tells all types; `rounds` says whether outputs are
    rounded."""

    def __init__(self, *, rounds: bool) -> None:
        self._rounds = rounds

    def graph(
        self, graph: GraphProto, outer: Mapping[str, int], names: Mapping[str, str], *, main: bool
    ) -> None:
        """Rewrites it. `outer` are types, and `names` other names, of what it may capture."""
        own = types_of(graph)
        types = {**outer, **own}
        nodes: list[NodeProto] = []
        if main and self._rounds:
            given = {tensor.name for tensor in graph.initializer}
            names = {
                each.name: f"{each.name}/rounded"
                for each in graph.input
                if types[each.name] in LOW and each.name not in given
            }
            for name, rounded in names.items():
                nodes += rounding(name, f"{name}/low", types[name], rounded)
        for node in graph.node:
            for i, name in enumerate(node.input):
                node.input[i] = names.get(name, name)
            for inner in subgraphs(node):
                self.graph(inner, types, names, main=False)
            nodes += self._node(node, types)
        for tensor in () if main else graph.initializer:
            tensor.CopyFrom(_wide_tensor(tensor))
        for sparse in graph.sparse_initializer:
            sparse.values.CopyFrom(_wide_tensor(sparse.values))
        for value in (*graph.input, *graph.output):
            _widen_type(value.type)
        del graph.value_info[:]
        for name, elem_type in own.items():
            if elem_type in LOW:
                _mark_low(graph, names.get(name, name), elem_type)
        # Detached messages live on as long as something refers to them.
        del graph.node[:]
        graph.node.extend(nodes)

    def _node(self, node: NodeProto, types: Mapping[str, int]) -> Iterable[NodeProto]:
        standard = node.domain in _STANDARD
        to_low = standard and node.op_type == "Cast" and self._rounds
        for attribute in node.attribute:
            if not (to_low and attribute.name == "to"):
                _widen_attribute(attribute, node)
        nodes = [node]
        if not self._rounds or (standard and node.op_type in MOVERS):
            return nodes
        for i, name in enumerate(node.output):
            to = types.get(name, TensorProto.UNDEFINED)
            if not name or to not in LOW:
                continue
            node.output[i] = f"{name}/exact"
            low, wide = rounding(node.output[i], f"{name}/low", to, name)
            if to_low:  # it is the first of the two casts itself
                wide.input[0] = node.output[i]
            nodes += [wide] if to_low else [low, wide]
        return nodes


def _mark_low(graph: GraphProto, name: str, elem_type: int) -> None:
    value = graph.value_info.add(name=name)
    value.type.tensor_type.elem_type = TensorProto.FLOAT
    value.metadata_props.add(key=_MARK, value=type_name(elem_type))


def _wide_tensor(tensor: TensorProto, weights: Weights | None = None) -> TensorProto:
    """A tensor of low type in FP32, which holds each of its values; any other as it is."""
    if tensor.data_type not in LOW:
        return weights.hold(tensor) if weights else tensor
    values = weights.array(tensor) if weights else numpy_helper.to_array(tensor)
    made = numpy_helper.from_array(values.astype(np.float32), tensor.name)
    return weights.hold(made) if weights else made


def _widen_attribute(attribute: AttributeProto, node: NodeProto) -> None:
    if attribute.HasField("t"):
        attribute.t.CopyFrom(_wide_tensor(attribute.t))
    for tensor in attribute.tensors:
        tensor.CopyFrom(_wide_tensor(tensor))
    if attribute.HasField("tp"):
        _widen_type(attribute.tp)
    names_type = attribute.name in _TYPE_ATTRIBUTES or (
        node.op_type == "Cast" and attribute.name == "to"
    )
    if names_type and attribute.i in LOW:
        attribute.i = TensorProto.FLOAT


def _widen_type(type_: TypeProto) -> None:
    if type_.HasField("sequence_type"):
        _widen_type(type_.sequence_type.elem_type)
    elif type_.HasField("optional_type"):
        _widen_type(type_.optional_type.elem_type)
    elif type_.HasField("map_type"):
        _widen_type(type_.map_type.value_type)
    elif type_.HasField("tensor_type") and type_.tensor_type.elem_type in LOW:
        type_.tensor_type.elem_type = TensorProto.FLOAT
