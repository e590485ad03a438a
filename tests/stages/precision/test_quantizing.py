"""INT8 with ONNX Runtime: where Q/DQ nodes are, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from engineforge.errors import EngineForgeError
from engineforge.stages.precision.graph import nodes
from tests.models import convnet
from tests.stages.precision.rtx import build

pytest.importorskip("onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'")
from tests.stages.precision.nets import (
    Typed,
    branched,
    constant,
    convert,
    error,
    floats,
    graph,
    node,
    noise,
    paddle,
    residual,
    run,
    saved,
    weights,
)

_NETS: dict[Callable[[Path], Path], tuple[int, ...]] = {
    residual: (1, 8, 8, 8),
    paddle: (1, 3, 16, 16),
}
_PERCENTILES = {"max": None, "entropy": None, "percentile": "99.99"}


def _quantized(path: Path, *shape: int, **settings: Any) -> Typed:  # noqa: ANN401
    return convert(path, "int8", samples=noise(*shape), **settings)


def _is_quantized(typed: Typed, name: str, at: int) -> bool:
    """Whether an input of a node comes out of a DequantizeLinear, maybe cast."""
    producers = {out: each for each in nodes(typed.model) for out in each.output}
    source = producers.get(typed.node(name).input[at])
    while source is not None and source.op_type == "Cast":
        source = producers.get(source.input[0])
    return source is not None and source.op_type == "DequantizeLinear"


@pytest.mark.parametrize(
    ("method", "high"),
    [("max", "fp32"), ("max", "fp16"), ("percentile", "fp32"), ("entropy", "fp16")],
)
@pytest.mark.parametrize("net", list(_NETS), ids=lambda net: net.__name__)
def test_int8_is_near_and_builds(
    tmp_path: Path, net: Callable[[Path], Path], method: str, high: str
) -> None:
    path, shape = net(tmp_path / "m.onnx"), _NETS[net]
    percentile = _PERCENTILES[method]
    typed = _quantized(path, *shape, method=method, percentile=percentile, high_precision=high)
    (feed, *_) = noise(*shape)
    assert 0 < error(typed.run(feed)[0], run(path, feed)[0]) < 0.05
    assert build(typed.path, {"x": shape}) > 0


def test_weights_are_int8_by_channel_and_biases_are_not(tmp_path: Path) -> None:
    typed = _quantized(residual(tmp_path / "m.onnx"), 1, 8, 8, 8)
    assert typed.tensor("w0_quantized").dtype == np.int8
    assert typed.tensor("w0_scale").shape == (8,)
    assert typed.tensor("w3_scale").shape == (10,)
    assert typed.tensor("bias").dtype == np.float32
    assert "w0" not in {tensor.name for tensor in typed.model.graph.initializer}


def test_scales_are_of_the_type_around(tmp_path: Path) -> None:
    path = residual(tmp_path / "m.onnx")
    for high, type_ in (("fp32", np.float32), ("fp16", np.float16)):
        typed = _quantized(path, 1, 8, 8, 8, high_precision=high)
        assert typed.tensor("w0_scale").dtype == type_
        assert typed.tensor("x_scale").dtype == type_


def test_what_layers_give_is_not_quantized(tmp_path: Path) -> None:
    typed = _quantized(residual(tmp_path / "m.onnx"), 1, 8, 8, 8)
    assert typed.node("relu").input[0] == "a"
    assert typed.node("norm").input[0] == "b"


def test_an_addition_reads_int8_where_a_convolution_takes_it_in(tmp_path: Path) -> None:
    typed = _quantized(residual(tmp_path / "m.onnx"), 1, 8, 8, 8)
    assert _is_quantized(typed, "add", 1)
    assert not _is_quantized(typed, "add", 0)
    assert not _is_quantized(convert_add(tmp_path / "add"), "add", 1)


def convert_add(folder: Path) -> Typed:
    """An addition of what a layer reads and what no convolution gives."""
    body = [
        node("r = Relu x", "relu"),
        node("m = MatMul r w", "product"),
        node("t = Tanh m", "tanh"),
        node("y = Add t r", "add"),
    ]
    made = graph(body, [floats("x", 2, 16)], [floats("y", 2, 16)], [weights("w", 16, 16)])
    return _quantized(saved(made, folder / "m.onnx"), 2, 16)


def test_an_output_that_a_layer_reads_is_given_out_unrounded(tmp_path: Path) -> None:
    body = [node("y = Tanh x", "tanh"), node("z = MatMul y w", "product")]
    outputs = [floats("y", 2, 16), floats("z", 2, 16)]
    made = graph(body, [floats("x", 2, 16)], outputs, [weights("w", 16, 16)])
    typed = _quantized(saved(made, tmp_path / "m.onnx"), 2, 16)
    (feed, *_) = noise(2, 16)
    np.testing.assert_allclose(typed.run(feed)[0], np.tanh(feed["x"]), rtol=1e-5)
    assert _is_quantized(typed, "product", 0)


def test_gemm_keeps_its_beta(tmp_path: Path) -> None:
    typed = _quantized(residual(tmp_path / "m.onnx"), 1, 8, 8, 8)
    assert {a.name: a.f for a in typed.node("head").attribute}["beta"] == 0.5


@pytest.mark.parametrize("high", ["fp32", "fp16"])
def test_kept_layers_are_neither_quantized_nor_lowered(tmp_path: Path, high: str) -> None:
    typed = _quantized(
        residual(tmp_path / "m.onnx"),
        1,
        8,
        8,
        8,
        keep_fp32=("third", "type:Gemm"),
        high_precision=high,
    )
    assert typed.report["not_quantized"] == ["third", "head"]
    assert typed.report["quantized"] == {"Conv": 2}
    assert typed.tensor("w2").dtype == np.float32
    types = typed.types()
    assert {types[name] for name in typed.node("third").input} == {TensorProto.FLOAT}
    assert not _is_quantized(typed, "third", 0)


def test_a_weight_that_others_read_stays_theirs(tmp_path: Path) -> None:
    body = [
        node("e = Gather w i", "embedding"),
        node("h = Relu e", "relu"),
        node("t = MatMul h w", "kept"),
        node("y = MatMul t w", "product"),
    ]
    tensors = [weights("w", 16, 16), constant("i", [1, 3], np.int64)]
    made = graph(body, [floats("unused", 1)], [floats("y", 2, 16)], tensors)
    path = saved(made, tmp_path / "m.onnx")
    samples = noise(1, name="unused")
    typed = convert(path, "int8", samples=samples, keep_fp32=("kept",))
    assert typed.node("embedding").input[0] == "w"
    assert typed.node("kept").input[1] == "w"
    assert _is_quantized(typed, "product", 1)


def test_a_weight_of_two_layers_is_stored_once(tmp_path: Path) -> None:
    body = [node("a = MatMul x w", "one"), node("y = MatMul a w", "two")]
    made = graph(body, [floats("x", 2, 16)], [floats("y", 2, 16)], [weights("w", 16, 16)])
    typed = _quantized(saved(made, tmp_path / "m.onnx"), 2, 16)
    stored = [t.name for t in typed.model.graph.initializer if t.data_type == TensorProto.INT8]
    assert [name for name in stored if "quantized" in name] == ["w_quantized"]


def test_a_weight_read_both_ways_is_stored_for_each(tmp_path: Path) -> None:
    body = [node("a = MatMul x w", "straight"), node("y = Gemm a w", "turned", transB=1)]
    made = graph(body, [floats("x", 2, 16)], [floats("y", 2, 16)], [weights("w", 16, 16)])
    path = saved(made, tmp_path / "m.onnx")
    typed = _quantized(path, 2, 16)
    (feed, *_) = noise(2, 16)
    assert typed.report["quantized"] == {"Gemm": 1, "MatMul": 1}
    assert error(typed.run(feed)[0], run(path, feed)[0]) < 0.03


@pytest.mark.parametrize("stack", [2, 3])
def test_products_are_quantized_by_their_last_axis(tmp_path: Path, stack: int) -> None:
    dims = (4, 16, 24)[3 - stack :]
    made = graph(
        [node("y = MatMul x w", "m")],
        [floats("x", 4, 2, 16)],
        [floats("y", 4, 2, 24)],
        [weights("w", *dims)],
    )
    typed = _quantized(saved(made, tmp_path / "m.onnx"), 4, 2, 16)
    assert typed.tensor("w_scale").shape == (24,)
    assert build(typed.path) > 0


def test_transposed_convolutions_are_quantized_by_their_output_channels(tmp_path: Path) -> None:
    made = graph(
        [node("y = ConvTranspose x w", "up", strides=[2, 2])],
        [floats("x", 1, 8, 4, 4)],
        [floats("y", 1, 16, 8, 8)],
        [weights("w", 8, 16, 2, 2)],
    )
    typed = _quantized(saved(made, tmp_path / "m.onnx"), 1, 8, 4, 4)
    assert typed.tensor("w_scale").shape == (16,)
    assert build(typed.path) > 0


def test_products_of_two_activations_are_left_alone(tmp_path: Path) -> None:
    body = [
        node("q = MatMul x w", "query"),
        node("s = MatMul q k", "scores"),
    ]
    inputs = [floats("x", 2, 16), floats("k", 16, 2)]
    path = saved(
        graph(body, inputs, [floats("s", 2, 2)], [weights("w", 16, 16)]), tmp_path / "m.onnx"
    )
    samples = [{**a, **b} for a, b in zip(noise(2, 16), noise(16, 2, name="k"), strict=True)]
    assert convert(path, "int8", samples=samples).report["not_quantized"] == ["scores"]


def test_layers_inside_branches_are_left_alone(tmp_path: Path) -> None:
    typed = _quantized(branched(tmp_path / "m.onnx"), 1, 4, 8, 8, high_precision="fp16")
    assert typed.report["quantized"] == {"MatMul": 1}
    assert set(typed.report["not_quantized"]) == {"conv", "product"}
    assert build(typed.path) > 0


def test_the_smallest_scales_are_rounded_up_and_weights_with_them(tmp_path: Path) -> None:
    tensor = weights("w", 16, 16)
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[:, 0] *= 1e-5
    values[:, 1] *= 1e-8
    made = graph(
        [node("y = MatMul x w", "m")],
        [floats("x", 2, 16)],
        [floats("y", 2, 16)],
        [onnx.numpy_helper.from_array(values, "w")],
    )
    typed = _quantized(saved(made, tmp_path / "m.onnx"), 2, 16, high_precision="fp16")
    scale, quantized = typed.tensor("w_scale"), typed.tensor("w_quantized")
    assert scale.min() == 2**-24
    back = quantized * scale.astype(np.float32)
    assert (np.abs(back - values).max(0) <= 0.51 * scale.astype(np.float32)).all()


def test_without_samples_there_is_no_int8(tmp_path: Path) -> None:
    with pytest.raises(EngineForgeError, match="'int8' needs calibration data") as found:
        convert(convnet(tmp_path / "m.onnx"), "int8")
    assert found.value.hint == ("write calibration: {data: samples.npz}; ranges are never made up")


def test_no_samples_at_all_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineForgeError, match="the calibration data has no samples"):
        convert(convnet(tmp_path / "m.onnx"), "int8", samples=[])


def test_nothing_to_quantize_is_an_error(tmp_path: Path) -> None:
    path = convnet(tmp_path / "m.onnx")
    samples = noise(1, 3, 16, 16, name="image")
    with pytest.raises(EngineForgeError, match="there is nothing to quantize"):
        convert(path, "int8", samples=samples, keep_fp32=("type:Conv", "type:Gemm"))


def test_values_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    body = [node("e = Exp x", "exp"), node("y = MatMul e w", "m")]
    made = graph(body, [floats("x", 2, 16)], [floats("y", 2, 16)], [weights("w", 16, 16)])
    path = saved(made, tmp_path / "m.onnx")
    samples = [{"x": np.full((2, 16), 1000, np.float32)}]
    with pytest.raises(EngineForgeError, match="tensor 'e' has values that are not finite"):
        convert(path, "int8", samples=samples)


def test_a_sample_that_the_model_does_not_take_is_an_error(tmp_path: Path) -> None:
    path = convnet(tmp_path / "m.onnx")
    with pytest.raises(EngineForgeError, match="ONNX Runtime cannot run the model on a sample"):
        convert(path, "int8", samples=noise(1, 4, 16, 16, name="image"))


@pytest.mark.parametrize(("name", "high"), [("bf16", "fp32"), ("int8", "bf16")])
def test_what_the_tool_cannot_do_names_the_one_that_can(
    tmp_path: Path, name: str, high: str
) -> None:
    path = convnet(tmp_path / "m.onnx")
    samples = noise(1, 3, 16, 16, name="image") if name == "int8" else None
    with pytest.raises(EngineForgeError) as found:
        convert(path, name, tool="onnxruntime", samples=samples, high_precision=high)
    assert found.value.hint == "tool: modelopt"
