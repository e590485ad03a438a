"""What an engine's layers are, from TensorRT's engine inspector, in one form for all versions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from engineforge.runtime.engine import Engine

_TYPES = {
    "float32": "FP32|Float",
    "float16": "FP16|Half",
    "bfloat16": "BF16|BFloat16",
    "float8": "FP8",
    "int8": "Int8|INT8",
    "int4": "Int4|INT4",
    "float4": "FP4",
    "int64": "Int64|INT64",
    "int32": "Int32|INT32",
    "bool": "Bool",
    "uint8": "UInt8|UINT8",
}
_TYPE = re.compile("|".join(rf"\b(?P<{name}>{words})\b" for name, words in _TYPES.items()))


def layer_information(engine: Engine) -> dict[str, Any]:
    """`layers`, each with its name and what is told of its type, data types and tactic; and
    `tensorrt`, all that the inspector said. How much that is, 'profiling_verbosity' decided when
    the engine was built. Data types are those at the opt of the first profile: of shapes that vary,
    TensorRT tells none."""
    trt = engine.loaded.trt
    inspector = engine.loaded.cuda_engine.create_engine_inspector()
    with engine.context(0) as bound:
        bound.prepare(engine.interface.opt(0))
        bound.told_to(inspector)
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    return normalised(text)


def normalised(text: str) -> dict[str, Any]:
    """The inspector's JSON in one form; text that is no JSON is kept as it is."""
    try:
        told = json.loads(text, strict=False)  # 8.6 joins names by a bare control character
    except ValueError:
        return {"layers": [], "tensorrt": text}
    layers = told.get("Layers", []) if isinstance(told, Mapping) else []
    return {"layers": [_layer(each) for each in layers], "tensorrt": told}


def _layer(told: object) -> dict[str, Any]:
    if not isinstance(told, Mapping):  # built with names only
        return {"name": str(told)}
    found: dict[str, Any] = {"name": str(told.get("Name", ""))}
    if kind := told.get("ParameterType") or told.get("LayerType"):
        found["type"] = str(kind)
    for key, name in (("Inputs", "input_types"), ("Outputs", "output_types")):
        if types := list(dict.fromkeys(_types(told.get(key)))):
            found[name] = types
    weights = told.get("Weights")
    if isinstance(weights, Mapping) and (types := list(_types([weights]))):
        found["weights_type"] = types[0]
    # TensorRT writes a tactic as a number, or as the name of its kernel, or both.
    for key, name in (("TacticName", "tactic"), ("TacticValue", "tactic_value")):
        if told.get(key):
            found[name] = str(told[key])
    return found


def _types(tensors: object) -> Iterator[str]:
    for tensor in tensors if isinstance(tensors, list) else []:
        said = " ".join(
            str(tensor[key])
            for key in ("Datatype", "DataType", "Format/Datatype", "Format", "Type")
            if isinstance(tensor, Mapping) and key in tensor
        )
        if match := _TYPE.search(said):
            yield str(match.lastgroup)
