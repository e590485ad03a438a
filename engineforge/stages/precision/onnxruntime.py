"""ONNX Runtime as a tool: its calibrators and its quantizer for INT8. FP16 is made of the graph by
lowering.py.

What the library does to nodes that were not asked to change is undone.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata, quantize_onnx_initializer

from engineforge.stages.precision import ranges
from engineforge.stages.precision.graph import (
    NotConvertible,
    array_of,
    copied,
    drop_unread,
    hollow,
    nodes,
    ordered,
    put,
    skeleton,
)
from engineforge.stages.precision.lowering import lower
from engineforge.stages.precision.quantization import Feeds, Quantization

_QDQ = ("QuantizeLinear", "DequantizeLinear")
# Between a convolution and the addition that TensorRT makes a part of it.
_TRANSPARENT = ("BatchNormalization", "Identity")
_SMALLEST_NORMAL = float(np.finfo(np.float16).tiny)


def cast(
    model: Path,
    *,
    to: str,
    keep: Sequence[str],
    keep_io_types: bool,
    feeds: Feeds | None,
    scratch: Path,
) -> ModelProto:
    """The model with every node but those of `keep` in fp16; large weights are put among those of
    `model`.

    NotConvertible where a weight is out of its range. Activations may go out of it: nothing is run.
    """
    if to != "fp16":
        raise NotConvertible(
            f"tool 'onnxruntime' does not convert to '{to}'", hint="tool: modelopt"
        )
    result = _unquantized(model)
    lower(result, model, keep=keep, keep_io_types=keep_io_types)
    return result


def quantize(
    model: Path, *, request: Quantization, feeds: Feeds | None, scratch: Path
) -> ModelProto:
    """The model with convolutions and products with constants in int8: weights stored as such, a
    scale for each channel, and the ranges of what they read found on `feeds`.

    All else gets the type `request.high_precision`, fp32 or fp16. Large weights are put among those
    of `model`.
    """
    if request.to != "int8" or request.high_precision not in ("fp32", "fp16"):
        wanted = f"{request.to} with high_precision {request.high_precision}"
        raise NotConvertible(
            f"tool 'onnxruntime' does not convert to '{wanted}'", hint="tool: modelopt"
        )
    if feeds is None:
        raise NotConvertible(
            "'int8' needs calibration data, found none",
            hint="write calibration: {data: samples.npz}; ranges are never made up",
        )
    plain = _unquantized(model)
    layers = _layers(plain, request.keep)
    if not layers:
        raise NotConvertible(
            "there is nothing to quantize: no convolution and no product with constant weights",
            hint="choose another precision; where keep_fp32 is given, fewer patterns",
        )
    _separate(plain, layers)
    found = ranges.find(
        plain,
        model,
        list(dict.fromkeys(layer.activation for layer in layers)),
        method=request.method,
        percentile=request.percentile,
        feeds=feeds,
        scratch=scratch,
    )
    result = _merged(plain, _quantized(plain, model, layers, found), layers)
    if request.high_precision == "fp16":
        _fit_scales(result, plain, layers, model)
        lower(result, model, keep=request.keep, keep_io_types=request.keep_io_types)
    return result


@dataclass(frozen=True, slots=True)
class _Layer:
    """A node to quantize: what it reads, its constant, and the constant's axis of channels."""

    node: str
    activation: str
    weight: str
    axis: int


def _unquantized(path: Path) -> ModelProto:
    model = skeleton(path)
    for node in nodes(model):
        if node.op_type in _QDQ:
            raise NotConvertible(
                f"the model is quantized already: node '{node.name}' is a '{node.op_type}'",
                hint="build it as it is: precision: source",
            )
    return model


def _layers(model: ModelProto, keep: Collection[str]) -> list[_Layer]:
    """Nodes of the main graph whose weights are constants. Products of two activations stay as they
    are: TensorRT fuses attention as a whole, and eight bits hold a softmax badly."""
    weights = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
    constants = {tensor.name for tensor in model.graph.initializer}
    floats = {v.name for v in _inferred(model) if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    kept = set(keep)
    found = []
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.name in kept or len(node.input) < 2:  # noqa: PLR2004
            continue
        activation, weight = node.input[:2]
        if weight not in weights or activation in constants or activation not in floats:
            continue
        axis = _axis(node, len(weights[weight].dims))
        if axis is not None:
            found.append(_Layer(node.name, activation, weight, axis))
    return found


def _axis(node: NodeProto, rank: int) -> int | None:
    """The axis of a weight along which its channels of output lie; None if it is not quantized."""
    attributes = {each.name: each for each in node.attribute}
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1 if "group" not in attributes or attributes["group"].i == 1 else None
        case "Gemm":
            return 0 if "transB" in attributes and attributes["transB"].i else 1
        case "MatMul" if rank > 1:
            return rank - 1
    return None


def _inferred(model: ModelProto) -> Sequence[onnx.ValueInfoProto]:
    copy = copied(model)
    hollow(copy)
    graph = onnx.shape_inference.infer_shapes(copy).graph
    return [*graph.value_info, *graph.input, *graph.output]


def _separate(model: ModelProto, layers: list[_Layer]) -> None:
    """Give layers a weight of their own where others read it too: those would read the quantized
    one."""
    readers: dict[str, list[str]] = {}
    for node in nodes(model):
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    by_name = {node.name: node for node in model.graph.node}
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    alike: dict[str, set[tuple[str, int]]] = {}
    for layer in layers:
        alike.setdefault(layer.weight, set()).add((layer.node, layer.axis))
    for at, layer in enumerate(layers):
        group = alike[layer.weight]
        shared = set(readers[layer.weight]) - {name for name, _ in group}
        if not shared and layer.weight not in outputs and len({axis for _, axis in group}) == 1:
            continue
        name = f"{layer.weight}/{layer.node}"
        copy = model.graph.initializer.add()
        copy.CopyFrom(tensors[layer.weight])
        copy.name = by_name[layer.node].input[1] = name
        layers[at] = _Layer(layer.node, layer.activation, name, layer.axis)
    drop_unread(model)


def _quantized(
    plain: ModelProto, path: Path, layers: Sequence[_Layer], found: Mapping[str, Any]
) -> ModelProto:
    """What the library makes of the model; only the weights that it quantizes are in memory."""
    model = copied(plain)
    model.graph.value_info.extend(_inferred(plain))
    add_infer_metadata(model)
    weights = {layer.weight for layer in layers}
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(_loaded(tensor, path))
    names = {layer.node for layer in layers}
    operators = sorted({node.op_type for node in model.graph.node if node.name in names})
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=found,
        nodes_to_quantize=names,
        nodes_to_exclude=[],
        op_types_to_quantize=operators,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            # TensorRT takes no bias in INT32, and adds it in high precision.
            "QuantizeBias": False,
            "QDQDisableWeightAdjustForInt32Bias": True,
            "OpTypesToExcludeOutputQuantization": operators,
            "QDQOpTypePerChannelSupportToAxis": {"MatMul": -1},
        },
    )
    with contextlib.redirect_stdout(io.StringIO()):
        result: ModelProto = quantizer.quantize_model()
    for tensor in result.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            put(tensor, array_of(tensor, path), path)
    # The memory of what was removed is given back with the message only.
    small: ModelProto = ModelProto.FromString(result.SerializeToString())
    return small


def _loaded(tensor: TensorProto, path: Path) -> TensorProto:
    return onnx.numpy_helper.from_array(array_of(tensor, path), tensor.name)


def _merged(plain: ModelProto, quantized: ModelProto, layers: Sequence[_Layer]) -> ModelProto:
    """The model with the library's Q/DQ nodes in front of its layers, and nothing else changed.

    The library lets everybody read what is quantized for a layer, even who takes the graph's
    outputs, gives nodes other biases, and makes Gemm's beta 1.
    """
    model = copied(plain)
    own = {node.name for node in plain.graph.node}
    model.graph.node.extend(node for node in quantized.graph.node if node.name not in own)
    known = {tensor.name for tensor in plain.graph.initializer}
    model.graph.initializer.extend(t for t in quantized.graph.initializer if t.name not in known)
    outputs = {value.name for value in plain.graph.output}
    dequantized: dict[str, str] = {}
    pairs = {each.input[0]: each for each in model.graph.node if each.op_type == "DequantizeLinear"}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            back = pairs[node.output[0]]
            if back.output[0] in outputs:
                node.input[0] = back.output[0]
                back.output[0] = f"{node.input[0]}_DequantizeLinear_Output"
            dequantized[node.input[0]] = back.output[0]
    by_name = {node.name: node for node in model.graph.node}
    library = {node.name: node for node in quantized.graph.node}
    for layer in layers:
        node = by_name[layer.node]
        node.input[0] = dequantized[layer.activation]
        node.input[1] = library[layer.node].input[1]
    for name, at in _residuals(plain, layers):
        if (quantized_one := dequantized.get(by_name[name].input[at])) is not None:
            by_name[name].input[at] = quantized_one
    drop_unread(model)
    ordered(model, plain)
    return model


def _residuals(model: ModelProto, layers: Sequence[_Layer]) -> Iterator[tuple[str, int]]:
    """Inputs of additions that TensorRT makes a part of a quantized convolution: it reads them in
    int8 too where they are in int8 for another layer anyway."""
    convolutions = {layer.node for layer in layers}
    producers = {name: node for node in model.graph.node for name in node.output if name}

    def convolution(name: str) -> bool:
        node = producers.get(name)
        while node is not None and node.op_type in _TRANSPARENT:
            node = producers.get(node.input[0])
        return node is not None and node.op_type == "Conv" and node.name in convolutions

    for node in model.graph.node:
        if node.op_type == "Add":
            for at in (0, 1):
                if convolution(node.input[1 - at]):
                    yield node.name, at


def _fit_scales(model: ModelProto, plain: ModelProto, layers: Sequence[_Layer], path: Path) -> None:
    """Let scales be numbers of FP16 where rounding them would do harm: the smallest ones have few
    digits there, or none. Weights are quantized again by what their scale has become."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {tensor.name: tensor for tensor in plain.graph.initializer}
    by_name = {node.name: node for node in model.graph.node}
    producers = {name: node for node in model.graph.node for name in node.output}
    for layer in layers:
        activation, weight = (producers[each] for each in by_name[layer.node].input[:2])
        for node in (activation, weight):
            scale = tensors[node.input[1]]
            before = array_of(scale, path)
            if before.min() >= _SMALLEST_NORMAL:
                continue
            after = before.astype(np.float16)
            up = np.nextafter(after, np.float16(np.inf))
            # Never down: the largest values would be cut off.
            after = np.where(after < before, up, after).astype(np.float32)
            put(scale, after, path)
            if node is weight:
                made = quantize_onnx_initializer(
                    _loaded(weights[layer.weight], path),
                    TensorProto.INT8,
                    np.zeros(after.shape, np.int8),
                    after,
                    layer.axis,
                )
                put(tensors[node.input[0]], onnx.numpy_helper.to_array(made), path)
