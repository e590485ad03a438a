"""A graph's FP32 tensors made FP16, node by node, as ONNX's own operator schemas allow it.

Weights are converted one at a time, values in between by Casts where two neighbours differ.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from engineforge.stages.precision.graph import (
    NotConvertible,
    array_of,
    copied,
    drop_unread,
    graphs,
    hollow,
    opset_of,
    put,
    subgraphs,
)

_HIGH, _LOW = TensorProto.FLOAT, TensorProto.FLOAT16
_WORDS: dict[int, str] = {_HIGH: "fp32", _LOW: "fp16"}
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = np.float16(2**-24)
# What these read may have any type, and need not be converted for them.
_READS_ANY = frozenset({"Cast", "Shape", "Size"})
# Where sizes come from. What is computed of sizes alone is exact in FP32 only, and TensorRT takes
# no shapes in FP16.
_SIZES = frozenset({"Shape", "Size"})
# Sequences keep the type that they have.
_OF_SEQUENCES = frozenset(
    {
        "ConcatFromSequence",
        "Optional",
        "OptionalGetElement",
        "SequenceAt",
        "SequenceConstruct",
        "SequenceEmpty",
        "SequenceErase",
        "SequenceInsert",
        "SequenceMap",
        "SplitToSequence",
    }
)
_CONTAINERS = frozenset({"If", "Loop", "Scan"})
# Attributes that name the type of an output, and operators whose output is FP32 without one.
_TYPE_ATTRIBUTES = ("to", "dtype")
_FLOAT_UNLESS_TOLD = frozenset({"RandomNormal", "RandomUniform"})


def lower(model: ModelProto, path: Path, *, keep: Collection[str], keep_io_types: bool) -> None:
    """Give every node but those of `keep` FP16, where its operator has FP16 at all.

    The large weights are those of the prepared model `path`, where new ones are put. What is not
    zero does not become zero: 1e-12, added so that nobody divides by zero, becomes the smallest
    FP16 number. NotConvertible where a weight is out of FP16's range.
    """
    model.graph.ClearField("value_info")
    typed = _typed(model)
    _Lowering(
        path=path,
        opset=opset_of(model),
        keep=frozenset(keep),
        keep_io_types=keep_io_types,
        taken=_names(model.graph),
    ).run(model, typed)


def to_low(array: NDArray[Any], tensor: str, node: str) -> NDArray[np.float16]:
    """The values in FP16; NotConvertible where a finite one would become infinite."""
    with np.errstate(over="ignore", under="ignore"):
        low = array.astype(np.float16)
    if not np.isfinite(low).all():
        lost = np.isinf(low) & np.isfinite(array)
        if lost.any():
            largest = array[lost].flat[np.argmax(np.abs(array[lost]))]
            raise NotConvertible(
                f"tensor '{tensor}' of node '{node}' has the value {largest:g}, and fp16 ends at "
                f"{_LARGEST:g}",
                hint=f"keep_fp32: ['{node}'], or tool: modelopt, which keeps such nodes by itself",
            )
    gone = (low == 0) & (array != 0)
    if gone.any():
        low[gone] = np.copysign(_SMALLEST, array[gone])
    return low


@dataclass(slots=True)
class _Scope:
    """What is known in one graph: the element types of float tensors, as they are now, and copies
    of tensors in the other type. A name that is not here may be in `outer`."""

    graph: GraphProto
    outer: _Scope | None = None
    types: dict[str, int] = field(default_factory=dict)
    sizes: set[str] = field(default_factory=set)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    copies: dict[tuple[str, int], str] = field(default_factory=dict)

    def chain(self) -> Iterator[_Scope]:
        scope: _Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.outer

    def type_of(self, name: str) -> int | None:
        return next((s.types[name] for s in self.chain() if name in s.types), None)

    def holder_of(self, name: str) -> _Scope | None:
        """The scope whose graph has an initializer of that name."""
        return next((s for s in self.chain() if name in s.constants), None)


@dataclass(slots=True, kw_only=True)
class _Lowering:
    path: Path
    opset: int
    keep: frozenset[str]
    keep_io_types: bool
    taken: set[str]
    copied: dict[str, str] = field(default_factory=dict)

    def run(self, model: ModelProto, typed: ModelProto) -> None:
        outputs = _HIGH if self.keep_io_types else _LOW
        scope = _Scope(model.graph)
        for value in model.graph.input:
            if not self.keep_io_types and _is_float(value):
                value.type.tensor_type.elem_type = _LOW
        self._graph(model.graph, typed.graph, scope, outputs=outputs, kept=False)
        for value in model.graph.output:
            if not self.keep_io_types and _is_float(value):
                value.type.tensor_type.elem_type = _LOW
        drop_unread(model)
        left = {tensor.name for graph in graphs(model.graph) for tensor in graph.initializer}
        # A weight that is FP16 for all who read it keeps its name.
        names = {copy: name for copy, name in self.copied.items() if name not in left}
        for each in (*model.graph.node, *(t for g in graphs(model.graph) for t in g.initializer)):
            _rename(each, names)

    def _graph(
        self, graph: GraphProto, typed: GraphProto, scope: _Scope, *, outputs: int, kept: bool
    ) -> None:
        """Rewrite a graph; `outputs` is the type that the floats which it gives out are to have."""
        before = {
            value.name
            for value in (*typed.input, *typed.value_info, *typed.output)
            if _is_float(value)
        }
        for tensor in graph.initializer:
            scope.constants[tensor.name] = tensor
            if tensor.data_type == _HIGH:
                scope.types[tensor.name] = _HIGH
        for value in graph.input:
            if value.name in before and value.name not in scope.constants:
                scope.types[value.name] = value.type.tensor_type.elem_type
        made: list[NodeProto] = []
        for node, like in zip(graph.node, typed.node, strict=True):
            self._node(node, like, scope, before=before, made=made, kept=kept)
        for value in graph.output:
            type_ = scope.type_of(value.name)
            if type_ is None:
                continue
            if type_ != outputs:
                self._give_out(value.name, outputs, scope, made)
            value.type.tensor_type.elem_type = outputs
        rewritten = GraphProto(node=made)
        graph.ClearField("node")
        graph.node.extend(rewritten.node)

    def _node(
        self,
        node: NodeProto,
        typed: NodeProto,
        scope: _Scope,
        *,
        before: set[str],
        made: list[NodeProto],
        kept: bool,
    ) -> None:
        kept = kept or node.name in self.keep
        wanted = _HIGH if kept or self._of_sizes(node, scope) else _LOW
        takes, gives = self._flexible(node)
        if takes is None:
            takes, gives, wanted = set(), set(), _HIGH
        for at, name in enumerate(node.input):
            if scope.type_of(name) is not None and node.op_type not in _READS_ANY:
                type_ = wanted if at in takes else _HIGH
                node.input[at] = self._as(name, type_, scope, made, reader=node.name)
        floats = [name for name in node.output if name in before]
        for at, name in enumerate(node.output):
            if name in floats:
                scope.types[name] = wanted if at in gives else _HIGH
        if wanted == _LOW:
            self._attributes(node, any_float=bool(floats))
        for inner, like in zip(subgraphs(node), subgraphs(typed), strict=True):
            for value in inner.input:
                if _is_float(value):
                    value.type.tensor_type.elem_type = wanted
            self._graph(inner, like, _Scope(inner, scope), outputs=wanted, kept=kept)
        made.append(node)

    def _of_sizes(self, node: NodeProto, scope: _Scope) -> bool:
        """Whether a node computes on sizes of tensors, and on nothing else."""
        read = [name for name in node.input if name and scope.holder_of(name) is None]
        of_sizes = node.op_type in _SIZES or (
            bool(read) and all(any(n in s.sizes for s in scope.chain()) for n in read)
        )
        if of_sizes:
            scope.sizes.update(node.output)
        return of_sizes and node.op_type not in _CONTAINERS

    def _flexible(self, node: NodeProto) -> tuple[set[int] | None, set[int]]:
        """The inputs and outputs that the operator has in FP16 too; None for an operator that stays
        as it is, since ONNX does not define it or it is for sequences."""
        domain = "" if node.domain == "ai.onnx" else node.domain
        defined = not domain and onnx.defs.has(node.op_type, domain)
        if not defined or node.op_type in _OF_SEQUENCES:
            return None, set()
        schema = onnx.defs.get_schema(node.op_type, self.opset, domain)
        low = {
            each.type_param_str
            for each in schema.type_constraints
            if "tensor(float16)" in each.allowed_type_strs
        }

        def positions(formal: Any, count: int) -> set[int]:  # noqa: ANN401 - no type to name
            # What exceeds the formal parameters belongs to the last, a variadic one.
            return {at for at in range(count) if formal[min(at, len(formal) - 1)].type_str in low}

        return positions(schema.inputs, len(node.input)), positions(
            schema.outputs, len(node.output)
        )

    def _as(
        self, name: str, type_: int, scope: _Scope, made: list[NodeProto], *, reader: str
    ) -> str:
        """The name under which a tensor has that type, made if it has none yet."""
        if scope.type_of(name) == type_:
            return name
        holder = scope.holder_of(name)
        # A constant is converted where it is; a value in the graph that needs it, since a branch
        # may not be taken.
        at = scope if holder is None else holder
        if (name, type_) in at.copies:
            return at.copies[name, type_]
        copy = at.copies[name, type_] = self._fresh(f"{name}_{_WORDS[type_]}")
        if holder is None:
            made.append(_cast(name, copy, type_, self._fresh(f"{copy}/Cast")))
        else:
            made_tensor = holder.graph.initializer.add(name=copy)
            values = to_low(array_of(holder.constants[name], self.path), name, reader)
            put(made_tensor, values, self.path if holder.outer is None else None)
            self.copied[copy] = name
        return copy

    def _give_out(self, name: str, type_: int, scope: _Scope, made: list[NodeProto]) -> None:
        """Let the graph give out a tensor in that type: it keeps its name, and what other nodes
        read gets another."""
        inner = self._fresh(f"{name}_{_WORDS[_HIGH + _LOW - type_]}")
        for each in (*made, *(t for t in scope.graph.initializer if t.name == name)):
            _rename(each, {name: inner})
        made.append(_cast(inner, name, type_, self._fresh(f"{name}/Cast")))

    def _attributes(self, node: NodeProto, *, any_float: bool) -> None:
        """Types and values that stand in a node itself."""
        names = {attribute.name for attribute in node.attribute}
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i == _HIGH:
                attribute.i = _LOW
            if attribute.HasField("t") and attribute.t.data_type == _HIGH:
                values = to_low(numpy_helper.to_array(attribute.t), attribute.name, node.name)
                attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))
        if node.op_type == "ConstantOfShape" and "value" not in names and any_float:
            zero = numpy_helper.from_array(np.zeros(1, np.float16))
            node.attribute.append(onnx.helper.make_attribute("value", zero))
        if node.op_type in _FLOAT_UNLESS_TOLD and "dtype" not in names:
            node.attribute.append(onnx.helper.make_attribute("dtype", _LOW))

    def _fresh(self, name: str) -> str:
        found, count = name, 0
        while found in self.taken:
            count += 1
            found = f"{name}_{count}"
        self.taken.add(found)
        return found


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == _HIGH)


def _cast(source: str, made: str, type_: int, name: str) -> NodeProto:
    return onnx.helper.make_node("Cast", [source], [made], name=name, to=type_)


def _rename(holder: NodeProto | TensorProto, names: Mapping[str, str]) -> None:
    if isinstance(holder, TensorProto):
        holder.name = names.get(holder.name, holder.name)
        return
    for each in (holder.input, holder.output):
        for at, name in enumerate(each):
            each[at] = names.get(name, name)
    for inner in subgraphs(holder):
        for node in inner.node:
            _rename(node, names)


def _names(graph: GraphProto) -> set[str]:
    """Every name of a tensor or a node."""
    found: set[str] = set()
    for each in graphs(graph):
        found.update(tensor.name for tensor in each.initializer)
        found.update(value.name for value in (*each.input, *each.output))
        for node in each.node:
            found.update((node.name, *node.input, *node.output))
    return found


def _typed(model: ModelProto) -> ModelProto:
    """The model with what ONNX knows of the type of every tensor. Of operators that it does not
    define, outputs are assumed to have the type of the first float input."""
    model = copied(model)
    hollow(model)
    while True:
        typed = onnx.shape_inference.infer_shapes(model)
        assumed = False
        for graph, like in zip(graphs(model.graph), graphs(typed.graph), strict=True):
            known = {v.name for v in (*like.input, *like.value_info, *like.output)}
            floats = {v.name for v in (*like.input, *like.value_info) if _is_float(v)}
            floats.update(t.name for t in like.initializer if t.data_type == _HIGH)
            for node in graph.node:
                unknown = [name for name in node.output if name and name not in known]
                if node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type):
                    continue
                if unknown and floats.intersection(node.input):
                    for name in unknown:
                        value = onnx.helper.make_tensor_value_info(name, _HIGH, None)
                        graph.value_info.append(value)
                    assumed = True
        if not assumed:
            return typed
