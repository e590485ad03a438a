"""The project's digit networks in any precision, with the data of their holdout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engineforge.samples.sample import Sample
from engineforge.spec.model import ArrayFiles, Calibration, Precision
from engineforge.stages.precision.graph import opset_of
from engineforge.stages.precision.prepare import prepare
from engineforge.stages.precision.typed import make_typed
from engineforge.stages.sources.onnx import read_model
from tests.checks.graphs import Array

MODELS = Path(__file__).parents[2] / "specs" / "models"
NETS = ("digits-convnet", "digits-transformer")


def images(net: str, part: str) -> tuple[Array, Array]:
    """Inputs and labels of `train` or `holdout`."""
    with np.load(MODELS / f"digits-{part}.npz") as data:
        image, label = data["image8"], data["label"]
    small = image[:, np.newaxis].astype(np.float32) / np.float32(16)
    if net == "digits-transformer":
        return small, label
    return np.repeat(np.kron(small, np.ones((1, 1, 4, 4), np.float32)), 3, axis=1), label


@dataclass(frozen=True)
class Stream:
    """Samples of some images each, made anew on each pass."""

    image: Array
    label: Array
    batch: int = 40

    def __iter__(self) -> Iterator[Sample]:
        for at in range(0, len(self.image), self.batch):
            here = slice(at, at + self.batch)
            yield Sample({"image": self.image[here]}, self.label[here], f"samples from {at}")


def holdout(net: str, most: int | None = None) -> Stream:
    image, label = images(net, "holdout")
    return Stream(image[:most], label[:most])


@dataclass(frozen=True)
class Conversion:
    """A model, the graph that was converted, and what became of it."""

    model: Path
    source: Path
    typed: Path


def converted(
    model: Path,
    folder: Path,
    name: str,
    *,
    calibrate_on: Array | None = None,
    **asked: Any,  # noqa: ANN401 - any field of Precision
) -> Conversion:
    """By the precision stage itself. Skips where its tool is not installed."""
    if asked.get("tool") == "modelopt" or name in ("bf16", "fp8", "int4"):
        pytest.importorskip("modelopt", reason="python -m pip install 'engineforge[modelopt]'")
    calibration = None
    samples = None
    if calibrate_on is not None:
        calibration = Calibration(data=ArrayFiles(path="unread.npz"), method="max")
        samples = Stream(calibrate_on, np.zeros(len(calibrate_on)), batch=1)
    precision = Precision(name=name, calibration=calibration, **asked)
    out, scratch, prepared = (folder / each for each in ("typed", "scratch", "prepared"))
    for each in (out, scratch, prepared):
        each.mkdir()
    make_typed(model, precision, samples=samples, out=out, scratch=scratch)
    typed = out / "model.onnx"
    source = prepare(model, opset=opset_of(read_model(typed)), out=prepared)
    return Conversion(model, source, typed)


def overflowing(path: Path) -> Path:
    """The convolutional network with activations that FP16 cannot hold, and the same outputs."""
    model = onnx.load(MODELS / "digits-convnet.onnx")
    first, second = (node for node in model.graph.node if node.op_type == "Conv")
    factors = dict.fromkeys(first.input[1:], 2.0**16) | {second.input[1]: 2.0**-16}
    for tensor in model.graph.initializer:
        if factor := factors.get(tensor.name):
            scaled = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
    onnx.save(model, path)
    return path
