"""The graphs and nodes of a model, with those inside others and those of its functions."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto


def graphs(model: ModelProto) -> Iterator[GraphProto]:
    waiting: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, GraphProto):
            yield holder
        for attribute in own_attributes(holder):
            waiting += [attribute.g] if attribute.HasField("g") else []
            waiting += attribute.graphs


def own_attributes(holder: GraphProto | FunctionProto) -> Iterator[AttributeProto]:
    for node in holder.node:
        yield from node.attribute
    if isinstance(holder, FunctionProto):
        yield from holder.attribute_proto


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    for holder in (*graphs(model), *model.functions):
        yield from holder.node
