"""Networks as large as those that people build, with random weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.models import Dim, save


class _Layers:
    """Convolutions with bias and ReLU, one after the other."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, shape: Sequence[int]) -> str:
        scale = np.float32(1 / np.sqrt(np.prod(shape[1:])))
        values = self.random.standard_normal(shape, dtype=np.float32) * scale
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:  # noqa: ANN401 - as `make_node`
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def conv(self, x: str, into: int, out: int, *, size: int, stride: int = 1) -> str:
        name = f"w{len(self.weights)}"
        weight = self.weight(name, (out, into, size, size))
        bias = self.weight(f"{name}.bias", (out,))
        return self.node(
            "Conv",
            [x, weight, bias],
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[size // 2] * 4,
        )

    def constant(self, name: str, value: Any) -> str:  # noqa: ANN401 - a NumPy scalar or array
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def dense(self, x: str, into: int, out: int, name: str) -> str:
        weight = self.weight(f"{name}.weight", (into, out))
        return self.node(
            "Add", [self.node("MatMul", [x, weight]), self.weight(f"{name}.bias", (out,))]
        )

    def split(self, x: str, length: int, heads: int, size: int) -> str:
        shape = self.constant(
            f"split{len(self.nodes)}", np.array([0, length, heads, size], np.int64)
        )
        return self.node("Transpose", [self.node("Reshape", [x, shape])], perm=[0, 2, 1, 3])

    def norm(self, x: str, width: int, name: str) -> str:
        ones = self.constant(f"{name}.gamma", np.ones(width, np.float32))
        zeros = self.constant(f"{name}.beta", np.zeros(width, np.float32))
        return self.node("LayerNormalization", [x, ones, zeros], axis=-1)

    def bottleneck(self, x: str, into: int, width: int, stride: int) -> str:
        y = self.node("Relu", [self.conv(x, into, width, size=1)])
        y = self.node("Relu", [self.conv(y, width, width, size=3, stride=stride)])
        y = self.conv(y, width, 4 * width, size=1)
        if into != 4 * width:
            x = self.conv(x, into, 4 * width, size=1, stride=stride)
        return self.node("Relu", [self.node("Add", [x, y])])


def resnet50(path: Path) -> None:
    """ResNet-50 (He et al. 2015, table 1), normalization folded into the convolutions: 102 MB."""
    layers = _Layers()
    y = layers.node("Relu", [layers.conv("image", 3, 64, size=7, stride=2)])
    y = layers.node("MaxPool", [y], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            y = layers.bottleneck(y, channels, width, 2 if stage > 0 and block == 0 else 1)
            channels = 4 * width
    y = layers.node("Flatten", [layers.node("GlobalAveragePool", [y])])
    head = layers.weight("fc", (1000, channels))
    y = layers.node("Gemm", [y, head, layers.weight("fc.bias", (1000,))], transB=1)
    ends = {"image": ("batch", 3, 224, 224), y: ("batch", 1000)}
    save(graph_of(layers.nodes, layers.weights, ends), path)


def bert_base(path: Path) -> None:
    """The encoder of BERT-base (Devlin et al. 2018): 12 layers of width 768 with 12 heads, a
    vocabulary of 4,096; `ids` (batch, 128) to `hidden`. 352 MB."""
    net, width, heads, length = _Layers(), 768, 12, 128
    table = net.weight("embeddings", (4096, width))
    x = net.node("Gather", [table, "ids"])
    x = net.node("Add", [x, net.weight("positions", (length, width))])
    for layer in range(12):
        q, k, v = (net.dense(x, width, width, f"{layer}.{each}") for each in "qkv")
        q, k, v = (net.split(each, length, heads, width // heads) for each in (q, k, v))
        turned = net.node("Transpose", [k], perm=[0, 1, 3, 2])
        scale = net.constant(f"{layer}.scale", np.float32(1 / math.sqrt(width // heads)))
        scores = net.node("Mul", [net.node("MatMul", [q, turned]), scale])
        found = net.node("MatMul", [net.node("Softmax", [scores], axis=-1), v])
        found = net.node("Transpose", [found], perm=[0, 2, 1, 3])
        shape = net.constant(f"{layer}.shape", np.array([0, length, width], np.int64))
        found = net.dense(net.node("Reshape", [found, shape]), width, width, f"{layer}.o")
        x = net.norm(net.node("Add", [x, found]), width, f"{layer}.a")
        wide = net.dense(x, width, 4 * width, f"{layer}.up")
        half = net.node("Mul", [wide, net.constant(f"{layer}.half", np.float32(0.5))])
        root = net.constant(f"{layer}.root", np.float32(math.sqrt(2)))
        erf = net.node("Erf", [net.node("Div", [wide, root])])
        one = net.node("Add", [erf, net.constant(f"{layer}.one", np.float32(1))])
        y = net.dense(net.node("Mul", [half, one]), 4 * width, width, f"{layer}.down")
        x = net.norm(net.node("Add", [x, y]), width, f"{layer}.b")
    out = net.node("Identity", [x])
    ids = helper.make_tensor_value_info("ids", TensorProto.INT32, ["batch", length])
    hidden = helper.make_tensor_value_info(out, TensorProto.FLOAT, ["batch", length, width])
    save(helper.make_graph(net.nodes, "bert", [ids], [hidden], net.weights), path)


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    ends: Mapping[str, Sequence[Dim]],
) -> onnx.GraphProto:
    """`ends` are the input and the output, in that order."""
    taken, given = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in ends.items()
    )
    return helper.make_graph(nodes, "benchmark", [taken], [given], weights)
