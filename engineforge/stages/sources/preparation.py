"""What a spec asks to be done to a model before anything else: dimensions fixed, outputs chosen,
the opset changed, constants folded, shapes inferred.

Works on the graph without its large weights, which are copied once, from file to file. No name of
a node changes.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, numpy_helper

from engineforge.spec.model import ModelInterface
from engineforge.spec.sources import Preparation
from engineforge.stages.precision.graph import (
    MODEL,
    ONNX,
    bring,
    drop_unread,
    graphs,
    name_nodes,
    named,
    nodes,
    opset_of,
)
from engineforge.stages.sources import SourceFailed
from engineforge.stages.sources.onnx import ModelError, inspect, references
from engineforge.stages.sources.simplification import put, reads, simplified
from engineforge.stages.sources.skeleton import IN_FILE, INLINE_BYTES

_WEIGHTS = "model.onnx.data"
_BESIDE_BYTES = 1 << 30  # protobuf ends at 2 GiB
_PAGE = 4096  # ONNX Runtime maps a tensor that starts at a page
_FEWEST_IR = 4  # before it, initializers had to be inputs too
_MOST_NAMES = 12


def prepare(model: Path, asked: Preparation, *, out: Path) -> None:
    """Write the model as asked: `out/model.onnx`, with its weights beside it in `model.onnx.data`
    where those of `model` are beside it too, or take a gigabyte or more.

    In the order: dimensions, outputs, opset, simplify, infer_shapes (last, since folding tells more
    shapes and drops what was inferred before it). A lower opset is sought in what folding leaves.
    SourceFailed where one cannot be done; ModelError where `model` is bad.
    """
    interface = inspect(model)
    made = named(model)
    _weights_are_no_inputs(made)
    if asked.dimensions:
        _fix_dimensions(made, interface, asked.dimensions)
    if asked.outputs:
        _choose_outputs(made, asked.outputs)
    if asked.simplify and asked.opset is not None and asked.opset < opset_of(made):
        made = simplified(made, model, interface)  # what is folded need not be lowered
    if asked.opset is not None:
        made = _at_opset(made, asked.opset)
    if asked.simplify:
        made = simplified(made, model, interface)
    if asked.infer_shapes:
        made = _inferred(made)
    name_nodes(made)
    _write(made, model, out)
    try:
        inspect(out / MODEL)
    except ModelError as error:
        raise SourceFailed(f"preparation made a model that is not valid: {error}") from error


def _weights_are_no_inputs(model: ModelProto) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    put(model.graph.input, [each for each in model.graph.input if each.name not in weights])
    model.ir_version = max(model.ir_version, _FEWEST_IR)


def _fix_dimensions(model: ModelProto, interface: ModelInterface, sizes: Mapping[str, int]) -> None:
    there = {dim for each in interface.inputs for dim in each.dims if isinstance(dim, str)}
    for name in sizes:
        if name not in there:
            listed = f"there is: {', '.join(sorted(there))}" if there else "all of them are fixed"
            raise SourceFailed(f"no input has a dimension '{name}'", hint=listed)
    before = _complaint(model)
    for dim in (dim for graph in graphs(model.graph) for dim in _dims(graph)):
        if dim.dim_param in sizes:
            dim.dim_value = sizes[dim.dim_param]
    if before is None and (after := _complaint(model)) is not None:
        given = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise SourceFailed(
            f"the model contradicts the dimensions {{{given}}}: {after}",
            hint="leave a dimension out that the model fixes inside",
        )
    # What is computed from these, such as an output of 'floor(height/4)', is fixed with them.
    for value, found in zip(model.graph.output, _inferred(model).graph.output, strict=True):
        value.CopyFrom(found)


def _dims(graph: GraphProto) -> Iterator[onnx.TensorShapeProto.Dimension]:
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.HasField("tensor_type"):
            yield from value.type.tensor_type.shape.dim


def _complaint(model: ModelProto) -> str | None:
    """What ONNX's type and shape inference finds wrong."""
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        return " ".join(str(error).split())
    return None


def _inferred(model: ModelProto) -> ModelProto:
    """With the shapes that ONNX's own inference finds: ONNX Runtime's symbolic one holds dimensions
    equal that are not. Names that it makes up for unknown sizes are left out."""
    known = {dim.dim_param for graph in graphs(model.graph) for dim in _dims(graph)}
    made = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for dim in (dim for graph in graphs(made.graph) for dim in _dims(graph)):
        if dim.dim_param not in known:
            dim.ClearField("dim_param")
    return made


def _choose_outputs(model: ModelProto, asked: Mapping[str, str]) -> None:
    """Replace the outputs, and remove what only the old ones needed: nodes, weights, and inputs
    that are no longer read. A tensor that becomes an output takes its new name everywhere."""
    graph = model.graph
    values = _values(model)
    for name, tensor in asked.items():
        _require(tensor, name, graph, values)
    _keep_needed(model, asked.values())
    inputs = {value.name for value in graph.input}
    for name in sorted(inputs & asked.keys()):
        raise SourceFailed(
            f"the output '{name}' has the name of an input", hint="give it another name"
        )
    # No node makes these: an output of theirs is a copy, as is a second one of the same tensor.
    fixed = inputs | {tensor.name for tensor in graph.initializer}
    renamed = {each: each for each, old in asked.items() if each == old and each not in fixed}
    copies = [
        (tensor, name)
        for name, tensor in asked.items()
        if tensor in fixed or renamed.setdefault(tensor, name) != name
    ]
    _rename(model, renamed, asked.keys())
    for tensor, name in copies:
        graph.node.add(op_type="Identity", input=[renamed.get(tensor, tensor)], output=[name])
    del graph.output[:]
    for name, tensor in asked.items():
        graph.output.append(ValueInfoProto(name=name, type=values[tensor].type))
    name_nodes(model)


def _values(model: ModelProto) -> dict[str, ValueInfoProto]:
    """What is known of the tensors of the main graph."""
    made = _inferred(model).graph
    values = {each.name: each for each in (*made.value_info, *made.input, *made.output)}
    for tensor in made.initializer:
        values[tensor.name] = onnx.helper.make_tensor_value_info(
            tensor.name, tensor.data_type, tensor.dims
        )
    return values


def _require(
    tensor: str, name: str, graph: GraphProto, values: Mapping[str, ValueInfoProto]
) -> None:
    """SourceFailed where a tensor cannot be an output."""
    made = [each for node in graph.node for each in node.output if each]
    there = {*made, *(each.name for each in (*graph.input, *graph.initializer))}
    if tensor not in there:
        given = {node.name: node.output for node in graph.node}
        if tensor in given:
            hint = f"that is a node, and gives: {', '.join(given[tensor])}"
        elif near := difflib.get_close_matches(tensor, there, n=3):
            hint = "did you mean " + " or ".join(f"'{each}'" for each in near) + "?"
        else:
            hint = f"the last ones are: {', '.join(reversed(made[-_MOST_NAMES:]))}"
        raise SourceFailed(f"output '{name}': the model has no tensor '{tensor}'", hint=hint)
    kind = values[tensor].type if tensor in values else onnx.TypeProto()
    if not kind.HasField("tensor_type") or not kind.tensor_type.elem_type:
        what = "is no tensor but a " + str(kind.WhichOneof("value")).removesuffix("_type")
        what = "has a type that ONNX cannot infer" if not kind.WhichOneof("value") else what
        raise SourceFailed(
            f"output '{name}': '{tensor}' {what}", hint="choose a tensor before or after it"
        )
    if not kind.tensor_type.HasField("shape"):
        raise SourceFailed(
            f"output '{name}': how many dimensions '{tensor}' has, ONNX cannot infer",
            hint="choose a tensor before or after it, or fix 'dimensions' that it depends on",
        )


def _keep_needed(model: ModelProto, wanted: Collection[str]) -> None:
    graph = model.graph
    were_read = {name for node in graph.node for name in reads(node)}
    needed, kept = set(wanted), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed.update(reads(node))
    put(graph.node, reversed(kept))
    put(graph.output, [ValueInfoProto(name=name) for name in wanted])  # read by nothing else
    drop_unread(model)
    put(graph.input, [x for x in graph.input if x.name in needed or x.name not in were_read])
    made = {name for node in graph.node for name in node.output}
    put(graph.value_info, [each for each in graph.value_info if each.name in made])


def _rename(model: ModelProto, renamed: dict[str, str], taken: Collection[str]) -> None:
    """Rename tensors everywhere, and whatever else has one of the names that are `taken` now, for
    which it adds to `renamed`."""
    names = {name for graph in graphs(model.graph) for name in _names(graph)}
    for name in sorted({*taken} & names - renamed.keys()):
        number = 1
        while (fresh := f"{name}_{number}") in names or fresh in taken:
            number += 1
        names.add(fresh)
        renamed[name] = fresh
    for graph in graphs(model.graph):
        for each in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            each.name = renamed.get(each.name, each.name)
        for node in graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]


def _names(graph: GraphProto) -> Iterator[str]:
    for each in (*graph.input, *graph.output, *graph.initializer):
        yield each.name
    for node in graph.node:
        yield from node.output


def _at_opset(model: ModelProto, opset: int) -> ModelProto:
    before = opset_of(model)
    if before == opset:
        return model
    complaint = _complaint(model)
    _write_constants_one_way(model)
    _leave_noops(model, before, opset)
    try:
        made = onnx.version_converter.convert_version(model, opset)
        # It goes by what it has a converter for, and does not look at the result.
        if complaint is None and (after := _complaint(made)) is not None:
            raise ValueError(after)
    except Exception as error:  # the converter's has no parent but Exception
        said = " ".join(str(error).split())
        raise SourceFailed(
            f"ONNX cannot take the model from opset {before} to {opset}: {said}",
            hint=f"if TensorRT reads opset {before}, leave it; else let the exporter write {opset}",
        ) from error
    lowest = onnx.helper.find_min_ir_version_for(made.opset_import, ignore_unknown=True)
    made.ir_version = max(made.ir_version, lowest)
    del made.graph.value_info[:]  # its own
    return made


def _leave_noops(model: ModelProto, before: int, opset: int) -> None:
    """Take away what reductions say of no axes, where the opset has no word for it: exporters say
    it of every reduction, and the converter leaves it."""
    for node in nodes(model):
        since = 13 if node.op_type == "ReduceSum" else 18
        if not (node.op_type.startswith("Reduce") and opset < since <= before):
            continue
        left = [each for each in node.attribute if each.name != "noop_with_empty_axes"]
        if len(left) < len(node.attribute) and len([*filter(None, node.input)]) > 1:
            put(node.attribute, left)


def _write_constants_one_way(model: ModelProto) -> None:
    """As tensors: the converter knows no other way, and looks into axes that become attributes."""
    for node in nodes(model):
        if node.op_type != "Constant" or node.domain not in ONNX:
            continue
        value = node.attribute[0]
        kind = {"value_int": np.int64, "value_float": np.float32}.get(value.name.removesuffix("s"))
        if kind is not None:
            array = np.array(onnx.helper.get_attribute_value(value), kind)
            node.attribute[0].CopyFrom(
                onnx.helper.make_attribute("value", numpy_helper.from_array(array))
            )


def _write(model: ModelProto, path: Path, out: Path) -> None:
    """As a file in the folder `out`. What the model only refers to is in the file `path`, or beside
    it; of that, no more than one weight is in memory where weights go beside the new file."""
    held = references(model, path)
    inside = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    beside = any(each.location != IN_FILE for each in held)
    beside = beside or inside + sum(each.length for each in held) >= _BESIDE_BYTES
    if beside:
        weights = [*model.graph.initializer]
        taken = GraphProto(initializer=weights)
        del model.graph.initializer[:]
        with (out / _WEIGHTS).open("xb") as file:
            for tensor in taken.initializer:
                _put_beside(tensor, path, file)
    # ONNX Runtime takes nothing else from beside the model.
    for reference in references(model, path):
        bring(reference.tensor, path, None)
    if beside:
        model.graph.initializer.extend(taken.initializer)
    (out / MODEL).write_bytes(model.SerializeToString(deterministic=True))


def _put_beside(tensor: TensorProto, path: Path, file: BinaryIO) -> None:
    if tensor.data_location == TensorProto.EXTERNAL:
        bring(tensor, path, file)
    elif (length := len(tensor.raw_data)) >= INLINE_BYTES:
        file.write(bytes(-file.tell() % _PAGE))
        offset = file.tell()
        file.write(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", _WEIGHTS), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
