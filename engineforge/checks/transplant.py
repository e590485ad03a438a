"""Parts of a twin taken over into its source graph, so that what a layer costs can be measured.

A layer is a node that both graphs have, known by its name. Nodes that only the twin has
(quantizers, casts, transposes) belong to the layer whose inputs they make, and the rounding of a
tensor to the layer that makes it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from engineforge.checks.twin import MOVERS, is_rounding, low_types, rounding
from engineforge.checks.weights import same
from engineforge.errors import EngineForgeError
from engineforge.stages.precision.graph import graphs, opset_of, subgraphs

# What the twin alone has gets this before its name.
_TWIN = "twin/"
# Nodes that a conversion adds which change no value.
_IDLE = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})


# Nodes whose output holds a value for each value of the input, in the same place.
_IN_PLACE = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "Identity"})


class Graft:
    """The two graphs, and what of the twin has been taken over into a graph that is being made."""

    def __init__(self, source: ModelProto, twin: ModelProto) -> None:
        """The graphs as twin.py makes them, of one opset. EngineForgeError where opsets differ."""
        ours, theirs = opset_of(source), opset_of(twin)
        if ours != theirs:
            raise EngineForgeError(
                f"the source graph has opset {ours} and the typed graph {theirs}, and layers of "
                "different opsets do not mix",
                hint="compare with the graph that the typed one was made of",
            )
        self.source, self.twin = source, twin
        nodes = {node.name: node for node in source.graph.node}
        self._twins = {node.name: node for node in twin.graph.node if node.name in nodes}
        self._makers = {name: node for node in twin.graph.node for name in node.output}
        # Of what rounding makes, what it was; and the other way round.
        self._exact: dict[str, str] = {}
        self._rounded: dict[str, str] = {}
        for node in filter(is_rounding, twin.graph.node):
            exact = self._exact.get(node.input[0], node.input[0])
            self._exact[node.output[0]] = exact
            if _widens(node):
                self._rounded[exact] = node.output[0]
        self._low = low_types(twin.graph)
        self._weights = {tensor.name: tensor for tensor in twin.graph.initializer}
        self._source_weights = {tensor.name: tensor for tensor in source.graph.initializer}
        self._tensors = {
            theirs: ours
            for name, node in self._twins.items()
            for theirs, ours in zip(node.output, nodes[name].output, strict=False)
        }
        # Layers between which and a graph output the twin has something that rounds.
        self._givers = {
            layer: output.name
            for output in twin.graph.output
            if self._lowered_by_chain(output.name)
            for layer in self._origins(output.name)
        }
        self._own = [node.name for node in self._common() if self._is_low(node)]
        # What has been made so far: nodes in order, weights, and names of twin tensors in it.
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, TensorProto] = {}
        self._made: dict[str, str] = {}
        self._layers: Collection[str] = ()

    def layers(self) -> list[str]:
        """The layers that are low of their own: an input is quantized, a weight differs or an
        output is rounded. In the order of the source graph."""
        return list(self._own)

    def carriers(self, layers: Collection[str]) -> Iterator[tuple[str, bool]]:
        """The nodes that are low without a cost of their own, such as a Relu in FP16, and whether
        they are low still if just `layers` are: one of what they get is."""
        low = set(layers)
        own = set(self._own)
        for node in self._common():
            theirs = self._twins[node.name]
            if node.name in own or not self._low.keys() & {*theirs.input, *theirs.output}:
                continue
            if any(low & self._origins(name) for name in theirs.input if name):
                low.add(node.name)
            yield node.name, node.name in low

    def joined(self, kept: Collection[str]) -> list[str]:
        """Layers that are to stay FP32, with the nodes that carry values from one to another, which
        would round them; in the order of the source graph."""
        found = set(kept)
        low = [layer for layer in self._own if layer not in found]
        between = {name for name, is_low in self.carriers(low) if not is_low}
        used: set[str] = set()
        for node in reversed(self.source.graph.node):
            if node.name in found or (node.name in between and used & set(node.output)):
                found.add(node.name)
                used |= set(node.input)
        return [node.name for node in self.source.graph.node if node.name in found]

    def transplanted(self, layers: Collection[str]) -> ModelProto:
        """The source graph in which the layers, and what carries their results, are the twin's."""
        self.start({*layers, *(name for name, low in self.carriers(layers) if low)})
        for node in self.source.graph.node:
            if node.name in self._layers and node.name in self._twins:
                self._transplant(node)
            else:
                self.nodes.append(node)
        self._give_outputs()
        return self.finished(self.source.graph.output)

    def start(self, layers: Collection[str] = ()) -> None:
        """Begin a new graph; `layers` are what will be put into it as the twin has it."""
        self.nodes, self.weights, self._made, self._layers = [], {}, {}, layers

    def finished(self, outputs: Iterable[ValueInfoProto]) -> ModelProto:
        """The graph that was made, with the weights that it uses."""
        model = ModelProto(ir_version=max(self.source.ir_version, self.twin.ir_version))
        domains = {o.domain: o for m in (self.source, self.twin) for o in m.opset_import}
        model.opset_import.extend(domains.values())
        graph = model.graph
        graph.name = "transplant"
        graph.node.extend(self.nodes)
        graph.input.extend(
            each for each in self.source.graph.input if each.name not in self._source_weights
        )
        graph.output.extend(outputs)
        graph.sparse_initializer.extend(self.source.graph.sparse_initializer)
        used = {name for node in _all_nodes(graph) for name in node.input}
        used |= {value.name for value in graph.output}
        weights = {**self._source_weights, **self.weights}
        graph.initializer.extend(each for name, each in weights.items() if name in used)
        return model

    def value(self, name: str) -> str:
        """A tensor of the twin as made of what the source graph makes: the nodes that the twin has
        more are added. Its name in the graph that is being made."""
        if not name or name in self._made:
            return self._made.get(name, "")
        exact = self._exact.get(name, name)
        maker = self._makers.get(exact)
        if exact in self._weights:
            made = _TWIN + exact
            tensor = TensorProto()
            tensor.CopyFrom(self._weights[exact])
            tensor.name = made
            self.weights[made] = tensor
        elif maker is None or maker.name in self._twins:
            made = self._lowered(self._tensors.get(exact, exact), name, maker)
        else:
            made = _TWIN + name
            self._add(self._makers[name])
        self._made[name] = made
        return made

    def pairs(self, node: NodeProto) -> Iterator[tuple[str, str]]:
        """The tensors around a layer of the source that the twin makes lower: each of the source,
        and a name in the graph that is being made of what the twin makes of it.

        Where a conversion changes the layout, or scales, there is nothing to compare.
        """
        theirs = self._twins[node.name]
        for ours, name in zip(node.input, theirs.input, strict=False):
            lower = name in self._low or self._lowers(ours, name)
            if lower and self._in_place(ours, name):
                yield ours, self.value(name)
        for ours, name in zip(node.output, theirs.output, strict=False):
            if rounded := self._rounded.get(name):
                yield ours, self.value(rounded)
        given = self._givers.get(node.name, "")
        if given in node.output and self._in_place(given, given):
            yield given, self.value(given)

    def results(self) -> Iterator[tuple[str, str, int]]:
        """What each layer makes in the twin: layer, tensor as the twin has it in the end, and the
        low type that it had in the typed graph, or 0."""
        for node in self._common():
            for name in self._twins[node.name].output:
                final = self._rounded.get(name, name)
                yield node.name, final, self._low.get(final, TensorProto.UNDEFINED)

    def _common(self) -> Iterator[NodeProto]:
        return (node for node in self.source.graph.node if node.name in self._twins)

    def _is_low(self, node: NodeProto) -> bool:
        theirs = self._twins[node.name]
        if any(map(self._lowers, node.input, theirs.input)):
            return True
        if node.name in self._givers or list(subgraphs(node)) != list(subgraphs(theirs)):
            return True
        computes = theirs.op_type not in MOVERS
        return computes and any(name in self._rounded for name in theirs.output)

    def _lowers(self, ours: str, name: str) -> bool:
        """Whether a layer gets another value in the twin than what its source layer makes."""
        exact = self._exact.get(name, name)
        if exact in self._weights:
            mine = self._source_weights.get(ours)
            return mine is None or not same(mine, self._weights[exact])
        return self._lowered_by_chain(name)

    def _lowered_by_chain(self, name: str) -> bool:
        return any(node.op_type not in _IDLE and not _widens(node) for node in self._chain(name))

    def _in_place(self, ours: str, name: str) -> bool:
        """Whether what the twin makes lies as the source's tensor does, element by element."""
        chain = list(self._chain(name))
        mine = self._source_weights.get(ours)
        for each in (name, *(node.input[0] for node in chain)):
            weight = self._weights.get(self._exact.get(each, each))
            if weight is not None and (mine is None or weight.dims != mine.dims):
                return False
        return all(node.op_type in _IN_PLACE for node in chain)

    def _chain(self, name: str) -> Iterator[NodeProto]:
        """The nodes that only the twin has, upstream of a tensor."""
        exact = self._exact.get(name, name)
        maker = self._makers.get(exact)
        if maker is None or maker.name in self._twins or exact in self._weights:
            return
        yield maker
        for each in maker.input:
            yield from self._chain(each)

    def _origins(self, name: str) -> set[str]:
        """The layers whose outputs a tensor of the twin is made of."""
        maker = self._makers.get(self._exact.get(name, name))
        if maker is None:
            return set()
        if maker.name in self._twins:
            return {maker.name}
        return {origin for each in maker.input if each for origin in self._origins(each)}

    def _lowered(self, ours: str, name: str, maker: NodeProto | None) -> str:
        """A tensor of the source, rounded as the twin's is, unless its layer does so already."""
        to = self._low.get(name)
        if to is None or (maker is not None and maker.name in self._layers):
            return ours
        made = f"{_TWIN}{ours}/rounded"
        self.nodes += rounding(ours, f"{_TWIN}{ours}/low", to, made)
        return made

    def _add(self, node: NodeProto) -> None:
        made = self._copied(node)
        made.name = _TWIN + node.name
        for i, name in enumerate(node.output):
            if name:
                made.output[i] = self._made[name] = _TWIN + name
        self.nodes.append(made)

    def _transplant(self, node: NodeProto) -> None:
        made = self._copied(theirs := self._twins[node.name])
        rounds: list[NodeProto] = []
        for i, name in enumerate(made.output):
            ours = self._tensors.get(name, _TWIN + name if name else "")
            made.output[i] = ours
            if rounded := self._rounded.get(name):
                exact, low = f"{ours}/exact", f"{ours}/low"
                made.output[i] = exact
                casts = list(rounding(exact, low, self._low[rounded], ours))
                if theirs.op_type == "Cast" and not _widens(theirs):  # it is the first one itself
                    casts = casts[1:]
                    casts[0].input[0] = exact
                rounds += casts
        self.nodes += [made, *rounds]

    def _copied(self, node: NodeProto) -> NodeProto:
        """A node of the twin, its inputs and what its bodies capture as they are called here."""
        made = NodeProto()
        made.CopyFrom(node)
        for i, name in enumerate(node.input):
            made.input[i] = self.value(name)
        for body in subgraphs(made):
            _rename(body, {name: self.value(name) for name in _captured(body)})
        return made

    def _give_outputs(self) -> None:
        """The graph outputs of the layers, with what the twin puts between layer and output."""
        names = {}
        for output in self.source.graph.output:
            name = output.name
            if name in self._makers and set(self._layers) & self._origins(name):
                made = self.value(name)
                if made != name:
                    names[name] = made
        if not names:
            return
        inner = {name: f"{name}/inner" for name in names}
        copies = []
        for node in self.nodes:
            copy = NodeProto()
            copy.CopyFrom(node)
            _rename_node(copy, inner)
            copies.append(copy)
        for name, made in names.items():
            given = NodeProto(op_type="Identity", name=f"{_TWIN}{name}/given")
            given.input.append(inner.get(made, made))
            given.output.append(name)
            copies.append(given)
        self.nodes = copies


def _widens(node: NodeProto) -> bool:
    return node.op_type == "Cast" and any(
        each.name == "to" and each.i == TensorProto.FLOAT for each in node.attribute
    )


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    return (node for each in graphs(graph) for node in each.node)


def _captured(body: GraphProto) -> set[str]:
    """What a body takes from outside."""
    inside = {name for node in _all_nodes(body) for name in node.output}
    for each in graphs(body):
        inside |= {value.name for value in each.input} | {t.name for t in each.initializer}
    used = {name for node in _all_nodes(body) for name in node.input}
    return {name for name in used | {value.name for value in body.output} if name} - inside


def _rename(body: GraphProto, names: Mapping[str, str]) -> None:
    for node in _all_nodes(body):
        for i, name in enumerate(node.input):
            node.input[i] = names.get(name, name)


def _rename_node(node: NodeProto, names: Mapping[str, str]) -> None:
    for listed in (node.input, node.output):
        for i, name in enumerate(listed):
            listed[i] = names.get(name, name)
    for body in subgraphs(node):
        _rename(body, names)
