"""Types on TensorRT 8: which flags a graph's types imply, and which layers are held to them."""

from __future__ import annotations

import pytest

from engineforge.backends import BuildError
from engineforge.backends.weak import enforce_types
from tests.backends.tensorrt8 import (
    FLOAT,
    HALF,
    INT8,
    INT32,
    Config,
    Layer,
    LayerType,
    Network,
    Tensor,
    trt,
)


def mixed() -> Network:
    """A convolution in FP16, and a softmax that was kept in FP32 behind it."""
    network = Network()
    x = network.add("cast in", "CAST", network.input("x"), dtype=HALF)
    x = network.add("conv", "CONVOLUTION", x, dtype=HALF)
    x = network.add("cast out", "CAST", x)
    network.add("softmax", "SOFTMAX", x)
    return network


def quantized(*after: str, dtype: object = HALF) -> Network:
    """Between Q and DQ a convolution and layers of these kinds, and one behind all of it."""
    network = Network()
    weight = network.add("weight", "CONSTANT", dtype=INT8)
    weight = network.add("dq weight", "DEQUANTIZE", weight, dtype=dtype)
    x = network.add("first", "CONVOLUTION", network.input("x", dtype), dtype=dtype)
    x = network.add("q", "QUANTIZE", x, dtype=INT8)
    x = network.add("dq", "DEQUANTIZE", x, dtype=dtype)
    x = network.add("conv", "CONVOLUTION", x, weight, dtype=dtype)
    for kind in after:
        x = network.add(kind.lower(), kind, x, dtype=dtype)
    x = network.add("next q", "QUANTIZE", x, dtype=INT8)
    x = network.add("next dq", "DEQUANTIZE", x, dtype=dtype)
    x = network.add("matmul", "MATRIX_MULTIPLY", x, dtype=dtype)
    network.add("head", "SOFTMAX", x, dtype=dtype)
    return network


def test_fp32_alone_needs_no_flags_and_no_constraints() -> None:
    network, config = Network(), Config()
    network.add("conv", "CONVOLUTION", network.input("x"))
    assert enforce_types(trt, config, network, {}) == {"flags": [], "layers_held": {}}
    assert config.names == set()
    assert network.held() == {}


def test_one_tensor_in_fp16_brings_fp16_and_constraints_that_are_obeyed() -> None:
    config = Config()
    found = enforce_types(trt, config, mixed(), {})
    assert found["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    assert config.names == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}


def test_an_input_in_fp16_counts_as_much() -> None:
    network, config = Network(), Config()
    network.add("cast", "CAST", network.input("x", HALF))
    enforce_types(trt, config, network, {})
    assert "FP16" in config.names


def test_each_computing_layer_is_held_to_the_type_of_its_output() -> None:
    network = mixed()
    found = enforce_types(trt, Config(), network, {})
    assert network.held() == {"conv": HALF, "softmax": FLOAT}
    assert found["layers_held"] == {"FLOAT": 1, "HALF": 1}


def test_the_outputs_of_a_held_layer_have_its_type() -> None:
    network = mixed()
    enforce_types(trt, Config(), network, {})
    types = {name: layer.output_types for name, layer in network.layers.items()}
    assert types == {"cast in": {}, "conv": {0: HALF}, "cast out": {}, "softmax": {0: FLOAT}}


@pytest.mark.parametrize("kind", ["CAST", "CONSTANT", "IDENTITY", "PLUGIN_V2", "SHAPE"])
def test_layers_whose_types_follow_from_their_neighbours_are_free(kind: str) -> None:
    network = mixed()
    network.add("other", kind, dtype=HALF)
    enforce_types(trt, Config(), network, {})
    assert "other" not in network.held()


def test_what_computes_shapes_is_free() -> None:
    network = mixed()
    network.add("sizes", "ELEMENTWISE", dtype=INT32)
    network.add("scales", "ELEMENTWISE", dtype=FLOAT, is_shape_tensor=True)
    enforce_types(trt, Config(), network, {})
    assert network.held().keys() == {"conv", "softmax"}


def test_a_layer_of_two_floating_point_types_is_free() -> None:
    network = mixed()
    outputs = [Tensor("a", HALF), Tensor("b", FLOAT)]
    network.layers["topk"] = Layer("topk", LayerType.TOPK, [], outputs)
    enforce_types(trt, Config(), network, {})
    assert "topk" not in network.held()


def test_indices_beside_values_have_no_say() -> None:
    network = mixed()
    outputs = [Tensor("values", HALF), Tensor("indices", INT32)]
    network.layers["topk"] = Layer("topk", LayerType.TOPK, [None], outputs)
    enforce_types(trt, Config(), network, {})
    assert network.held()["topk"] == HALF
    assert network.layers["topk"].output_types == {0: HALF}


def test_a_quantized_graph_brings_int8() -> None:
    config = Config()
    assert enforce_types(trt, config, quantized(dtype=FLOAT), {})["flags"] == ["INT8"]
    assert config.names == {"INT8"}


def test_a_quantized_graph_in_fp32_holds_no_layer() -> None:
    network = quantized("ACTIVATION", dtype=FLOAT)
    enforce_types(trt, Config(), network, {})
    assert network.held() == {}


def test_a_quantized_graph_with_fp16_around_brings_both() -> None:
    config = Config()
    enforce_types(trt, config, quantized(), {})
    assert config.names == {"FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"}


@pytest.mark.parametrize(
    "between", [(), ("ACTIVATION",), ("ELEMENTWISE",), ("ELEMENTWISE", "ACTIVATION")]
)
def test_what_tensorrt_fuses_between_dq_and_q_is_free_and_the_rest_is_held(
    between: tuple[str, ...],
) -> None:
    network = quantized(*between)
    enforce_types(trt, Config(), network, {})
    assert network.held() == {"first": HALF, "head": HALF}


def test_the_sum_of_a_residual_block_is_free() -> None:
    network = Network()
    x = network.add("q", "QUANTIZE", network.input("x", HALF), dtype=INT8)
    x = network.add("dq", "DEQUANTIZE", x, dtype=HALF)
    conv = network.add("conv", "CONVOLUTION", x, dtype=HALF)
    skip = network.add("skip", "POOLING", network.inputs[0], dtype=HALF)
    x = network.add("sum", "ELEMENTWISE", skip, conv, dtype=HALF)
    x = network.add("relu", "ACTIVATION", x, dtype=HALF)
    network.add("next q", "QUANTIZE", x, dtype=INT8)
    enforce_types(trt, Config(), network, {})
    assert network.held() == {"skip": HALF}


def test_a_float_computation_between_dq_and_q_is_held() -> None:
    # A normalization: what is written as several layers would else be free to overflow.
    network = quantized("REDUCE", "ELEMENTWISE")
    enforce_types(trt, Config(), network, {})
    assert network.held() == {"first": HALF, "head": HALF, "reduce": HALF, "elementwise": HALF}


def test_an_activation_that_follows_no_quantized_layer_is_held() -> None:
    network = mixed()
    x = network.add("relu", "ACTIVATION", network.inputs[0], dtype=HALF)
    network.add("q", "QUANTIZE", x, dtype=INT8)
    enforce_types(trt, Config(), network, {})
    assert network.held()["relu"] == HALF


def test_a_spec_that_chose_to_prefer_constraints_has_them_preferred() -> None:
    config = Config("PREFER_PRECISION_CONSTRAINTS")
    assert enforce_types(trt, config, mixed(), {})["flags"] == ["FP16"]
    assert config.names == {"PREFER_PRECISION_CONSTRAINTS", "FP16"}


def test_a_layer_that_an_option_of_the_spec_set_stays_as_it_is() -> None:
    network = mixed()
    network.layers["conv"].precision = FLOAT
    found = enforce_types(trt, Config(), network, {})
    assert network.layers["conv"].precision == FLOAT
    assert network.layers["conv"].output_types == {}
    assert found["layers_held"] == {"FLOAT": 1}


def test_an_output_type_that_an_option_of_the_spec_set_stays_as_it_is() -> None:
    network = mixed()
    network.layers["conv"].set_output_type(0, FLOAT)
    enforce_types(trt, Config(), network, {})
    assert network.layers["conv"].precision == HALF
    assert network.layers["conv"].output_types == {0: FLOAT}


@pytest.mark.parametrize("how", ["precision", "output type"])
@pytest.mark.parametrize(("dtype", "flag"), [(HALF, "FP16"), (INT8, "INT8")])
def test_what_a_layer_was_told_brings_the_flag_of_that_type_and_constraints_that_are_obeyed(
    how: str, dtype: object, flag: str
) -> None:
    network, config = Network(), Config()
    network.add("conv", "CONVOLUTION", network.input("x"))
    if how == "precision":
        network.layers["conv"].precision = dtype
    else:
        network.layers["conv"].set_output_type(0, dtype)
    found = enforce_types(trt, config, network, {})
    assert found["flags"] == [flag, "OBEY_PRECISION_CONSTRAINTS"]
    assert config.names == {flag, "OBEY_PRECISION_CONSTRAINTS"}


def test_where_one_layer_was_told_fp16_the_others_stay_in_fp32() -> None:
    network = Network()
    x = network.add("conv", "CONVOLUTION", network.input("x"))
    network.add("softmax", "SOFTMAX", x)
    network.layers["conv"].precision = HALF
    found = enforce_types(trt, Config(), network, {})
    assert network.held() == {"conv": HALF, "softmax": FLOAT}
    assert found["layers_held"] == {"FLOAT": 1}


def test_a_layer_of_a_quantized_graph_that_was_told_fp32_is_obeyed() -> None:
    network, config = quantized(dtype=FLOAT), Config()
    network.layers["conv"].precision = FLOAT
    enforce_types(trt, config, network, {})
    assert config.names == {"INT8", "OBEY_PRECISION_CONSTRAINTS"}
    assert network.held() == {"conv": FLOAT}


def test_layers_that_were_told_fp32_need_no_flags_where_there_is_nothing_else() -> None:
    network, config = Network(), Config()
    network.add("conv", "CONVOLUTION", network.input("x"))
    network.layers["conv"].precision = FLOAT
    enforce_types(trt, config, network, {})
    assert config.names == set()


def test_a_spec_that_prefers_constraints_has_those_of_layers_preferred() -> None:
    network, config = Network(), Config("PREFER_PRECISION_CONSTRAINTS")
    network.add("conv", "CONVOLUTION", network.input("x"))
    network.layers["conv"].precision = HALF
    assert enforce_types(trt, config, network, {})["flags"] == ["FP16"]


def test_a_precision_that_tensorrt_does_not_keep_is_an_error() -> None:
    network = mixed()
    network.layers["conv"].keeps = FLOAT
    message = "layer 'conv': precision HALF was set, and TensorRT kept FLOAT"
    with pytest.raises(BuildError, match=message):
        enforce_types(trt, Config(), network, {})


@pytest.mark.parametrize("flag", ["FP16", "OBEY_PRECISION_CONSTRAINTS"])
def test_a_flag_that_tensorrt_does_not_keep_is_an_error(flag: str) -> None:
    with pytest.raises(BuildError, match=f"flag '{flag}' was set, and TensorRT did not keep it"):
        enforce_types(trt, Config(refused=[flag]), mixed(), {})


def test_what_the_parser_forgets_the_model_knows() -> None:
    """As TensorRT 8 does: every output of a layer is FLOAT, whatever the model says."""
    network, config = Network(), Config()
    x = network.add("cast in", "CAST", network.input("x"))
    x = network.add("conv", "CONVOLUTION", x)
    x = network.add("conv's shuffle", "ACTIVATION", x)
    x = network.add("cast out", "CAST", x)
    network.add("softmax", "SOFTMAX", x)
    made = {layer.name: layer.get_output(0).name for layer in network.layers.values()}
    known = {made["cast in"]: "HALF", made["conv"]: "HALF", made["cast out"]: "FLOAT"}
    found = enforce_types(trt, config, network, known)
    assert found["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    assert network.held() == {"conv": HALF, "conv's shuffle": HALF, "softmax": FLOAT}
