"""FP16: types that agree everywhere, and nothing lost without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engineforge.errors import EngineForgeError
from engineforge.stages.precision.graph import nodes
from tests.models import convnet
from tests.stages.precision.rtx import build

pytest.importorskip("onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'")
from tests.stages.precision.nets import (
    branched,
    constant,
    convert,
    error,
    floats,
    graph,
    looped,
    node,
    noise,
    paddle,
    residual,
    run,
    saved,
    weights,
)

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def masked(path: Path) -> Path:
    """A boolean cast to FLOAT, as attention masks are."""
    body = [
        node("b = Greater x zero", "greater"),
        node("f = Cast b", "cast", to=_FLOAT),
        node("m = MatMul x w", "product"),
        node("y = Add m f", "add"),
    ]
    tensors = [weights("w", 16, 16), constant("zero", 0)]
    return saved(graph(body, [floats("x", 2, 16)], [floats("y", 2, 16)], tensors), path)


def shared(path: Path) -> Path:
    """One weight for two layers."""
    body = [
        node("a = MatMul x w", "one"),
        node("b = MatMul a w", "two"),
        node("y = Add a b", "add"),
    ]
    return saved(
        graph(body, [floats("x", 2, 16)], [floats("y", 2, 16)], [weights("w", 16, 16)]), path
    )


def given_out(path: Path) -> Path:
    """An output that another node reads too."""
    body = [node("y = MatMul x w", "product"), node("z = Relu y", "relu")]
    outputs = [floats("y", 2, 16), floats("z", 2, 16)]
    return saved(graph(body, [floats("x", 2, 16)], outputs, [weights("w", 16, 16)]), path)


def resized(path: Path) -> Path:
    """Resized by factors, then to sizes computed of sizes."""
    body = [
        node("c = Conv x w", "conv", pads=[1] * 4),
        node("r = Resize c - factors", "by_factor", mode="nearest"),
        node("s = Shape r", "shape"),
        node("f = Cast s", "to_float", to=_FLOAT),
        node("d = Mul f factors", "doubled"),
        node("i = Cast d", "to_int", to=TensorProto.INT64),
        node("y = Resize r - - i", "to_size", mode="linear"),
    ]
    tensors = [weights("w", 8, 8, 3, 3), constant("factors", [1, 1, 2, 2])]
    inputs, outputs = [floats("x", 1, 8, 8, 8)], [floats("y", 1, 8, 32, 32)]
    return saved(graph(body, inputs, outputs, tensors), path)


_NETS: dict[Callable[[Path], Path], tuple[int, ...]] = {
    residual: (1, 8, 8, 8),
    branched: (1, 4, 8, 8),
    looped: (2, 16),
    paddle: (1, 3, 16, 16),
    masked: (2, 16),
    shared: (2, 16),
    given_out: (2, 16),
    resized: (1, 8, 8, 8),
}
each_net = pytest.mark.parametrize("net", list(_NETS), ids=lambda net: net.__name__)


@each_net
def test_fp16_is_near_and_builds(tmp_path: Path, net: Callable[[Path], Path]) -> None:
    path = net(tmp_path / "m.onnx")
    (feed, *_) = noise(*_NETS[net])
    typed = convert(path, "fp16")
    for found, expected in zip(typed.run(feed), run(path, feed), strict=True):
        assert found.dtype == np.float32
        assert 0 < error(found, expected) < 0.01
    assert build(typed.path, {"x": _NETS[net]}) > 0


@each_net
def test_any_node_alone_can_stay_in_fp32(tmp_path: Path, net: Callable[[Path], Path]) -> None:
    path = net(tmp_path / "m.onnx")
    (feed, *_) = noise(*_NETS[net])
    names = [each.name for each in nodes(onnx.load(path)) if each.name]
    for name in names:
        typed = convert(path, "fp16", keep_fp32=(name,))
        assert typed.report["kept_fp32"] == [name]
        assert error(typed.run(feed)[0], run(path, feed)[0]) < 0.01
        assert build(typed.path, {"x": _NETS[net]}) > 0


@each_net
def test_with_every_node_kept_nothing_changes(tmp_path: Path, net: Callable[[Path], Path]) -> None:
    path = net(tmp_path / "m.onnx")
    (feed, *_) = noise(*_NETS[net])
    typed = convert(path, "fp16", keep_fp32=("*",))
    for found, expected in zip(typed.run(feed), run(path, feed), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@each_net
def test_inputs_and_outputs_can_be_fp16_too(tmp_path: Path, net: Callable[[Path], Path]) -> None:
    path = net(tmp_path / "m.onnx")
    (feed, *_) = noise(*_NETS[net])
    typed = convert(path, "fp16", keep_io_types=False)
    graph_ = typed.model.graph
    types = {v.type.tensor_type.elem_type for v in (*graph_.input, *graph_.output)}
    assert types == {_HALF}
    found = typed.run({"x": feed["x"].astype(np.float16)})
    assert error(found[0], run(path, feed)[0]) < 0.01
    assert build(typed.path, {"x": _NETS[net]}) > 0


def test_weights_are_fp16_and_keep_their_names(tmp_path: Path) -> None:
    typed = convert(convnet(tmp_path / "m.onnx"), "fp16")
    assert {t.name: t.data_type for t in typed.model.graph.initializer} == {
        "conv.weight": _HALF,
        "fc.weight": _HALF,
    }
    assert typed.count("Cast") == 2


def test_a_kept_container_keeps_all_inside(tmp_path: Path) -> None:
    typed = convert(branched(tmp_path / "m.onnx"), "fp16", keep_fp32=("if",))
    inner = [a.g for a in typed.node("if").attribute]
    assert {t.data_type for each in inner for t in each.initializer} == {_FLOAT}


def test_neighbours_that_are_kept_hand_each_other_fp32(tmp_path: Path) -> None:
    # Two readers: what they read must not go through FP16 for either.
    body = [
        node("a = Mul x large", "up"),
        node("b = Mul a small", "down"),
        node("c = Mul a small", "down2"),
        node("y = Add b c", "add"),
    ]
    tensors = [constant("large", 65536.0), constant("small", 1 / 65536)]
    path = saved(graph(body, [floats("x", 4)], [floats("y", 4)], tensors), tmp_path / "m.onnx")
    typed = convert(path, "fp16", keep_fp32=("up", "down*"))
    x = np.array([1, 2, 3, 4], np.float32)
    assert np.array_equal(typed.run({"x": x})[0], 2 * x)


def test_sizes_are_computed_in_fp32(tmp_path: Path) -> None:
    types = convert(resized(tmp_path / "m.onnx"), "fp16").types()
    assert types["d"] == _FLOAT
    assert types["c"] == _HALF


def test_a_weight_out_of_range_is_told_with_the_line_that_keeps_it(tmp_path: Path) -> None:
    tensors = [constant("huge", [1.0, -70000.0])]
    made = graph(
        [node("y = Mul x huge", "/scale/Mul")], [floats("x", 2)], [floats("y", 2)], tensors
    )
    path = saved(made, tmp_path / "m.onnx")
    with pytest.raises(EngineForgeError) as found:
        convert(path, "fp16")
    assert found.value.args[0] == (
        "tensor 'huge' of node '/scale/Mul' has the value -70000, and fp16 ends at 65504"
    )
    assert "keep_fp32: ['/scale/Mul']" in str(found.value.hint)
    assert convert(path, "fp16", keep_fp32=("/scale/Mul",)).report["kept_fp32"] == ["/scale/Mul"]


def test_infinity_stays_infinity(tmp_path: Path) -> None:
    tensors = [constant("mask", [-np.inf, 0.0])]
    made = graph([node("y = Add x mask", "add")], [floats("x", 2)], [floats("y", 2)], tensors)
    typed = convert(saved(made, tmp_path / "m.onnx"), "fp16")
    assert typed.tensor("mask").tolist() == [-np.inf, 0]


def test_what_is_not_zero_does_not_become_zero(tmp_path: Path) -> None:
    tensors = [constant("epsilon", [1e-12, -1e-12, 0.0])]
    made = graph([node("y = Add x epsilon", "add")], [floats("x", 3)], [floats("y", 3)], tensors)
    typed = convert(saved(made, tmp_path / "m.onnx"), "fp16")
    assert typed.tensor("epsilon").tolist() == [2**-24, -(2**-24), 0]


def test_types_that_stand_in_nodes_are_lowered(tmp_path: Path) -> None:
    body = [
        node("s = Shape x", "shape"),
        node("r = RandomNormal", "random", shape=[4], seed=1.0),
        node("a = Add x r", "add"),
        node("f = Cast k", "cast", to=_FLOAT),
        node("y = Mul a f", "mul"),
    ]
    tensors = [constant("k", [1, 2, 3, 4], np.int64)]
    made = graph(body, [floats("x", 4)], [floats("y", 4)], tensors)
    types = convert(saved(made, tmp_path / "m.onnx"), "fp16").types()
    assert {types[name] for name in ("r", "a", "f")} == {_HALF}


def test_sequences_stay_fp32(tmp_path: Path) -> None:
    body = [
        node("p = SplitToSequence x", "split", axis=0),
        node("a = SequenceAt p zero", "at"),
        node("y = MatMul a w", "product"),
    ]
    tensors = [weights("w", 16, 16), constant("zero", 0, np.int64)]
    made = graph(body, [floats("x", 2, 16)], [floats("y", 1, 16)], tensors)
    typed = convert(saved(made, tmp_path / "m.onnx"), "fp16")
    assert typed.node("split").input[0] == "x"
    assert typed.node("product").input[0] == "a_fp16"


def test_operators_that_onnx_does_not_know_stay_fp32(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("plugins", 1)]
    body = [
        node("a = MatMul x w", "before"),
        node("b = Own a", "plugin", domain="plugins"),
        node("y = MatMul b w", "after"),
    ]
    made = graph(body, [floats("x", 2, 16)], [floats("y", 2, 16)], [weights("w", 16, 16)])
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    typed = convert(tmp_path / "m.onnx", "fp16")
    assert typed.node("plugin").input[0] == "a_fp32"
    assert typed.node("after").input[0] == "b_fp16"


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    path = residual(tmp_path / "m.onnx")
    quantized = convert(path, "int8", samples=noise(1, 8, 8, 8)).path
    with pytest.raises(EngineForgeError, match="quantized already: node 'x_QuantizeLinear'"):
        convert(quantized, "fp16")
