"""Typed graphs of the digit networks against their sources, on the holdout: 360 samples, so that
one is 0.28 points."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")

from engineforge.checks.accuracy import measure
from engineforge.checks.run import CheckError
from engineforge.checks.thresholds import failures
from engineforge.samples.sample import Sample
from tests.checks.digits import MODELS, NETS, Conversion, Stream, converted, holdout, images
from tests.checks.graphs import F16, F32, constant, model, sample
from tests.models import convnet

node = onnx.helper.make_node
GATE = {"min_top1_agreement": 0.98, "max_relative_error": 0.1, "max_top1_drop": 0.01}
CLOSE = {"min_top1_agreement": 0.995, "max_relative_error": 0.02, "max_top1_drop": 0.01}
# BF16 has 8 significant bits: of the transformer's 360 decisions 2 change (99.44 %), both between
# logits that are about two of its steps apart.
CLOSE_IN_BF16 = {**CLOSE, "min_top1_agreement": 0.994}
# Precision, what else is asked for, and what is to be reached.
PRECISIONS: list[tuple[str, dict[str, Any], dict[str, float]]] = [
    ("fp16", {}, CLOSE),
    ("fp16", {"keep_io_types": False}, CLOSE),
    ("fp16", {"tool": "modelopt"}, CLOSE),
    ("bf16", {}, CLOSE_IN_BF16),
    ("int8", {}, GATE),
    ("int8", {"high_precision": "fp16"}, GATE),
    ("int8", {"tool": "modelopt", "high_precision": "bf16"}, GATE),
    ("fp8", {}, GATE),
    ("fp8", {"high_precision": "fp16"}, GATE),
]


def measured(made: Conversion, samples: Any, folder: Path) -> dict[str, Any]:  # noqa: ANN401
    scratch = folder / "checks"
    scratch.mkdir()
    return measure(made.model, made.typed, samples, class_axis=-1, scratch=scratch)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("name", "asked", "gate"), PRECISIONS, ids=str)
def test_every_precision_passes_on_the_holdout(
    net: str, name: str, asked: dict[str, Any], gate: dict[str, float], tmp_path: Path
) -> None:
    data = images(net, "train")[0][:128] if name in ("int8", "fp8") else None
    made = converted(MODELS / f"{net}.onnx", tmp_path, name, calibrate_on=data, **asked)
    found = measured(made, holdout(net), tmp_path)
    assert failures(found, gate) == []
    assert found["outputs"]["logits"]["decisions"] == 360


def test_fp16_of_the_convolutional_network_is_close_but_not_equal(tmp_path: Path) -> None:
    made = converted(MODELS / "digits-convnet.onnx", tmp_path, "fp16")
    found = measured(made, holdout("digits-convnet"), tmp_path)
    assert failures(found, CLOSE) == []
    assert 60 < found["outputs"]["logits"]["sqnr_db"] < 80


def test_a_graph_against_itself_has_no_error(tmp_path: Path) -> None:
    path = MODELS / "digits-convnet.onnx"
    found = measured(Conversion(path, path, path), holdout("digits-convnet", 80), tmp_path)
    logits = found["outputs"]["logits"]
    assert (logits["max_absolute_error"], logits["sqnr_db"]) == (0, "inf")


def test_results_do_not_depend_on_how_samples_are_batched(tmp_path: Path) -> None:
    made = converted(MODELS / "digits-convnet.onnx", tmp_path, "fp16")
    image, label = images("digits-convnet", "holdout")
    found = []
    for batch in (7, 60):
        scratch = tmp_path / str(batch)
        scratch.mkdir()
        stream = Stream(image[:60], label[:60], batch)
        got = measure(made.model, made.typed, stream, class_axis=-1, scratch=scratch)
        found.append(got["outputs"]["logits"])
    assert found[0]["top1_agreement"] == found[1]["top1_agreement"]
    assert found[0]["relative_error"] == pytest.approx(found[1]["relative_error"], rel=0.1)


def test_calibrating_on_images_that_were_not_divided_by_255_fails(tmp_path: Path) -> None:
    data = images("digits-convnet", "train")[0][:32] * np.float32(255)
    made = converted(MODELS / "digits-convnet.onnx", tmp_path, "int8", calibrate_on=data)
    found = measured(made, holdout("digits-convnet", 120), tmp_path)
    said = failures(found, GATE)
    assert any(line.startswith("top1_agreement of 'logits' is 0.") for line in said)
    assert any(line.startswith("relative_error of 'logits' is ") for line in said)


def test_the_result_can_be_written_as_json(tmp_path: Path) -> None:
    path = convnet(tmp_path / "net.onnx")
    image = np.full((2, 3, 16, 16), 1e5, np.float32)
    made = converted(path, tmp_path, "fp16")
    found = measured(made, [sample({"image": image})], tmp_path)
    assert json.loads(json.dumps(found, allow_nan=False))["outputs"]["logits"]["non_finite"] == 20


def test_weights_may_lie_beside_both_models(tmp_path: Path) -> None:
    path = convnet(tmp_path / "net.onnx", external="net.data")
    made = converted(path, tmp_path, "fp16")
    image = np.ones((2, 3, 16, 16), np.float32)
    found = measured(made, [sample({"image": image})], tmp_path)
    assert 0 < found["outputs"]["logits"]["relative_error"] < 0.01


def squares(low: int, *, factor: float = 1) -> onnx.ModelProto:
    return model(
        [node("Mul", ["x", "x"], ["a"]), node("Mul", ["a", "k"], ["y"])],
        [("x", low, ["n"])],
        [("y", low, ["n"])],
        [constant("k", factor, low)],
    )


def saved(made: onnx.ModelProto, path: Path) -> Path:
    onnx.save(made, path)
    return path


def test_a_source_in_fp16_is_compared_in_fp32_arithmetic(tmp_path: Path) -> None:
    path = saved(squares(F16, factor=2**-10), tmp_path / "source.onnx")
    x = np.array([300, 1], np.float16)
    found = measured(Conversion(path, path, path), [sample({"x": x})], tmp_path)
    assert found["outputs"]["y"]["non_finite"] == 1


def test_a_source_that_is_not_finite_is_an_error_that_names_the_sample(tmp_path: Path) -> None:
    path = saved(squares(F32), tmp_path / "source.onnx")
    samples = [
        Sample({"x": np.array([x], np.float32)}, None, f"data.npz, sample {i}")
        for i, x in enumerate((1, 1e30))
    ]
    with pytest.raises(CheckError, match=r"'y' that are not finite, on data\.npz, sample 1"):
        measured(Conversion(path, path, path), samples, tmp_path)


def test_no_samples_are_an_error(tmp_path: Path) -> None:
    path = saved(squares(F32), tmp_path / "source.onnx")
    with pytest.raises(CheckError, match="there are no samples to compare on"):
        measured(Conversion(path, path, path), [], tmp_path)


def test_an_input_that_the_data_lacks_is_an_error(tmp_path: Path) -> None:
    path = saved(squares(F32), tmp_path / "source.onnx")
    with pytest.raises(CheckError, match="s has no 'x', an input of the source graph"):
        measured(Conversion(path, path, path), [sample({})], tmp_path)


def test_a_typed_graph_without_an_output_of_the_source_is_an_error(tmp_path: Path) -> None:
    path = saved(squares(F32), tmp_path / "source.onnx")
    other = squares(F16)
    other.graph.output[0].name = "a"
    made = Conversion(path, path, saved(other, tmp_path / "typed.onnx"))
    with pytest.raises(CheckError, match="the typed graph has no output 'y'"):
        measured(made, [sample({"x": np.ones(1, np.float32)})], tmp_path)


def test_what_onnx_runtime_cannot_load_is_an_error_that_says_why(tmp_path: Path) -> None:
    path = saved(squares(F32), tmp_path / "source.onnx")
    other = squares(F32)
    other.graph.node[1].op_type = "Nonsense"
    made = Conversion(path, path, saved(other, tmp_path / "typed.onnx"))
    with pytest.raises(CheckError, match=r"cannot load the typed graph: .*Nonsense"):
        measured(made, [sample({"x": np.ones(1, np.float32)})], tmp_path)
