"""Every precision that ModelOpt gives, as a mode; models to try it on; what became of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from engineforge.stages.precision.graph import name_nodes
from engineforge.stages.precision.quantization import Feeds, Quantization
from tests.models import save

pytest.importorskip("modelopt.onnx", reason="needs: python -m pip install 'engineforge[modelopt]'")
import onnxruntime

from engineforge.stages.precision import modelopt

DIGITS = Path(__file__).parents[3] / "specs" / "models"
QDQ = {"QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True)
class Mode:
    """What is asked for, and the opset that a prepared model then has."""

    to: str
    method: str = "max"
    around: str = "fp32"
    opset: int = 17

    def __str__(self) -> str:
        return f"{self.to}-{self.method}-{self.around}" if self.quantizes else self.to

    @property
    def quantizes(self) -> bool:
        return self.to in ("int8", "fp8", "int4")

    @property
    def low(self) -> str:
        return self.around if self.quantizes else self.to

    def __call__(
        self,
        model: Path,
        scratch: Path,
        *,
        feeds: Feeds | None = None,
        keep: tuple[str, ...] = (),
        keep_io_types: bool = True,
    ) -> ModelProto:
        if not self.quantizes:
            return modelopt.cast(
                model,
                to=self.to,
                keep=keep,
                keep_io_types=keep_io_types,
                feeds=feeds,
                scratch=scratch,
            )
        request = Quantization(
            to=self.to,
            keep=keep,
            method=self.method,
            block_size=32 if self.to == "int4" else None,
            high_precision=self.around,
            keep_io_types=keep_io_types,
        )
        return modelopt.quantize(model, request=request, feeds=feeds, scratch=scratch)


FP16, BF16 = Mode("fp16"), Mode("bf16", opset=22)
INT8, FP8 = Mode("int8"), Mode("fp8", opset=19)
INT4 = Mode("int4", "rtn", opset=21)
MODES = (
    FP16,
    BF16,
    INT8,
    Mode("int8", "entropy"),
    Mode("int8", around="fp16", opset=19),
    Mode("int8", around="bf16", opset=22),
    FP8,
    Mode("fp8", "entropy", "fp16", 19),
    Mode("fp8", around="bf16", opset=22),
    INT4,
    Mode("int4", "awq_clip", opset=21),
    Mode("int4", "awq_lite", opset=21),
    Mode("int4", "awq_clip", "fp16", 21),
    Mode("int4", "awq_lite", "bf16", 22),
)


@dataclass(frozen=True)
class Net:
    """A model with what it is calibrated and judged on."""

    path: Path
    train: NDArray[np.float32]
    holdout: NDArray[np.float32]
    labels: NDArray[np.uint8]

    def feeds(self, count: int = 16) -> Iterator[Mapping[str, NDArray[Any]]]:
        return ({"image": self.train[at : at + 1]} for at in range(count))

    def top1(self, model: ModelProto) -> float:
        (logits,) = run(model, {"image": self.holdout})
        return float((logits.argmax(-1) == self.labels).mean())


def digits(name: str) -> Net:
    def images(part: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        data = np.load(DIGITS / f"digits-{part}.npz")
        pixels = data["image8"][:, np.newaxis].astype(np.float32) / np.float32(16)
        if name == "digits-convnet":
            pixels = np.repeat(np.kron(pixels, np.ones((1, 1, 4, 4), np.float32)), 3, axis=1)
        return pixels, data["label"]

    return Net(DIGITS / f"{name}.onnx", images("train")[0], *images("holdout"))


NETS = ("digits-convnet", "digits-transformer")


def run(model: ModelProto, feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return list(session.run(None, dict(feed)))


def prepared(source: Path, folder: Path, opset: int) -> Path:
    """The model in a folder of its own, of that opset: what the stage hands over."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    model = onnx.load(source)
    if model.opset_import[0].version < opset:
        model = onnx.version_converter.convert_version(model, opset)
        name_nodes(model)
    model.ir_version = 10
    onnx.save(model, path)
    return path


def chain(path: Path, *names: str, op: str = "MatMul", size: int = 32, opset: int = 21) -> Path:
    """Square products one after the other, `x` to `y`, with ReLUs between; seeded weights."""
    random = np.random.default_rng(0)
    nodes, weights, at = [], [], "x"
    for name in names:
        to = "y" if name == names[-1] else f"{name}.out"
        weights.append(random.standard_normal((size, size)).astype(np.float32) / 4)
        product = helper.make_node(op, [at, f"{name}.w"], [f"{name}.sum"], name=name)
        if op == "Gemm":
            product.attribute.append(helper.make_attribute("transB", 1))
        nodes += [
            product,
            helper.make_node("Relu", [f"{name}.sum"], [to], name=f"{name}.relu"),
        ]
        at = to
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", size])],
        [numpy_helper.from_array(w, f"{n}.w") for n, w in zip(names, weights, strict=True)],
    )
    save(graph, path)
    return prepared(path, path.parent / "prepared", opset)


def noise(*shape: int, count: int = 8, name: str = "x") -> Feeds:
    def feeds() -> Iterator[Mapping[str, NDArray[Any]]]:
        random = np.random.default_rng(1)
        return ({name: random.standard_normal(shape).astype(np.float32)} for _ in range(count))

    return feeds


def types(model: ModelProto) -> dict[str, int]:
    """The element type of every tensor that a node gives, by the node's name."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    known = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    return {node.name: known[node.output[0]] for node in inferred.node}


def interface(model: ModelProto) -> list[tuple[str, onnx.TypeProto]]:
    return [(value.name, value.type) for value in (*model.graph.input, *model.graph.output)]


def quantized(model: ModelProto) -> set[str]:
    """The nodes that read what was dequantized."""
    given = {n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    return {n.name for n in model.graph.node if n.op_type not in QDQ and given & {*n.input}}
