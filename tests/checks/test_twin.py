"""What a twin computes: the typed graph's values, as ONNX's own evaluator has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")

from engineforge.checks.tensor_types import LOW, infer, types_of
from engineforge.checks.twin import assumed, has_low_types, is_rounding, twin, widened
from engineforge.checks.weights import Weights
from engineforge.stages.precision.graph import graphs
from tests.checks.graphs import BF16, F16, F32, Array, constant, model, reference, run, run_twin

node = helper.make_node
RANDOM = np.random.default_rng(0)


def noise(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


def product(low: int) -> ModelProto:
    """Two products with a Tanh between them, in one low type inside and out."""
    return model(
        [
            node("MatMul", ["x", "w1"], ["a"]),
            node("Tanh", ["a"], ["b"]),
            node("MatMul", ["b", "w2"], ["y"]),
        ],
        [("x", low, ["n", 16])],
        [("y", low, ["n", 4])],
        [constant("w1", noise(16, 32), low), constant("w2", noise(32, 4), low)],
    )


def convolution() -> ModelProto:
    return model(
        [
            node("Cast", ["x"], ["h"], to=F16),
            node("Conv", ["h", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("GlobalAveragePool", ["r"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Cast", ["f"], ["y"], to=F32),
        ],
        [("x", F32, [2, 3, 8, 8])],
        [("y", F32, [2, 6])],
        [constant("w", noise(6, 3, 3, 3), F16), constant("b", noise(6), F16)],
    )


def close_in_fp16(found: Array, expected: Array, *, ulps: int) -> bool:
    spacing = np.spacing(np.abs(expected).max().astype(np.float16)).astype(np.float32)
    return bool(np.abs(found - expected).max() <= ulps * spacing)


def test_products_agree_with_the_reference_within_two_fp16_ulps(tmp_path: Path) -> None:
    made, x = product(F16), noise(8, 16)
    expected = reference(made, {"x": x.astype(np.float16)})["y"]
    assert close_in_fp16(run_twin(made, tmp_path, {"x": x})["y"], expected, ulps=2)


def test_a_convolution_agrees_with_the_reference_within_two_fp16_ulps(tmp_path: Path) -> None:
    made, x = convolution(), noise(2, 3, 8, 8)
    expected = reference(made, {"x": x})["y"]
    assert close_in_fp16(run_twin(made, tmp_path, {"x": x})["y"], expected, ulps=2)


def test_bf16_gives_values_that_bf16_holds_near_those_of_fp32(tmp_path: Path) -> None:
    made, x = product(BF16), noise(8, 16)
    y = run_twin(made, tmp_path, {"x": x})["y"]
    assert not (y.view(np.uint32) & 0xFFFF).any()
    exact = run(widened(made), tmp_path, {"x": x})["y"]
    assert 0 < np.abs(y - exact).max() < 0.01 * np.abs(exact).max()


def test_an_overflow_shows_as_infinity(tmp_path: Path) -> None:
    made = model(
        [node("Mul", ["x", "x"], ["a"]), node("Mul", ["a", "s"], ["y"])],
        [("x", F16, [2])],
        [("y", F16, [2])],
        [constant("s", 2.0**-10, F16)],
    )
    x = np.array([300, 100], np.float32)
    assert run_twin(made, tmp_path, {"x": x})["y"].tolist() == [np.inf, 9.765625]
    with np.errstate(over="ignore"):
        assert reference(made, {"x": x.astype(np.float16)})["y"].tolist() == [np.inf, 9.765625]


def test_bf16_does_not_overflow_where_fp16_does(tmp_path: Path) -> None:
    made = model([node("Mul", ["x", "x"], ["y"])], [("x", BF16, [1])], [("y", BF16, [1])])
    assert run_twin(made, tmp_path, {"x": np.array([300], np.float32)})["y"].tolist() == [90112]


def test_inputs_in_a_low_type_are_rounded_first(tmp_path: Path) -> None:
    made = model(
        [node("Sub", ["x", "one"], ["y"])],
        [("x", F16, [1])],
        [("y", F16, [1])],
        [constant("one", 1, F16)],
    )
    assert run_twin(made, tmp_path, {"x": np.array([1.0001], np.float32)})["y"].tolist() == [0]


@pytest.mark.parametrize("scale", [F32, F16, BF16], ids=["fp32", "fp16", "bf16"])
def test_int8_rounds_half_to_even_whatever_the_type_of_the_scale(
    scale: int, tmp_path: Path
) -> None:
    made = model(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        [("x", scale, [6])],
        [("y", scale, [6])],
        [constant("s", 1, scale), helper.make_tensor("z", TensorProto.INT8, [], [0])],
    )
    x = np.array([0.59765625, 1.5, 126.5, 2.5, -0.5, 300], np.float32)
    y = run_twin(made, tmp_path, {"x": x})["y"]
    assert y.tolist() == [1, 2, 126, 2, 0, 127]


def test_what_is_dequantized_to_fp16_is_rounded_to_fp16(tmp_path: Path) -> None:
    made = model(
        [node("DequantizeLinear", ["q", "s"], ["y"])],
        [("q", TensorProto.INT8, [1])],
        [("y", F16, [1])],
        [constant("s", 0.1, F16)],
    )
    y = run_twin(made, tmp_path, {"q": np.array([127], np.int8)})["y"]
    assert y[0] == np.float32(np.float16(127 * np.float32(np.float16(0.1))))


@pytest.mark.parametrize("scale", [F32, F16], ids=["fp32", "fp16"])
def test_fp8_agrees_with_the_reference(scale: int, tmp_path: Path) -> None:
    made = model(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        ],
        [("x", scale, [64])],
        [("y", scale, [64])],
        [
            constant("s", 0.5, scale),
            helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], [0.0]),
        ],
    )
    x = (noise(64) * 40).astype(np.float16).astype(np.float32)
    typed = x.astype(np.float16) if scale == F16 else x
    assert (run_twin(made, tmp_path, {"x": x})["y"] == reference(made, {"x": typed})["y"]).all()


@pytest.mark.parametrize("scale", [F32, F16, BF16], ids=["fp32", "fp16", "bf16"])
def test_int4_weights_in_blocks_agree_with_the_reference(scale: int, tmp_path: Path) -> None:
    codes = RANDOM.integers(-8, 8, (8, 4))
    scales = np.array([[0.5] * 4, [0.25] * 4], np.float32)
    made = model(
        [node("DequantizeLinear", ["q", "s"], ["w"], block_size=4, axis=0)],
        [],
        [("w", scale, [8, 4])],
        [
            helper.make_tensor("q", TensorProto.INT4, [8, 4], codes.ravel().tolist()),
            constant("s", scales, scale),
        ],
    )
    assert (run_twin(made, tmp_path, {})["w"] == codes * np.repeat(scales, 4, axis=0)).all()


def branches(low: int) -> ModelProto:
    """An If that multiplies a captured input by a weight of its own, or gives it as it is."""
    then = helper.make_graph(
        [node("Mul", ["x", "three"], ["t"], name="mul")],
        "then",
        [],
        [helper.make_tensor_value_info("t", low, [2])],
        [constant("three", 3, low)],
    )
    other = helper.make_graph(
        [node("Identity", ["x"], ["t"], name="same")],
        "else",
        [],
        [helper.make_tensor_value_info("t", low, [2])],
    )
    return model(
        [node("If", ["c"], ["y"], then_branch=then, else_branch=other)],
        [("c", TensorProto.BOOL, []), ("x", low, [2])],
        [("y", low, [2])],
    )


@pytest.mark.parametrize("chosen", [True, False])
def test_branches_are_rounded_inside_and_capture_rounded_inputs(
    chosen: bool, tmp_path: Path
) -> None:
    made, x = branches(F16), np.array([1.0001, 2049], np.float32)
    feed = {"c": np.array(chosen), "x": x}
    expected = reference(made, {**feed, "x": x.astype(np.float16)})["y"]
    assert (run_twin(made, tmp_path, feed)["y"] == expected).all()


def test_a_loop_is_rounded_in_every_turn(tmp_path: Path) -> None:
    body = helper.make_graph(
        [node("Add", ["v", "v"], ["w"]), node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", F16, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", F16, [1]),
        ],
    )
    made = model(
        [node("Loop", ["turns", "", "x"], ["y"], body=body)],
        [("x", F16, [1])],
        [("y", F16, [1])],
        [helper.make_tensor("turns", TensorProto.INT64, [], [16])],
    )
    assert run_twin(made, tmp_path, {"x": np.ones(1, np.float32)})["y"].tolist() == [np.inf]


def test_functions_of_the_model_are_rounded_inside(tmp_path: Path) -> None:
    made = model([], [("x", F16, [1])], [("y", F16, [1])])
    opset = [helper.make_opsetid("", 21)]
    inner = [node("Mul", ["a", "a"], ["m"]), node("Sqrt", ["m"], ["b"])]
    made.functions.append(helper.make_function("own", "Root", ["a"], ["b"], inner, opset))
    made.graph.node.append(node("Root", ["x"], ["y"], domain="own"))
    made.opset_import.append(helper.make_opsetid("own", 1))
    assert run_twin(made, tmp_path, {"x": np.array([300], np.float32)})["y"].tolist() == [np.inf]


def test_constants_casts_and_types_in_attributes_become_fp32(tmp_path: Path) -> None:
    made = model(
        [
            node("Constant", [], ["k"], value=constant("k", 0.5, F16)),
            node("Shape", ["x"], ["shape"]),
            node("ConstantOfShape", ["shape"], ["c"], value=constant("v", [0.25], F16)),
            node("Cast", ["x"], ["whole"], to=TensorProto.INT32),
            node("Cast", ["whole"], ["h"], to=F16),
            node("CastLike", ["whole", "k"], ["like"]),
            node("EyeLike", ["x"], ["eye"], dtype=F16),
            node("Clip", ["h", "k", ""], ["clipped"]),
            node("Greater", ["x", "k"], ["more"]),
            node("Where", ["more", "clipped", "c"], ["chosen"]),
            node("Sum", ["chosen", "like", "eye", "k"], ["y"]),
        ],
        [("x", F16, [2, 2])],
        [("y", F16, [2, 2])],
    )
    x = np.array([[0.1, 2.7], [3.2, -4.9]], np.float32)
    expected = reference(made, {"x": x.astype(np.float16)})["y"]
    assert (run_twin(made, tmp_path, {"x": x})["y"] == expected).all()


def test_resizing_takes_its_scales_as_they_are(tmp_path: Path) -> None:
    made = model(
        [node("Resize", ["x", "", "scales"], ["y"], mode="linear")],
        [("x", F16, [1, 1, 2, 2])],
        [("y", F16, [1, 1, 4, 4])],
        [constant("scales", [1, 1, 2, 2], F32)],
    )
    x = noise(1, 1, 2, 2)
    expected = reference(made, {"x": x.astype(np.float16)})["y"]
    assert close_in_fp16(run_twin(made, tmp_path, {"x": x})["y"], expected, ulps=1)


def test_nothing_is_low_but_between_the_two_casts() -> None:
    made = twin(branches(F16))
    for graph in graphs(infer(made).model.graph):
        makers = {name: each for each in graph.node for name in each.output}
        low = [name for name, elem_type in types_of(graph).items() if elem_type in LOW]
        assert all(is_rounding(makers[name]) for name in low)


def test_interface_and_names_stay() -> None:
    typed = product(F16)
    made = twin(typed)
    assert [each.name for each in made.graph.input] == ["x"]
    assert [each.name for each in made.graph.output] == ["y"]
    assert {each.name for each in typed.graph.node} <= {each.name for each in made.graph.node}
    assert made.graph.output[0].type.tensor_type.elem_type == F32


def test_the_given_model_is_left_alone() -> None:
    typed = branches(F16)
    before = typed.SerializeToString(deterministic=True)
    twin(typed)
    assert typed.SerializeToString(deterministic=True) == before


def test_what_gives_values_as_it_got_them_is_not_rounded_again() -> None:
    made = twin(convolution())
    assert sum(map(is_rounding, made.graph.node)) == 1 + 2 + 2  # the Cast, the Conv, the pool


def test_stale_types_in_value_info_do_not_mislead(tmp_path: Path) -> None:
    made, x = product(F16), noise(2, 16)
    expected = run_twin(made, tmp_path, {"x": x})["y"]
    made.graph.value_info.append(helper.make_tensor_value_info("a", F32, ["n", 32]))
    assert (run_twin(made, tmp_path, {"x": x})["y"] == expected).all()


def test_behind_an_unknown_operator_types_are_assumed_and_told(tmp_path: Path) -> None:
    made = model(
        [
            node("Gelu", ["x"], ["a"], domain="com.microsoft"),
            node("Mul", ["a", "a"], ["y"]),
        ],
        [("x", F16, [1])],
        [("y", F16, [1])],
    )
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert assumed(twin(made)) == ["a"]
    assert run_twin(made, tmp_path, {"x": np.array([300], np.float32)})["y"].tolist() == [np.inf]


def test_an_fp32_graph_is_its_own_twin(tmp_path: Path) -> None:
    made, x = product(F32), noise(4, 16)
    assert not has_low_types(made)
    assert (run_twin(made, tmp_path, {"x": x})["y"] == run(made, tmp_path, {"x": x})["y"]).all()


def test_low_types_are_found_in_branches_too() -> None:
    made = branches(F32)
    for attribute in made.graph.node[0].attribute:
        for tensor in attribute.g.initializer:
            tensor.CopyFrom(constant("three", 3, F16))
    assert has_low_types(made)


def test_widened_weights_are_what_the_low_ones_hold() -> None:
    typed = product(F16)
    before, after = typed.graph.initializer[0], widened(typed).graph.initializer[0]
    assert after.data_type == F32
    assert (numpy_helper.to_array(before) == numpy_helper.to_array(after)).all()


def test_weights_that_are_held_beside_the_model_give_the_same_twin(tmp_path: Path) -> None:
    typed, x = product(F16), noise(2, 16)
    expected = run_twin(typed, tmp_path, {"x": x})["y"]
    file = tmp_path / "typed.onnx"
    onnx.save(typed, file, save_as_external_data=True, location="data", size_threshold=0)
    held = tmp_path / "held"
    held.mkdir()
    weights = Weights(held)
    made = twin(weights.read(file), weights=weights)
    assert made.graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert (run(made, held, {"x": x})["y"] == expected).all()
