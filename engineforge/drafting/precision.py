"""The precision flags of a command of trtexec as variants of a spec.

trtexec allows types, and TensorRT chooses layer by layer. Here, as from TensorRT 11 on, the graph
says its types, so that a flag becomes a converted model, and several may become several variants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engineforge.drafting.draft import Findings
from engineforge.drafting.profiles import Given
from engineforge.drafting.values import items, named
from engineforge.spec.model import ModelInterface

_LOW = ("fp16", "bf16", "fp8-e4m3", "fp8-e5m2", "int4", "fp4", "quantized")
_TYPES = ("fp16", "bf16", "int8", "fp8", "int4")
_QUANTIZED = ("int8", "fp8", "int4")
_DATA = "calibration.npz"


def variants(
    given: Given, interface: ModelInterface | None, calibration: str | None, found: Findings
) -> dict[str, dict[str, Any]]:
    """Variants by name, as a spec has them. `calibration` is a file of samples, as the spec is to
    name it."""
    flags = {name for name, _ in given}
    asked = {each for each in _TYPES if each in flags}
    if "best" in flags:
        asked |= {"fp16", "int8"}
        found.note(
            "best",
            "differs",
            "is these variants: `engineforge check --accuracy` and `bench` say which is best",
        )
    if "stronglyTyped" in flags and asked:
        for each in sorted(asked):
            found.note(each, "nothing", "has no effect beside --stronglyTyped")
        asked = set()
    low = next((each for each in _LOW if interface and each in interface.features), None)
    if low is not None:
        for each in sorted(asked):
            found.note(each, "differs", f"the model itself is {low}, and is built as it is")
        asked = set()
    made = {each: _variant(each, asked, calibration, found) for each in _chosen(asked, flags)}
    if not made:
        fp32 = interface is not None and low is None
        made = {"fp32": {"precision": "fp32"}} if fp32 else {"source": {"precision": "source"}}
    for each in sorted(asked & {"fp16", "bf16"} & set(made)):
        found.note(
            each,
            "differs",
            "the model is converted; TensorRT before 11 chose layer by layer",
        )
    _keep(given, made, found)
    _calibration(given, made, found)
    return made


def _chosen(asked: set[str], flags: set[str]) -> Sequence[str]:
    """`--int8 --fp16` is one INT8 engine with FP16 around; of what is left, each type is one."""
    quantized = [each for each in _QUANTIZED if each in asked]
    if "best" in flags or not quantized:
        return [each for each in _TYPES if each in asked]
    return quantized


def _variant(
    name: str, asked: set[str], calibration: str | None, found: Findings
) -> dict[str, Any]:
    values: dict[str, Any] = {"precision": name}
    if name not in _QUANTIZED:
        return values
    if around := next((each for each in ("fp16", "bf16") if each in asked), None):
        values["high_precision"] = around
    if calibration is not None:
        values["calibration"] = {"data": calibration}
    elif name != "int4":
        values["calibration"] = {"data": _DATA}
        found.note(
            name if name in asked else "best",
            "to do",
            f"needs samples: put some beside the spec as '{_DATA}' (an array for each input), or "
            "say --calibration FILE; a model with Q/DQ nodes needs 'precision: source' instead",
        )
    return values


def _keep(given: Given, made: Mapping[str, dict[str, Any]], found: Findings) -> None:
    """`--layerPrecisions` and `--layerOutputTypes` as nodes that stay FP32."""
    constraints = next((value for name, value in given if name == "precisionConstraints"), None)
    if constraints not in (None, "none", "obey", "prefer"):
        found.refuse("precisionConstraints", f"'{constraints}' is none of none, obey, prefer")
    converted = [values for values in made.values() if values["precision"] in _TYPES]
    quantized = any(values["precision"] in _QUANTIZED for values in converted)
    kept: list[str] = []
    for name, value in given:
        if name not in ("layerPrecisions", "layerOutputTypes"):
            continue
        if constraints not in ("obey", "prefer"):
            found.note(name, "nothing", "has no effect without --precisionConstraints")
            continue
        raised, other = [], []
        for layer, types in _layers(name, value or "", found):
            if types == {"fp32"} and layer != "*":
                kept.append(layer)
            elif quantized and types <= {"fp16", "bf16"} and layer != "*":
                kept.append(layer)
                raised.append(layer)
            elif not types <= set(made):
                other.append(layer)
        if raised:
            found.note(name, "differs", f"{', '.join(raised)}: FP32, where FP16 was asked for")
        if other:
            found.note(name, "left out", f"{', '.join(other)}: 'keep_fp32' says what stays FP32")
    for values in converted if kept else ():
        values["keep_fp32"] = list(dict.fromkeys(kept))
    if kept and not converted:
        found.note("layerPrecisions", "nothing", "the model is built with the types that it has")
    if constraints == "prefer" and kept:
        found.note("precisionConstraints", "differs", "what is kept FP32 is so, always")
    elif constraints is not None:
        found.note("precisionConstraints", "nothing", "a model always has the types that it has")


def _layers(flag: str, value: str, found: Findings) -> Iterator[tuple[str, set[str]]]:
    """Names of layers, or patterns with one `*`, and the types of each."""
    for item in items(value):
        try:
            layer, types = named(item, "LAYER:TYPE")
        except ValueError as error:
            found.refuse(flag, str(error))
        else:
            yield layer, set(types.split("+"))


def _calibration(given: Given, made: Mapping[str, dict[str, Any]], found: Findings) -> None:
    file = next((value for name, value in given if name == "calib"), None)
    if file is None:
        return
    quantized = any(values["precision"] in _QUANTIZED for values in made.values())
    found.note(
        "calib",
        "left out" if quantized else "nothing",
        f"'{file}' holds the ranges of one TensorRT; here they are found from samples"
        if quantized
        else "no variant is quantized",
    )
