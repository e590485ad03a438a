"""The scales that a typed graph is quantized by, read out of its Q/DQ nodes: the same for every
tool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from engineforge.stages.precision.graph import NotConvertible, array_of, graphs

_Described = dict[str, dict[str, Any]]

# The largest magnitude of each type that values are quantized to, symmetrically.
_LARGEST: dict[int, float] = {
    TensorProto.INT8: 127.0,
    TensorProto.FLOAT8E4M3FN: 448.0,
    TensorProto.FLOAT8E5M2: 57344.0,
    TensorProto.INT4: 7.0,
}
_QUANTIZED_SUFFIX = "_quantized"  # ONNX Runtime's


def scales(model: ModelProto, path: Path) -> dict[str, _Described]:
    """Activations by name with `scale` and `amax`, the largest magnitude that it can hold; weights
    with how many scales there are (`channels`), the smallest and the largest.

    `model` is what is in the file `path`. NotConvertible where a scale is zero, infinite or not a
    number.
    """
    activations: _Described = {}
    weights: _Described = {}
    for graph in graphs(model.graph):
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        producers = {name: node for node in graph.node for name in node.output}
        for node in graph.node:
            if node.op_type != "DequantizeLinear" or node.input[1] not in tensors:
                continue
            scale = _sound(array_of(tensors[node.input[1]], path), node)
            source = producers.get(node.input[0])
            if source is not None and source.op_type == "QuantizeLinear":
                largest = _LARGEST.get(_type(source, tensors), np.nan) * scale.max()
                activations[_original(source.input[0], producers)] = {
                    "scale": _short(scale.max()),
                    "amax": _short(largest) if np.isfinite(largest) else None,
                }
            else:
                weights[node.input[0].removesuffix(_QUANTIZED_SUFFIX)] = {
                    "channels": int(scale.size),
                    "scale_min": _short(scale.min()),
                    "scale_max": _short(scale.max()),
                }
    return {"activations": activations, "weights": weights}


def _sound(scale: NDArray[Any], node: NodeProto) -> NDArray[np.float64]:
    found = scale.astype(np.float64)
    if found.size == 0 or not np.isfinite(found).all() or found.min() <= 0:
        bad = found[~(np.isfinite(found) & (found > 0))]
        raise NotConvertible(
            f"node '{node.name}' dequantizes '{node.input[0]}' by a scale of "
            f"{bad.flat[0] if bad.size else 'nothing'}",
            hint="look at the samples and the weights, or name the layer in keep_fp32",
        )
    return found


def _type(node: NodeProto, tensors: dict[str, TensorProto]) -> int:
    """What a QuantizeLinear gives."""
    for attribute in node.attribute:
        if attribute.name == "output_dtype" and attribute.i:
            return int(attribute.i)
    zero = tensors.get(node.input[2]) if len(node.input) > 2 else None  # noqa: PLR2004
    return int(zero.data_type) if zero is not None else onnx.TensorProto.UINT8


def _original(name: str, producers: dict[str, NodeProto]) -> str:
    """The tensor that a value was before it was cast."""
    while (node := producers.get(name)) is not None and node.op_type == "Cast":
        name = node.input[0]
    return name


def _short(value: np.float64) -> float:
    """As many digits as FP32 has."""
    return float(f"{value:.9g}")
