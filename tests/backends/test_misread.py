"""What TensorRT 8 would compute wrongly is refused, and what it computes well is not."""

from __future__ import annotations

import pytest

from engineforge.backends import BuildError
from engineforge.backends.misread import refuse_misread
from tests.backends.tensorrt8 import INT8, Network, trt


def network(*after: str, groups: int = 8, low: bool = True) -> Network:
    """A convolution `dw` in INT8, or in FP32, with layers of these kinds behind it, one by one."""
    made = Network()
    x = made.input("x")
    if low:
        x = made.add("q", "QUANTIZE", x, dtype=INT8)
        x = made.add("dq", "DEQUANTIZE", x)
    x = made.add("dw", "CONVOLUTION", x, groups=groups)
    for index, kind in enumerate(after):
        x = made.add(f"{index}", kind, x)
    made.add("last", "POOLING", x)
    return made


@pytest.mark.parametrize("after", [("SCALE",), ("SCALE", "ACTIVATION"), ("SCALE", "REDUCE")])
def test_a_normalized_depthwise_convolution_whose_result_is_not_quantized_is_refused(
    after: tuple[str, ...],
) -> None:
    with pytest.raises(
        BuildError, match=r"8\.6\.0 computes wrong values in INT8 .*: 'dw'"
    ) as caught:
        refuse_misread(trt, network(*after))
    assert caught.value.hint == "keep_fp32: [dw]"
    assert "more" not in str(caught.value)


def test_the_advice_for_a_defined_network_is_an_edit_of_its_function() -> None:
    with pytest.raises(BuildError, match="'dw'") as caught:
        refuse_misread(trt, network("SCALE"), defined=True)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("in the function, leave out the quantize and dequantize")


def test_all_of_them_are_in_the_advice() -> None:
    made = network("SCALE")
    x = made.add("q2", "QUANTIZE", made.inputs[0], dtype=INT8)
    x = made.add("dq2", "DEQUANTIZE", x)
    x = made.add("dw2", "CONVOLUTION", x, groups=4)
    x = made.add("bn2", "SCALE", x)
    with pytest.raises(BuildError, match="'dw' and 1 more") as caught:
        refuse_misread(trt, made)
    assert caught.value.hint == "keep_fp32: [dw, dw2]"


@pytest.mark.parametrize(
    "made",
    [
        network("SCALE", "QUANTIZE"),
        network("SCALE", "ACTIVATION", "QUANTIZE"),
        network("ACTIVATION"),
        network("SCALE", groups=1),
        network("SCALE", low=False),
        Network(),
    ],
    ids=["quantized", "quantized after an activation", "folded", "dense", "FP32", "empty"],
)
def test_what_it_computes_well_is_built(made: Network) -> None:
    refuse_misread(trt, made)


def test_a_sum_that_is_quantized_does_not_help_where_another_takes_the_result_too() -> None:
    made = network("SCALE", "ACTIVATION", "QUANTIZE")
    made.add("skip", "ELEMENTWISE", made.layers["1"].outputs[0])
    with pytest.raises(BuildError, match="'dw'"):
        refuse_misread(trt, made)
