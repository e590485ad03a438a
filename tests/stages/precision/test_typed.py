"""The whole stage: what it writes, what it says, and that a second time makes the same."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import engineforge
from engineforge.errors import EngineForgeError
from tests.models import convnet
from tests.stages.precision.rtx import build

pytest.importorskip("onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'")
from tests.stages.precision.nets import Feed, convert, noise, paddle, residual, run

_REPOSITORY = Path(engineforge.__file__).parent.parent
_MODELS = _REPOSITORY / "specs" / "models"
_INT8: dict[str, Any] = {"name": "int8", "high_precision": "fp16"}


def _digits(network: str, part: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Images as a network takes them, and what they show."""
    held = np.load(_MODELS / f"digits-{part}.npz")
    pixels = held["image8"][:, np.newaxis].astype(np.float32) / np.float32(16)
    if network == "convnet":
        pixels = np.repeat(np.kron(pixels, np.ones((1, 1, 4, 4), np.float32)), 3, axis=1)
    return pixels, held["label"]


def _feeds(network: str, count: int = 64) -> Sequence[Feed]:
    return [{"image": image[np.newaxis]} for image in _digits(network, "train")[0][:count]]


each_network = pytest.mark.parametrize("network", ["convnet", "transformer"])


@each_network
@pytest.mark.parametrize(
    "settings",
    [
        {"name": "fp16"},
        {"name": "fp16", "keep_io_types": False},
        {"name": "fp16", "keep_fp32": ("type:Gemm", "type:Re*")},
        {"name": "int8"},
        {"name": "int8", "method": "percentile", "percentile": "99.99"},
        _INT8,
        {**_INT8, "keep_fp32": ("type:Gemm",)},
    ],
    ids=["fp16", "fp16-io", "mixed", "int8", "percentile", "int8-fp16", "int8-mixed"],
)
def test_digits_are_as_right_as_before_and_build(
    tmp_path: Path, network: str, settings: dict[str, Any]
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes((_MODELS / f"digits-{network}.onnx").read_bytes())
    samples = _feeds(network) if settings["name"] == "int8" else None
    typed = convert(path, samples=samples, **settings)
    images, labels = _digits(network, "holdout")
    low = images if settings.get("keep_io_types", True) else images.astype(np.float16)
    expected = run(path, {"image": images})[0].argmax(1)
    found = typed.run({"image": low})[0].argmax(1)
    assert (found == expected).mean() >= 0.98
    assert (found == labels).mean() >= (expected == labels).mean() - 0.01
    assert build(typed.path, {"image": (1, *images.shape[1:])}) > 0


@each_network
def test_pruned_digits_build(tmp_path: Path, network: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes((_MODELS / f"digits-{network}.onnx").read_bytes())
    images, _ = _digits(network, "holdout")
    for settings in ({"name": "tf32"}, {"name": "fp16"}, {**_INT8, "samples": _feeds(network, 8)}):
        typed = convert(path, sparsity="2:4", **settings)
        assert build(typed.path, {"image": (1, *images.shape[1:])}) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "shape"),
    [
        ("PP-OCRv6_det_small.onnx", (1, 3, 320, 320)),
        ("PP-OCRv6_rec_small.onnx", (1, 3, 48, 320)),
        ("ch_ppocr_mobile_v2.0_cls_mobile.onnx", (1, 3, 48, 192)),
    ],
)
def test_every_precision_of_the_ocr_models_builds(
    tmp_path: Path, file: str, shape: tuple[int, ...]
) -> None:
    rapidocr = pytest.importorskip(
        "rapidocr", reason="needs: python -m pip install 'engineforge[examples]'"
    )
    path = tmp_path / "m.onnx"
    path.write_bytes((Path(rapidocr.__file__).parent / "models" / file).read_bytes())
    samples = noise(*shape, count=2)
    for settings in (
        {"name": "fp16"},
        {"name": "fp32", "sparsity": "2:4"},
        {"name": "int8", "samples": samples},
        {**_INT8, "samples": samples, "sparsity": "2:4", "keep_fp32": ("type:Relu",)},
    ):
        assert build(convert(path, **settings).path, {"x": shape}) > 0


def test_the_report_says_what_was_done(tmp_path: Path) -> None:
    typed = convert(
        paddle(tmp_path / "m.onnx"),
        "int8",
        samples=noise(1, 3, 16, 16),
        keep_fp32=("HardSigmoid_*", "product"),
        high_precision="fp16",
    )
    report = typed.report
    assert report.pop("versions").keys() >= {"onnxruntime"}
    assert report == {
        "tool": "onnxruntime",
        "opset": {"before": 11, "after": 19},
        "layers": {"Conv": 2, "MatMul": 1},
        "quantized": {"Conv": 2},
        "not_quantized": ["product"],
        "kept_fp32": ["HardSigmoid_0", "product"],
        "pruned": None,
    }


def test_the_calibration_is_kept_readable(tmp_path: Path) -> None:
    typed = convert(
        residual(tmp_path / "m.onnx"),
        "int8",
        samples=noise(1, 8, 8, 8, count=5),
        method="percentile",
        percentile="99.9",
        high_precision="fp16",
    )
    found = typed.json("calibration.json")
    assert found.pop("versions").keys() >= {"onnxruntime"}
    activations, weights = found.pop("activations"), found.pop("weights")
    assert found == {
        "format": 2,
        "tool": "onnxruntime",
        "method": "percentile",
        "percentile": "99.9",
        "samples": 5,
        "seed": None,
    }
    assert list(activations) == ["x", "r", "q", "f"]
    assert activations["x"]["amax"] == pytest.approx(127 * activations["x"]["scale"])
    assert 2 < activations["x"]["amax"] < 4
    assert list(weights) == ["w0", "w1", "w2", "w3"]
    assert weights["w3"]["channels"] == 10
    scale = typed.tensor("w3_scale").astype(np.float32)
    assert weights["w3"]["scale_max"] == pytest.approx(scale.max())


def test_max_holds_the_largest_value_of_any_sample(tmp_path: Path) -> None:
    samples = noise(1, 8, 8, 8, count=70)  # more than are looked at together
    typed = convert(residual(tmp_path / "m.onnx"), "int8", samples=samples)
    largest = max(float(np.abs(feed["x"]).max()) for feed in samples)
    assert typed.json("calibration.json")["activations"]["x"]["amax"] == pytest.approx(largest)


def test_what_was_not_calibrated_has_no_calibration(tmp_path: Path) -> None:
    typed = convert(convnet(tmp_path / "m.onnx"), "fp16", samples=noise(1, 3, 16, 16, name="image"))
    assert [each.name for each in typed.folder.iterdir()] == ["model.onnx"]


def test_names_and_shapes_of_inputs_and_outputs_stay(tmp_path: Path) -> None:
    path = convnet(tmp_path / "m.onnx")
    source, typed = onnx.load(path).graph, convert(path, "fp16").model.graph
    assert list(typed.input) == list(source.input)
    assert list(typed.output) == list(source.output)


def test_a_pattern_that_means_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineForgeError, match="no node that '/conv/Con' means") as found:
        convert(convnet(tmp_path / "m.onnx"), "fp16", keep_fp32=("/conv/Con",))
    assert "'/conv/Conv'" in str(found.value.hint)


def test_weights_outside_the_file_give_the_same_model(tmp_path: Path) -> None:
    inside = convnet(tmp_path / "inside" / "m.onnx", channels=64)
    outside = convnet(tmp_path / "outside" / "m.onnx", channels=64, external="w.bin")
    samples = noise(1, 3, 16, 16, name="image")
    for settings in ({"name": "fp16"}, {**_INT8, "samples": samples}):
        one, other = (convert(path, **settings) for path in (inside, outside))
        assert one.path.read_bytes() == other.path.read_bytes()


_CONVERT = """
import sys
from pathlib import Path
from tests.stages.precision.nets import convert, noise, paddle, residual
folder, name, method, sparsity = sys.argv[1:]
for net, shape in ((paddle, (1, 3, 16, 16)), (residual, (1, 8, 8, 8))):
    int8 = {"samples": noise(*shape), "high_precision": "fp16", "method": method}
    int8["percentile"] = "99.9" if method == "percentile" else None
    convert(net(Path(folder) / f"{net.__name__}.onnx"), name, sparsity=sparsity or None,
            **(int8 if name == "int8" else {}))
"""


@pytest.mark.parametrize(
    ("name", "method", "sparsity"),
    [("fp16", "", "2:4"), ("int8", "max", ""), ("int8", "percentile", "2:4")],
)
def test_another_process_and_another_path_make_the_same_bytes(
    tmp_path: Path, name: str, method: str, sparsity: str
) -> None:
    found = []
    for i, folder in enumerate(("a", "b/another place")):
        (tmp_path / folder).mkdir(parents=True)
        environment = {**os.environ, "PYTHONHASHSEED": str(i), "PYTHONPATH": str(_REPOSITORY)}
        arguments = [str(tmp_path / folder), name, method, sparsity]
        subprocess.run([sys.executable, "-c", _CONVERT, *arguments], env=environment, check=True)
        written = sorted((tmp_path / folder).glob("typed-*/out/*"))
        found.append([(p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for p in written])
    assert len(found[0]) >= 2
    assert found[0] == found[1]
