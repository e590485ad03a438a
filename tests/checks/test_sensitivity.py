"""What layers cost, which hurt, and what would mend a graph that failed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")

from engineforge.checks.accuracy import measure
from engineforge.checks.diagnosis import diagnosis
from engineforge.checks.pair import Pair
from engineforge.checks.sensitivity import pattern, ranked, sensitivity, suggest
from engineforge.checks.thresholds import failures
from engineforge.samples.sample import Sample
from engineforge.stages.precision.patterns import matches
from tests.checks.digits import MODELS, Conversion, converted, holdout, images, overflowing
from tests.checks.graphs import F32, Array, constant, model, sample

node = helper.make_node
GATE = {"min_top1_agreement": 0.98}
HOLDOUT = holdout("digits-convnet", 120)


def told(made: Conversion, folder: Path, thresholds: dict[str, float] = GATE) -> list[str]:
    scratch = folder / "diagnosis"
    scratch.mkdir()
    return diagnosis(
        made.source, made.typed, HOLDOUT, thresholds=thresholds, class_axis=-1, scratch=scratch
    )


def kept(lines: list[str]) -> tuple[str, ...]:
    """What a reader would copy into the spec."""
    (line,) = (line for line in lines if line.startswith("keep_fp32: "))
    return tuple(json.loads(line.removeprefix("keep_fp32: ")))


@pytest.fixture
def broken(tmp_path: Path) -> Conversion:
    """FP16 where FP16 is too small."""
    return converted(overflowing(tmp_path / "net.onnx"), tmp_path, "fp16")


def test_plain_fp16_that_overflows_fails(broken: Conversion, tmp_path: Path) -> None:
    found = measure(broken.model, broken.typed, HOLDOUT, class_axis=-1, scratch=_new(tmp_path))
    assert failures(found, GATE) == [
        "top1_agreement of 'logits' is 0, expected at least 0.98: "
        "1200 of 1200 values are not finite"
    ]


def test_the_layer_that_overflows_is_named_and_modelopt_is_advised(
    broken: Conversion, tmp_path: Path
) -> None:
    line = told(broken, tmp_path)[0]
    assert line.startswith("FP16 overflows: the output of 'node_conv2d' is the first beyond 65504")
    assert "`tool: modelopt` finds such layers" in line


def test_the_keep_fp32_that_is_suggested_mends_it_when_it_is_built(
    broken: Conversion, tmp_path: Path
) -> None:
    patterns = kept(told(broken, tmp_path))
    again = tmp_path / "again"
    again.mkdir()
    made = converted(broken.model, again, "fp16", keep_fp32=patterns)
    found = measure(made.model, made.typed, HOLDOUT, class_axis=-1, scratch=_new(again))
    assert failures(found, {"min_top1_agreement": 1, "max_relative_error": 0.001}) == []


def test_what_overflows_passes_with_modelopt(tmp_path: Path) -> None:
    data = images("digits-convnet", "train")[0][:8]
    path = overflowing(tmp_path / "net.onnx")
    made = converted(path, tmp_path, "fp16", tool="modelopt", calibrate_on=data)
    found = measure(made.model, made.typed, HOLDOUT, class_axis=-1, scratch=_new(tmp_path))
    assert failures(found, GATE) == []


def test_a_calibration_that_is_wrong_throughout_is_not_mended(tmp_path: Path) -> None:
    data = images("digits-convnet", "train")[0][:16] * np.float32(255)
    made = converted(MODELS / "digits-convnet.onnx", tmp_path, "int8", calibrate_on=data)
    lines = told(made, tmp_path, {"max_relative_error": 0.001})
    assert not any(line.startswith("keep_fp32") for line in lines)
    assert lines[-1].startswith("keeping up to half of the 4 low layers in FP32 does not mend it")


def test_a_graph_that_differs_not_by_precision_is_told_so(tmp_path: Path) -> None:
    path = MODELS / "digits-convnet.onnx"
    assert told(Conversion(path, path, path), tmp_path) == [
        "no layer is lower than in the source graph: the difference is not of precision"
    ]


def coarse(scales: list[float]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A chain of Sigmoids, and the same with the input of each quantized, by these scales."""
    plain, quantized, before, now = [], [], "x", "x"
    weights = [helper.make_tensor("z", TensorProto.INT8, [], [0])]
    for i, scale in enumerate(scales):
        plain.append(node("Sigmoid", [before], [f"y{i}"], name=f"layer[{i}]"))
        weights.append(constant(f"s{i}", scale, F32))
        quantized += [
            node("QuantizeLinear", [now, f"s{i}", "z"], [f"q{i}"], name=f"q{i}"),
            node("DequantizeLinear", [f"q{i}", f"s{i}", "z"], [f"d{i}"], name=f"d{i}"),
            node("Sigmoid", [f"d{i}"], [f"y{i}"], name=f"layer[{i}]"),
        ]
        before = now = f"y{i}"
    inputs, outputs = [("x", F32, ["n", 8])], [(before, F32, ["n", 8])]
    return model(plain, inputs, outputs), model(quantized, inputs, outputs, weights)


def pair_of(graphs: tuple[onnx.ModelProto, onnx.ModelProto], folder: Path) -> Pair:
    paths = (folder / "source.onnx", folder / "typed.onnx")
    for graph, path in zip(graphs, paths, strict=True):
        onnx.save(graph, path)
    scratch = folder / "pair"
    scratch.mkdir()
    return Pair(*paths, scratch)


def noise() -> Array:
    return np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)


SCALES = [0.03, 0.01, 0.6, 0.01]


def test_the_local_sqnr_of_a_layer_is_that_of_its_quantized_input(tmp_path: Path) -> None:
    pair, x = pair_of(coarse([0.03, 0.01]), tmp_path), noise()
    sqnr = pair.local_sqnr([sample({"x": x})])["layer[0]"]
    rounded = np.clip(np.rint(x / np.float32(0.03)), -128, 127) * np.float32(0.03)
    expected = 10 * math.log10((x**2).sum() / ((x - rounded) ** 2).sum())
    assert sqnr == pytest.approx(expected, abs=0.01)


def test_the_layer_that_costs_most_comes_first(tmp_path: Path) -> None:
    pair = pair_of(coarse(SCALES), tmp_path)
    expected = pair.expected([sample({"x": noise()})])
    costs = ranked(list(sensitivity(pair, expected, class_axis=-1)))
    assert costs[0]["layer"] == "layer[2]"
    assert costs[0]["type"] == "Sigmoid"
    assert {each["layer"] for each in costs} == {f"layer[{i}]" for i in range(4)}
    json.dumps(costs, allow_nan=False)


def test_the_fewest_layers_that_are_enough_are_suggested(tmp_path: Path) -> None:
    pair = pair_of(coarse(SCALES), tmp_path)
    expected = pair.expected([sample({"x": noise()})])
    local = pair.local_sqnr(each for each, _ in expected)
    found = suggest(pair, expected, local, thresholds={"max_relative_error": 0.01}, class_axis=-1)
    assert found is not None
    assert found.layers == ("layer[2]",)
    assert found.keep_fp32 == ("layer[[]2]",)
    assert found.measured["outputs"]["y3"]["relative_error"] <= 0.01


def test_nothing_is_suggested_where_nothing_is_enough(tmp_path: Path) -> None:
    pair = pair_of(coarse(SCALES), tmp_path)
    expected = pair.expected([sample({"x": noise()})])
    local = pair.local_sqnr(each for each, _ in expected)
    thresholds = {"max_relative_error": 1e-9}
    assert suggest(pair, expected, local, thresholds=thresholds, class_axis=-1) is None


@pytest.mark.parametrize("name", ["/a/Conv", "layer[0]", "what?", "all*", "type:Conv", "[!x]"])
def test_a_pattern_means_the_node_of_that_name_and_no_other(name: str) -> None:
    others = ["layer0", "whats", "all", "ax", "x", "Conv"]
    made = model(
        [node("Relu", ["x"], [f"y{i}"], name=each) for i, each in enumerate([name, *others])],
        [("x", F32, [1])],
        [("y0", F32, [1])],
    )
    assert matches(made, [pattern(name)]) == {pattern(name): [name]}


def test_the_source_runs_once_and_samples_are_read_for_each_graph(tmp_path: Path) -> None:
    reads: list[int] = []

    class Counted:
        def __iter__(self) -> Iterator[Sample]:
            reads.append(1)
            yield sample({"x": noise()})

    expected = pair_of(coarse(SCALES), tmp_path).expected(Counted())
    first, second = [*expected], [*expected]
    assert len(reads) == 2
    assert (first[0][1]["y3"] == second[0][1]["y3"]).all()
    assert [each.name for each in (tmp_path / "pair" / "expected").iterdir()] == ["0.npz"]


def _new(folder: Path) -> Path:
    made = folder / "measured"
    made.mkdir()
    return made
