"""What a converted graph needs of a GPU and a TensorRT, and who is said to lack it."""

from __future__ import annotations

import dataclasses

import pytest

from engineforge.backends.capability import lacks, needs
from engineforge.spec.model import ModelInterface, Precision
from engineforge.target import Target
from tests.backends.test_options import API, target

_PRODUCTS = ModelInterface(
    inputs=(),
    outputs=(),
    opsets={"": 17},
    external=(),
    features={"fp32-gemm": "/head/Gemm"},
    nodes=1,
    weight_bytes=0,
)


def _rtx(*capabilities: str) -> Target:
    made = target("tensorrt_rtx", "1.7.1.116")
    return dataclasses.replace(made, compute_capabilities=capabilities)


def _classic(capability: str, version: str) -> Target:
    made = target("tensorrt", version)
    assert made.gpu is not None
    gpu = dataclasses.replace(made.gpu, compute_capability=capability)
    return dataclasses.replace(made, gpu=gpu)


def _missing(precision: Precision, where: Target, kept: str | None = None) -> list[str]:
    return [lack.message for lack in lacks(needs(_PRODUCTS, precision, kept), where)]


# Precision and type around -> the first capability that TensorRT-RTX builds it for, as builds of
# each for each found.
_FIRST = {
    ("fp32", "fp32"): "8.0",
    ("fp16", "fp32"): "7.5",
    ("bf16", "fp32"): "8.0",
    ("int8", "fp32"): "8.0",
    ("int8", "fp16"): "7.5",
    ("int8", "bf16"): "8.0",
    ("fp8", "fp16"): "8.9",
    ("int4", "fp16"): "8.0",
}


@pytest.mark.parametrize("capability", ["7.5", "8.0", "8.6", "8.9", "12.0"])
@pytest.mark.parametrize(("asked", "first"), _FIRST.items(), ids=str)
def test_a_precision_is_refused_below_the_capability_that_has_it(
    asked: tuple[str, str], first: str, capability: str
) -> None:
    precision = Precision(name=asked[0], high_precision=asked[1])
    assert bool(_missing(precision, _rtx(capability))) == (float(capability) < float(first))


def test_of_several_capabilities_the_weakest_decides() -> None:
    (said,) = _missing(Precision(name="fp8", high_precision="fp16"), _rtx("8.6", "8.9"))
    assert said == (
        "target 'there' is for compute capability 8.6, where tensorrt_rtx has no FP8 (E4M3); "
        "precision 'fp8' needs it"
    )


def test_a_product_that_is_kept_needs_what_fp32_products_need() -> None:
    fp16 = Precision(name="fp16", keep_fp32=("/head/*",))
    assert _missing(fp16, _rtx("7.5")) == []
    (said,) = _missing(fp16, _rtx("7.5"), kept="/head/Gemm")
    assert said.endswith("'keep_fp32' has them at '/head/Gemm'")


@pytest.mark.parametrize(
    ("precision", "capability", "version", "hint"),
    [
        ("bf16", "9.0", "8.6.0", "TensorRT has it from 10.0 on"),
        ("bf16", "7.5", "10.13.3.9", "GPUs have it from compute capability 8.0 on"),
        ("fp8", "8.6", "10.13.3.9", "GPUs have it from compute capability 8.9 on"),
        ("int4", "9.0", "8.6.0", "TensorRT has them from 10.0 on"),
        ("fp16", "7.5", "8.6.0", None),
        ("int8", "7.5", "8.6.0", None),
        ("fp8", "9.0", "10.13.3.9", None),
    ],
)
def test_classic_tensorrt_by_version_and_capability(
    precision: str, capability: str, version: str, hint: str | None
) -> None:
    found = lacks(needs(_PRODUCTS, Precision(name=precision)), _classic(capability, version))
    assert [lack.hint for lack in found] == ([hint] if hint else [])


@pytest.mark.parametrize(
    ("precision", "type_"), [("bf16", "BF16"), ("int4", "INT4"), ("fp16", "HALF"), ("int8", "INT8")]
)
@pytest.mark.parametrize("version", [name for name in API if name.startswith("tensorrt ")])
def test_a_version_is_said_to_lack_just_the_types_that_its_api_lacks(
    version: str, precision: str, type_: str
) -> None:
    where = _classic("9.0", version.removeprefix("tensorrt "))
    assert bool(_missing(Precision(name=precision), where)) == (
        type_ not in API[version]["DataType"]
    )


def test_tensorrt_8_has_fp32_scales_only() -> None:
    int8 = Precision(name="int8", high_precision="fp16")
    (lack,) = lacks(needs(_PRODUCTS, int8), _classic("9.0", "8.6.0"))
    assert "without FP16 and BF16 scales of quantized layers" in lack.message
    assert lack.hint.startswith("high_precision: fp32, or ")
    assert lacks(needs(_PRODUCTS, int8), _classic("9.0", "10.13.3.9")) == []
    assert lacks(needs(_PRODUCTS, Precision(name="int8")), _classic("9.0", "8.6.0")) == []


def test_tensorrt_8_does_not_see_the_axes_of_opset_18() -> None:
    means = dataclasses.replace(_PRODUCTS, features={"reduce-axes": "/mean"})
    for precision in ("fp32", "fp16"):
        asked = needs(means, Precision(name=precision))
        (lack,) = lacks(asked, _classic("9.0", "8.6.0"))
        assert "the model has them at '/mean'" in lack.message
        assert "opset 17" in lack.hint
        assert lacks(asked, _classic("9.0", "10.13.3.9")) == []
