"""A source graph and a twin over one file of weights, and graphs made of both."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from engineforge.checks.accuracy import Outputs, checked
from engineforge.checks.metrics import decibel
from engineforge.checks.run import Graph
from engineforge.checks.tensor_types import FLOATS, infer, types_of
from engineforge.checks.transplant import Graft
from engineforge.checks.twin import twin, widened
from engineforge.checks.weights import Weights
from engineforge.samples.sample import Sample

_FEW = 8


class Pair:
    """The graphs; what is made of them goes through `scratch`."""

    def __init__(self, source: Path, typed: Path, scratch: Path) -> None:
        """`source` is the graph that `typed` was made of: the same node names, the same opset."""
        self._weights = Weights(scratch)
        self._scratch = scratch
        self.source = widened(self._weights.read(source), weights=self._weights)
        self.twin = twin(self._weights.read(typed), weights=self._weights)
        self.graft = Graft(self.source, self.twin)

    def layers(self) -> dict[str, str]:
        """The low layers with their operators, in graph order."""
        types = {node.name: node.op_type for node in self.source.graph.node}
        return {name: types[name] for name in self.graft.layers()}

    def with_low(self, layers: Collection[str]) -> Graph:
        """The source graph with just these layers as in the twin, ready to run."""
        return self._loaded(self.graft.transplanted(layers), "the graph with some layers low")

    def expected(self, samples: Iterable[Sample]) -> Expected:
        """What the source graph gives for each sample; computed when it is first asked for."""
        folder = self._scratch / "expected"
        folder.mkdir(exist_ok=True)
        return Expected(self._loaded(self.source, "the source graph"), samples, folder)

    def local_sqnr(self, samples: Iterable[Sample], *, few: int = _FEW) -> dict[str, float]:
        """For each low layer the worst signal-to-quantization-noise ratio in dB of the tensors that
        it reads and makes, over the first `few` samples: each of the source against what the twin
        makes of it. -inf where that overflows. Layers with nothing to compare are left out.

        Sums are taken inside the graph, so that no tensor outlives its use.
        """
        graft = self.graft
        types = types_of(infer(self.source).model.graph)
        low = set(graft.layers())
        graft.start()
        graft.nodes += self.source.graph.node
        sums: dict[tuple[str, str], tuple[str, str]] = {}
        layers: dict[str, list[tuple[str, str]]] = {}
        for node in self.source.graph.node:
            for pair in graft.pairs(node) if node.name in low else ():
                if types.get(pair[0]) not in FLOATS:
                    continue
                if pair not in sums:
                    sums[pair] = (f"signal/{len(sums)}", f"noise/{len(sums)}")
                    graft.nodes += _sums(pair, sums[pair])
                layers.setdefault(node.name, []).append(pair)
        outputs = [_scalar(name) for names in sums.values() for name in names]
        graph = self._loaded(graft.finished(outputs), "the graph with the tensors of its layers")
        totals = dict.fromkeys(graph.outputs, 0.0)
        for sample in islice(samples, few):
            for name, found in graph(sample).items():
                totals[name] += float(found)
        ratios = {
            pair: decibel(totals[signal], totals[noise]) for pair, (signal, noise) in sums.items()
        }
        return {name: min(ratios[pair] for pair in pairs) for name, pairs in layers.items()}

    def first_overflow(self, samples: Iterable[Sample]) -> tuple[str, int] | None:
        """The first layer in graph order with an output that is not finite in the twin, on the
        first sample that has one, and that output's low type (ONNX's number, or 0); else None."""
        types = types_of(infer(self.twin).model.graph)
        made = ModelProto()
        made.CopyFrom(self.twin)
        del made.graph.output[:]
        checks: dict[str, tuple[str, int]] = {}
        for layer, name, low in self.graft.results():
            if types.get(name) == TensorProto.FLOAT:
                check = f"finite/{len(checks)}"
                checks[check] = (layer, low)
                # x - x is 0, and not a number where x is infinite or none.
                made.graph.node.extend(_sums((name, name), (f"{check}/x", check)))
                made.graph.output.append(_scalar(check))
        graph = self._loaded(made, "the typed graph")
        for sample in samples:
            found = graph(sample)
            for check, result in checks.items():
                if not np.isfinite(found[check]):
                    return result
        return None

    def _loaded(self, model: ModelProto, called: str) -> Graph:
        path = self._weights.write(model, "made")
        try:
            return Graph(path, called=called)
        finally:
            path.unlink()


class Expected:
    """What the source graph gives, sample by sample, kept on disk from the first pass on, so that
    many graphs can be compared with it. The samples are read anew for each."""

    def __init__(self, graph: Graph, samples: Iterable[Sample], folder: Path) -> None:
        self._graph = graph
        self._samples = samples
        self._folder = folder

    def __iter__(self) -> Iterator[tuple[Sample, Outputs]]:
        for i, sample in enumerate(self._samples):
            file = self._folder / f"{i}.npz"
            if file.exists():
                with np.load(file) as kept:
                    arrays = [kept[f"arr_{k}"] for k in range(len(self._graph.outputs))]
                yield sample, dict(zip(self._graph.outputs, arrays, strict=True))
                continue
            outputs = checked(self._graph(sample), sample)
            np.savez(file, *outputs.values())
            yield sample, outputs


def _sums(pair: tuple[str, str], names: tuple[str, str]) -> Iterator[NodeProto]:
    """Nodes for the sums of squares of a tensor, and of its difference to another."""
    signal, noise = names
    yield helper.make_node("Sub", pair, [f"{noise}/difference"])
    for name, result in ((pair[0], signal), (f"{noise}/difference", noise)):
        double = f"{result}/double"
        yield helper.make_node("Cast", [name], [double], to=TensorProto.DOUBLE)
        yield helper.make_node("ReduceSumSquare", [double], [result], keepdims=0)


def _scalar(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.DOUBLE, [])
