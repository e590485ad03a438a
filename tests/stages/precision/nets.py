"""Small networks with what converters stumble over, and the typed stage run on one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from engineforge.spec.model import ArrayFiles, Calibration, Precision
from engineforge.stages.precision.graph import nodes
from engineforge.stages.precision.typed import make_typed
from engineforge.stages.sources.onnx import bind

INSTALL = "needs: python -m pip install 'engineforge[precision]'"
Feed = Mapping[str, NDArray[Any]]
_RANDOM_SEED = 7


@dataclass(frozen=True)
class _Sample:
    feed: Feed


class Samples:
    """Samples that can be read again, as often as one likes."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds

    def __iter__(self) -> Iterator[_Sample]:
        return (_Sample(feed) for feed in self._feeds)


@dataclass
class Typed:
    """What the typed stage left, and what it said."""

    folder: Path
    report: dict[str, Any]
    model: ModelProto = field(init=False)

    def __post_init__(self) -> None:
        self.model = onnx.load(self.path)

    @property
    def path(self) -> Path:
        return self.folder / "model.onnx"

    def node(self, name: str) -> NodeProto:
        return next(node for node in nodes(self.model) if node.name == name)

    def count(self, operator: str) -> int:
        return sum(node.op_type == operator for node in nodes(self.model))

    def json(self, name: str) -> Any:  # noqa: ANN401
        return json.loads((self.folder / name).read_text())

    def tensor(self, name: str) -> NDArray[Any]:
        found = next(t for t in self.model.graph.initializer if t.name == name)
        return numpy_helper.to_array(found)

    def types(self) -> dict[str, int]:
        """Element types of all tensors of the main graph, by inference."""
        graph = onnx.shape_inference.infer_shapes(self.model, strict_mode=True).graph
        found = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info)}
        found.update({v.name: v.type.tensor_type.elem_type for v in graph.output})
        found.update({t.name: t.data_type for t in graph.initializer})
        return found

    def run(self, feed: Feed) -> list[NDArray[Any]]:
        return run(self.path, feed)


def convert(
    path: Path,
    name: str,
    *,
    samples: Sequence[Feed] | None = None,
    method: str = "max",
    percentile: str | None = None,
    **settings: Any,  # noqa: ANN401
) -> Typed:
    """The typed stage on a model file, in new folders beside it."""
    at = next(
        path.parent / f"typed-{i}" for i in range(99) if not (path.parent / f"typed-{i}").exists()
    )
    folders = [at / each for each in ("bound", "out", "scratch")]
    for folder in folders:
        folder.mkdir(parents=True)
    bound, out, scratch = folders
    calibration = None
    if samples is not None:
        data = ArrayFiles(path="samples")
        calibration = Calibration(data=data, method=method, percentile=percentile)
    report = make_typed(
        bind(path, bound),
        Precision(name=name, calibration=calibration, **settings),
        samples=None if samples is None else Samples(samples),
        out=out,
        scratch=scratch,
    )
    return Typed(out, report)


def run(path: Path, feed: Feed) -> list[NDArray[Any]]:
    """A model's outputs, each node as it stands in the graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feed)))


def error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Relative L2."""
    difference = found.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


def noise(*shape: int, count: int = 4, name: str = "x") -> list[Feed]:
    random = np.random.default_rng(_RANDOM_SEED)
    return [{name: random.standard_normal(shape, np.float32)} for _ in range(count)]


def weights(name: str, *shape: int, scale: float = 0.1) -> TensorProto:
    random = np.random.default_rng(sum(map(ord, name)))
    return numpy_helper.from_array(random.standard_normal(shape, np.float32) * scale, name)


def constant(name: str, value: object, dtype: type[np.generic] = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.array(value, dtype), name)


def floats(name: str, *dims: int | str | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def node(text: str, name: str = "", **attributes: object) -> NodeProto:
    """`y = Add a b`; `-` is an input left out."""
    outputs, _, right = text.partition(" = ")
    operator, *inputs = right.split()
    names = ["" if each == "-" else each for each in inputs]
    return helper.make_node(operator, names, outputs.split(), name=name, **attributes)  # type: ignore[arg-type]


def graph(
    body: Sequence[NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    tensors: Sequence[TensorProto] = (),
) -> GraphProto:
    return helper.make_graph(body, "g", inputs, outputs, tensors)


def saved(made: GraphProto, path: Path, *, opset: int = 17, ir_version: int = 8) -> Path:
    opsets = [helper.make_opsetid("", opset)]
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=ir_version), path)
    return path


def residual(path: Path) -> Path:
    """Two convolutions with a normalization, and around them an addition; then one more, and a
    fully connected layer: `x` [1, 8, 8, 8] to `y` [1, 10]."""
    body = [
        node("a = Conv x w0", "first", pads=[1] * 4),
        node("r = Relu a", "relu"),
        node("b = Conv r w1", "second", pads=[1] * 4),
        node("n = BatchNormalization b s s s v", "norm"),
        node("t = Add n r", "add"),
        node("q = Relu t", "relu2"),
        node("c = Conv q w2", "third"),
        node("p = GlobalAveragePool c", "pool"),
        node("f = Flatten p", "flat"),
        node("y = Gemm f w3 bias", "head", transB=1, beta=0.5),
    ]
    tensors = [
        *(weights(f"w{i}", 8, 8, 3, 3) for i in range(3)),
        weights("s", 8),
        constant("v", np.linspace(0.5, 2, 8)),
        weights("w3", 10, 8),
        weights("bias", 10),
    ]
    return saved(
        graph(body, [floats("x", "n", 8, "h", "w")], [floats("y", "n", 10)], tensors), path
    )


def branched(path: Path) -> Path:
    """A product, then an If with a convolution and a product in its branches, both of which read
    the outer graph: `x` [1, 4, 8, 8] to `y`."""
    then = graph(
        [node("c1 = Conv h wc", "conv", pads=[1] * 4), node("o1 = Relu c1", "then_relu")],
        [],
        [floats("o1", 1, 4, 8, 8)],
        [weights("wc", 4, 4, 3, 3)],
    )
    other = graph(
        [node("o2 = MatMul h wm", "product")], [], [floats("o2", 1, 4, 8, 8)], [weights("wm", 8, 8)]
    )
    body = [
        node("h = MatMul x w", "outer"),
        node("s = ReduceSum x", "sum", keepdims=0),
        node("c = Greater s zero", "greater"),
        node("i = If c", "if", then_branch=then, else_branch=other),
        node("y = Relu i", "relu"),
    ]
    tensors = [weights("w", 8, 8), constant("zero", 0)]
    made = graph(body, [floats("x", 1, 4, 8, 8)], [floats("y", 1, 4, 8, 8)], tensors)
    return saved(made, path)


def looped(path: Path) -> Path:
    """A product three times, of what the last one gave, and an addition of the graph's input."""
    inner = graph(
        [
            node("p = MatMul v wl", "product"),
            node("v2 = Add p x", "add"),
            node("go2 = Identity yes", "go"),
        ],
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            floats("v", 2, 16),
        ],
        [helper.make_tensor_value_info("go2", TensorProto.BOOL, []), floats("v2", 2, 16)],
        [weights("wl", 16, 16), constant("yes", True, np.bool_)],
    )
    body = [node("l = Loop three start x", "loop", body=inner), node("y = Relu l", "relu")]
    tensors = [constant("three", 3, np.int64), constant("start", True, np.bool_)]
    return saved(graph(body, [floats("x", 2, 16)], [floats("y", 2, 16)], tensors), path)


def paddle(path: Path) -> Path:
    """As PP-OCR's exporter writes it: opset 11, all weights Constant nodes without names, one read
    through an Identity, dimensions called `?`; `x` [1, 3, 16, 16] to `y` [1, 6]."""
    tensors = [
        weights("w0", 8, 3, 3, 3),
        weights("w1", 8, 1, 3, 3),
        weights("w2", 8, 6),
        constant("shape", [-1, 8], np.int64),
        *(weights(f"b{i}", 8) for i in range(2)),
        *(constant(f"b{i}", np.linspace(0.5, 2, 8)) for i in range(2, 4)),
    ]
    body = [
        *(helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in tensors),
        node("w2_copy = Identity w2"),
        node("c0 = Conv x w0", "conv", pads=[1] * 4),
        node("n0 = BatchNormalization c0 b2 b0 b1 b3", "norm"),
        node("c1 = Conv n0 w1", "depthwise", pads=[1] * 4, group=8),
        node("h1 = HardSigmoid c1"),
        node("p1 = GlobalAveragePool h1"),
        node("r1 = Reshape p1 shape"),
        node("m1 = MatMul r1 w2_copy", "product"),
        node("y = Softmax m1", axis=1),
    ]
    made = graph(body, [floats("x", "?", 3, "?", "?")], [floats("y", "?", 6)])
    return saved(made, path, opset=11, ir_version=7)
