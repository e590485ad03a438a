"""A network whose activations overflow FP16: caught by the check, and mended by what it says."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.conftest import Forge

SPECS = Path(__file__).parent.parent.parent / "specs"
_SPEC = """\
model: {source: {path: models/overflowing.onnx}}
inputs: {image: {min: [1, 3, 32, 32], opt: [8, 3, 32, 32], max: [64, 3, 32, 32]}}
targets: [ada]
precision: fp16
checks:
  accuracy:
    data: {python: 'digits:convnet_holdout', files: [models/digits-holdout.npz]}
    labels: label
    max_top1_drop: 0.01
    min_top1_agreement: 0.995
variants:
  plain: {}
  mended:
    tool: modelopt
    calibration:
      data: {python: 'digits:convnet_training', files: [models/digits-train.npz]}
      samples: 32
"""


def overflowing(path: Path) -> None:
    """The digits network with its first convolution times 2^16, and the next by 2^16 smaller."""
    model = onnx.load(SPECS / "models" / "digits-convnet.onnx")
    by = {"conv1.weight": 2.0**16, "conv1.bias": 2.0**16, "conv2.weight": 2.0**-16}
    for tensor in model.graph.initializer:
        if tensor.name in by:
            values = numpy_helper.to_array(tensor) * np.float32(by.pop(tensor.name))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    assert not by
    onnx.save(model, path)


@pytest.fixture
def project(forge: Forge) -> Forge:
    shutil.copy(SPECS / "digits.py", forge.specs)
    shutil.copytree(SPECS / "models", forge.specs / "models", dirs_exist_ok=True)
    overflowing(forge.specs / "models" / "overflowing.onnx")
    forge.spec("net", _SPEC)
    return forge


@pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None,
    reason="needs: python -m pip install 'engineforge[precision]'",
)
def test_plain_fp16_is_caught_and_the_message_says_what_helps(project: Forge) -> None:
    result = project.run("check", "specs", "--accuracy", "--variant", "plain")
    assert result.code == 1
    assert "FAILED   net/plain@ada" in result.out
    assert "top1_agreement of 'logits' is" in result.err
    assert "overflow" in result.err
    assert "node_conv2d" in result.err or "conv" in result.err.lower()
    assert "tool: modelopt" in result.err
    assert "keep_fp32: [" in result.err


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("modelopt") is None,
    reason="needs: python -m pip install 'engineforge[modelopt]'",
)
def test_modelopt_keeps_in_fp32_what_overflows_on_the_samples(project: Forge) -> None:
    result = project.run("check", "specs", "--accuracy", "--variant", "mended")
    assert result.code == 0, result.err
    assert "passed   net/mended@ada" in result.out
    assert project.build("--variant", "mended").outcomes() == {"mended@ada": "built"}
