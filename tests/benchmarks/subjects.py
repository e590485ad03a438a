"""The models that are built to measure, and a project that has a spec for each of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.models import Dim, save

CAPABILITIES = ("8.9", "8.0", "8.6", "12.0")
"""Those of the targets: a spec builds for the first, or with `-four` in its name for each."""

ENGINEFORGE = str(Path(sys.executable).parent / "engineforge")
_BARE = str(Path(__file__).with_name("bare.py"))
_RAPIDOCR = "models/PP-OCRv6_rec_small.onnx"
_WIDTH, _LAYERS = 4096, 16


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with the bounds of its input, and how often to measure it."""

    name: str
    package: str
    path: str
    tensor: str
    bounds: tuple[Sequence[int], Sequence[int], Sequence[int]]
    rounds: int


def _images(size: int) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    return ([1, 3, size, size], [8, 3, size, size], [32, 3, size, size])


_ROWS = ([1, _WIDTH], [8, _WIDTH], [32, _WIDTH])
SUBJECTS = (
    Subject("resnet50", "", "models/resnet50.onnx", "image", _images(224), 7),
    Subject(
        "ocr", "rapidocr", _RAPIDOCR, "x", ([1, 3, 48, 32], [6, 3, 48, 320], [16, 3, 48, 640]), 7
    ),
    Subject("mlp-1gb", "", "models/mlp.onnx", "x", _ROWS, 3),
    Subject("mlp-1gb-external", "", "models/mlp-external.onnx", "x", _ROWS, 3),
)
BY_NAME = {subject.name: subject for subject in SUBJECTS}


@dataclass(frozen=True, slots=True)
class Project:
    """A folder of specs; `scratch` is for caches and engines, each used once."""

    specs: Path
    scratch: Path

    def model(self, subject: Subject) -> Path:
        if not subject.package:
            return self.specs / subject.path
        found = subprocess.run(
            [sys.executable, "-c", f"import {subject.package} as p; print(p.__path__[0])"],
            capture_output=True,
            text=True,
            check=True,
        )
        return Path(found.stdout.strip()) / subject.path

    def bare(self, subject: Subject, engine: Path, capability: str, *options: str) -> list[str]:
        """The command that builds a subject without EngineForge."""
        shapes = json.dumps({subject.tensor: subject.bounds})
        model = str(self.model(subject))
        return [sys.executable, _BARE, model, shapes, capability, str(engine), *options]

    def forge(self, spec: str, cache: Path, *options: str) -> list[str]:
        """The command that builds a spec with EngineForge, from a cache that is not there yet."""
        return [
            ENGINEFORGE,
            "build",
            str(self.specs / f"{spec}.yaml"),
            "--cache",
            str(cache),
            *options,
        ]


@contextmanager
def project(names: Sequence[str], folder: str | None) -> Iterator[Project]:
    """A project below `folder` (or the default one for temporary files) with these subjects, under
    Git like a user's own."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="engineforge-benchmark-") as made:
        specs = Path(made) / "specs"
        (specs / "models").mkdir(parents=True)
        scratch = Path(made) / "scratch"
        scratch.mkdir()
        (Path(made) / ".gitignore").write_text("scratch/\nspecs/models/\n")
        (specs / "targets.yaml").write_text("".join(map(_target, CAPABILITIES)))
        for name in names:
            _add(specs, BY_NAME[name])
        author = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
        for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "specs"]):
            subprocess.run(["git", "-C", made, *words], check=True)
        yield Project(specs, scratch)


def _target(capability: str) -> str:
    return (
        f"{_target_name(capability)}:\n"
        "  backend: tensorrt_rtx\n"
        "  version: 1.7.1.116\n"
        f"  compute_capabilities: [{capability}]\n"
    )


def _target_name(capability: str) -> str:
    return "sm" + capability.replace(".", "")


def _add(specs: Path, subject: Subject) -> None:
    low, best, high = (list(dims) for dims in subject.bounds)
    package = f"package: {subject.package}, " if subject.package else ""
    for suffix, capabilities in (("", CAPABILITIES[:1]), ("-four", CAPABILITIES)):
        (specs / f"{subject.name}{suffix}.yaml").write_text(
            f"model:\n  source: {{{package}path: {subject.path}}}\n"
            f"inputs:\n  {subject.tensor}: {{min: {low}, opt: {best}, max: {high}}}\n"
            f"targets: [{', '.join(map(_target_name, capabilities))}]\n"
        )
    path = specs / subject.path
    match subject.name:
        case "resnet50":
            _resnet50(path)
        case "mlp-1gb":
            _mlp(path, external=None)
        case "mlp-1gb-external":
            _mlp(path, external="mlp.weights")


def _mlp(path: Path, *, external: str | None) -> None:
    """16 times MatMul (4096 x 4096) and ReLU: 1 GiB of FP32 weights."""
    random = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for i in range(_LAYERS):
        values = random.standard_normal((_WIDTH, _WIDTH), dtype=np.float32)
        weights.append(numpy_helper.from_array(values, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"], name=f"matmul{i}"))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"y{i}"], name=f"relu{i}"))
        last = f"y{i}"
    ends = {"x": ("batch", _WIDTH), last: ("batch", _WIDTH)}
    save(_graph(nodes, weights, ends), path, external=external)


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

    def bottleneck(self, x: str, into: int, width: int, stride: int) -> str:
        y = self.node("Relu", [self.conv(x, into, width, size=1)])
        y = self.node("Relu", [self.conv(y, width, width, size=3, stride=stride)])
        y = self.conv(y, width, 4 * width, size=1)
        if into != 4 * width:
            x = self.conv(x, into, 4 * width, size=1, stride=stride)
        return self.node("Relu", [self.node("Add", [x, y])])


def _resnet50(path: Path) -> None:
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
    save(_graph(layers.nodes, layers.weights, ends), path)


def _graph(
    nodes: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    ends: Mapping[str, Sequence[Dim]],
) -> onnx.GraphProto:
    """`ends` are the input and the output, in that order."""
    taken, given = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in ends.items()
    )
    return helper.make_graph(nodes, "benchmark", [taken], [given], weights)
