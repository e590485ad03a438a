"""Which inputs of a model TensorRT needs the values of when it plans shapes: its shape tensors.

A profile gives such an input a range of values. What they are is the model's secret; what surely is
possible can often be told by where they go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import GraphProto, NodeProto

from engineforge.stages.sources.onnx import read_model

# Operators, and which of their inputs say something of shapes.
_OPERANDS: Mapping[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "EyeLike": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (3,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
}
# What passes values on.
_THROUGH = frozenset(
    {
        *("Add", "Cast", "Concat", "Div", "Gather", "Identity", "Mul", "Reshape", "Squeeze", "Sub"),
        "Unsqueeze",
    }
)
_AS_DATA = frozenset({"Expand", "Reshape", "Resize"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeUse:
    """Where an input's values go: the operator and the position there. `like` is another input of
    the model whose own shape is a possible value, if one is."""

    operator: str
    position: int
    like: str | None = None


def shape_inputs(path: Path) -> dict[str, ShapeUse]:
    """The shape tensors among a model's inputs, by name; ModelError where it is none."""
    graph = read_model(path).graph
    inputs = {value.name for value in graph.input} - {each.name for each in graph.initializer}
    found: dict[str, ShapeUse] = {}
    for node in graph.node:
        for position in _OPERANDS.get(node.op_type, ()):
            if position >= len(node.input):
                continue
            for name in _origins(graph, node.input[position]):
                if name in inputs:
                    found.setdefault(name, _use(node, position, name, inputs))
    return found


def _use(node: NodeProto, position: int, name: str, inputs: set[str]) -> ShapeUse:
    data = node.input[0]
    direct = node.input[position] == name
    like = data if node.op_type in _AS_DATA and direct and data in inputs else None
    return ShapeUse(operator=node.op_type, position=position, like=like)


def _origins(graph: GraphProto, tensor: str) -> Iterator[str]:
    """The tensors that a shape operand is computed from, itself included."""
    producers = {output: node for node in graph.node for output in node.output}
    seen: set[str] = set()
    waiting = [tensor]
    while waiting:
        name = waiting.pop()
        if name in seen or not name:
            continue
        seen.add(name)
        yield name
        node = producers.get(name)
        if node is not None and node.op_type in _THROUGH:
            waiting += node.input
