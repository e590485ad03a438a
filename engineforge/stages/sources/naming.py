"""The names and the order of an exported graph, as they follow from the graph alone: tf2onnx gives
both by counters, addresses in memory and hashes of strings, which differ from run to run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

from onnx import GraphProto, ModelProto, NodeProto

from engineforge.stages.sources.graph import nodes

# Functions that a SavedModel calls its model through.
_CALLS = re.compile(r"^((Stateful)?PartitionedCall(_\d+)?/)+")
# What tf2onnx adds to a name to make it unique, and addresses in memory.
_GENERATED = re.compile(r"__\d+|(?<=einsum)\d{6,}|_\d{12,}")


def settle(model: ModelProto, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Give the inputs and outputs of `model` new names, by their old ones, and the nodes an order
    and names that do not depend on the run. A tensor is called after the node that makes it,
    weights after the first that takes them; names that the framework gave to nodes stay."""
    graph = model.graph
    _order(graph)
    names = dict(inputs) | dict(outputs)
    for each in (*graph.input, *graph.output):
        each.name = names[each.name]
        for dim in each.type.tensor_type.shape.dim:
            # A counter's, such as 'unk__35'.
            if dim.WhichOneof("value") == "dim_param":
                dim.ClearField("dim_param")
    own = {_CALLS.sub("", node.name) for node in nodes(model)}
    _Naming(graph, own).rename(graph, names)
    del graph.value_info[:]


def _order(graph: GraphProto) -> None:
    """Nodes as they are met on the way back from the outputs; those that none needs are dropped."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    done: dict[int, None] = {}
    for output in graph.output:
        stack = [(makers[output.name], False)] if output.name in makers else []
        while stack:
            index, entered = stack.pop()
            if index in done:
                continue
            if entered:
                done[index] = None
                continue
            stack.append((index, True))
            needed = [makers[name] for name in _taken(graph.node[index]) if name in makers]
            stack += [(each, False) for each in reversed(needed) if each not in done]
    place = {graph.node[index].name: at for at, index in enumerate(done)}
    for index in reversed(range(len(graph.node))):
        if index not in done:
            del graph.node[index]
    graph.node.sort(key=lambda node: place[node.name])
    first = [*(name for node in graph.node for name in _taken(node))]
    first += [each.name for each in graph.output]
    of_weights = {name: at for at, name in reversed([*enumerate(first)])}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in of_weights:
            del graph.initializer[index]
    graph.initializer.sort(key=lambda tensor: of_weights[tensor.name])


def _taken(node: NodeProto) -> Iterator[str]:
    """The tensors that a node takes, in the graphs inside it too, in order."""
    yield from filter(None, node.input)
    for graph in _inside(node):
        for each in graph.node:
            yield from _taken(each)
        yield from (each.name for each in graph.output)


def _inside(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


@dataclass
class _Naming:
    """`own` are the names that the framework gave, `taken` those that are given by now."""

    outermost: GraphProto
    own: Set[str]
    taken: set[str] = field(default_factory=set)

    def rename(self, graph: GraphProto, outer: Mapping[str, str]) -> None:
        """`outer` are the new names of tensors that are known already, by their old ones."""
        names = dict(outer)
        weights = {each.name for each in graph.initializer}
        for node in graph.node:
            node.name = self._new(node)
            for index, tensor in enumerate(_taken(node)):
                if tensor in weights and tensor not in names:
                    names[tensor] = f"{node.name}/input_{index}"
            for index, tensor in enumerate(node.input):
                node.input[index] = names.get(tensor, tensor)
            for inner in _inside(node):
                own = {each.name for each in inner.input} | {x.name for x in inner.initializer}
                self.rename(inner, {old: new for old, new in names.items() if old not in own})
            for index, tensor in enumerate(node.output):
                if tensor and tensor not in outer:
                    names[tensor] = f"{node.name}:{index}"
                node.output[index] = names.get(tensor, tensor)
        for each in graph.initializer:
            each.name = names.get(each.name, each.name)
        if graph is not self.outermost:
            for output in graph.output:
                output.name = names.get(output.name, output.name)

    def _new(self, node: NodeProto) -> str:
        name = _CALLS.sub("", node.name)
        plain = _GENERATED.sub("", name) or node.op_type
        found, count = plain, 1
        while found in self.taken or (found in self.own and found != name):
            count += 1
            found = f"{plain}__{count}"
        self.taken.add(found)
        return found
