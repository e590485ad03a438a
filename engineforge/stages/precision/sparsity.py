"""2:4 sparsity: of every four weights along the inner dimension of a product, the two of largest
magnitude stay. What it does to a network is for the accuracy check to find."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from engineforge.stages.precision.graph import NotConvertible, array_of, nodes, skeleton

PATTERN = "2:4"
_GROUP, _STAY = 4, 2
_GROUPS_AT_ONCE = 1 << 20
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_LAYERS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class _Weight:
    node: NodeProto
    tensor: TensorProto
    axis: int


def prune(model: Path, keep: Collection[str]) -> list[dict[str, Any]]:
    """Prune the eligible weights of a prepared model, where they are; nodes of `keep` keep theirs.

    Eligible are constants of floats: of a convolution, in groups along its input channels; of a
    matrix product, along its inner dimension; where that is a multiple of four, and no reader needs
    another order. Among equal magnitudes the first stay. Returns what became of each layer in the
    order of the graph; NotConvertible if none could be pruned.
    """
    graph = skeleton(model)
    found = list(_layers(graph, frozenset(keep)))
    done: dict[str, dict[str, Any]] = {}
    report = []
    for node, weight in found:
        about = {"node": node.name, "weight": node.input[1] if len(node.input) > 1 else ""}
        if isinstance(weight, str):
            report.append({**about, "state": "ineligible", "why": weight})
            continue
        about["shape"] = list(weight.tensor.dims)
        if weight.tensor.name not in done:
            done[weight.tensor.name] = _pruned(weight, model)
        report.append({**about, **done[weight.tensor.name]})
    if not done:
        raise NotConvertible(
            "there is nothing to prune: no convolution and no product whose inner dimension is a "
            f"multiple of {_GROUP}",
            hint="remove 'sparsity'",
        )
    model.write_bytes(graph.SerializeToString(deterministic=True))
    return report


def _layers(model: ModelProto, keep: frozenset[str]) -> Iterator[tuple[NodeProto, _Weight | str]]:
    """Convolutions and products, each with its weight, or why it has none to prune."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    outer = {node.name for node in model.graph.node}
    outputs = {value.name for value in model.graph.output}
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes(model):
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in nodes(model):
        if node.op_type not in _LAYERS or node.domain not in ("", "ai.onnx"):
            continue
        tensor = tensors.get(node.input[1])
        if tensor is None or node.name not in outer:
            yield node, "its weight is no constant of the main graph"
        elif node.name in keep:
            yield node, "keep_fp32 keeps it as it is"
        elif tensor.data_type not in _FLOATS:
            yield node, "its weight is not of floats"
        else:
            yield node, _weight(node, tensor, readers[tensor.name], keep, outputs)


def _weight(
    node: NodeProto,
    tensor: TensorProto,
    readers: list[NodeProto],
    keep: frozenset[str],
    outputs: set[str],
) -> _Weight | str:
    axis = _axis(node, len(tensor.dims))
    if axis is None:
        return f"its weight has {len(tensor.dims)} dimensions"
    if tensor.dims[axis] % _GROUP:
        return f"its inner dimension is {tensor.dims[axis]}, no multiple of {_GROUP}"
    for other in readers:
        layer = other.op_type in _LAYERS and list(other.input).index(tensor.name) == 1
        if other.name in keep or not layer or _axis(other, len(tensor.dims)) != axis:
            return f"'{other.name}' reads its weight too"
    if tensor.name in outputs:
        return "its weight is an output of the model"
    return _Weight(node, tensor, axis)


def _axis(node: NodeProto, rank: int) -> int | None:
    """The axis of a weight over which products are summed up."""
    if node.op_type == "Conv":
        return 1
    if rank != 2:  # noqa: PLR2004 - a matrix
        return None
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    return 1 if transposed else 0


def _pruned(weight: _Weight, path: Path) -> dict[str, Any]:
    tensor = weight.tensor
    external = tensor.data_location == TensorProto.EXTERNAL
    values = array_of(tensor, path, "r+") if external else array_of(tensor, path).copy()
    if not np.isfinite(values).all():
        raise NotConvertible(
            f"tensor '{tensor.name}' of node '{weight.node.name}' has values that are not finite"
        )
    # A view where the groups lie together in memory, else a copy.
    lanes = np.moveaxis(values, weight.axis, -1)
    groups = np.ascontiguousarray(lanes).reshape(-1, _GROUP)
    before = after = 0.0
    zeroed = 0
    for start in range(0, len(groups), _GROUPS_AT_ONCE):
        part = groups[start : start + _GROUPS_AT_ONCE]
        magnitudes = np.abs(part.astype(np.float32))
        lost = _smaller(magnitudes) & (part != 0)
        energy = np.square(magnitudes, dtype=np.float64)
        before += float(energy.sum())
        after += float(energy[~lost].sum())
        zeroed += int(np.count_nonzero(lost))
        part[lost] = 0
    if zeroed:
        values[...] = np.moveaxis(groups.reshape(lanes.shape), -1, weight.axis)
        if not external:
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return {
        "state": "pruned" if zeroed else "already",
        "zeroed": zeroed / values.size,
        "kept_energy": after / before if before else 1.0,
    }


def _smaller(magnitudes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Of each row, which are not among the two largest; the first of equal ones are."""
    ahead = np.zeros(magnitudes.shape, np.int8)
    for at in range(_GROUP):
        for other in range(_GROUP):
            if other < at:
                ahead[:, at] += magnitudes[:, other] >= magnitudes[:, at]
            elif other > at:
                ahead[:, at] += magnitudes[:, other] > magnitudes[:, at]
    return ahead >= _STAY
