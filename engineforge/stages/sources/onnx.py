"""ONNX files as a model source: what a model looks like from outside, and its canonical form.

The canonical form is the graph without what no engine depends on, its weights referred to by
content. Weights are hashed, never copied and never loaded.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from engineforge.digest import Digest, digest_stream
from engineforge.errors import EngineForgeError
from engineforge.spec.model import ModelInterface, TensorInterface
from engineforge.stages.sources import LFS_POINTER
from engineforge.stages.sources.features import features_of
from engineforge.stages.sources.graph import graphs, nodes, own_attributes
from engineforge.stages.sources.skeleton import IN_FILE, Malformed, read_skeleton

# Names that exporters give to dimensions they know nothing of. Two of them are not one size, and
# TensorRT would hold them equal.
_NAMELESS = {"-1", "None", "none", "unk"}


_SUB_BYTE = (
    TensorProto.INT4,
    TensorProto.UINT4,
    TensorProto.FLOAT4E2M1,
    *(getattr(TensorProto, name) for name in ("INT2", "UINT2") if hasattr(TensorProto, name)),
)


class ModelError(EngineForgeError):
    """A model file that cannot be used; the message says where."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a tensor's bytes are: `location` is `IN_FILE` or a file beside the model's."""

    tensor: TensorProto
    location: str
    offset: int
    length: int


def read_model(path: Path) -> ModelProto:
    """The model with its large weights as external data (see skeleton.py); ModelError if bad."""
    try:
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                message = f"'{path.name}' is a Git LFS pointer, not the model"
                raise ModelError(message, hint="git lfs pull")
        data = read_skeleton(path)
    except Malformed as error:
        message = f"'{path.name}' is no readable ONNX model: {error}"
        hint = f"is it the whole file? It has {path.stat().st_size} bytes"
        raise ModelError(message, hint=hint) from error
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read: {error.strerror}") from error
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError comes from a private module
        raise ModelError(f"'{path.name}' is no readable ONNX model: {error}") from error
    if not model.graph.node and not model.graph.output:
        raise ModelError(f"'{path.name}' holds no ONNX graph: no nodes and no outputs")
    return model


def references(model: ModelProto, path: Path) -> list[Reference]:
    """Every tensor whose bytes stand outside its own message, in the order of the graph.

    ModelError where a location leads outside the model's folder, a file is missing, or one is too
    short for its tensor.
    """
    found = []
    sizes = {IN_FILE: path.stat().st_size}
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location not in sizes:
            sizes[location] = _external_size(location, tensor.name, path)
        try:
            offset = int(entries.get("offset", "0"))
            length = int(entries.get("length", sizes[location] - offset))
        except ValueError as error:
            raise ModelError(f"tensor '{tensor.name}' of '{path.name}': {error}") from error
        if offset < 0 or length < 0:
            raise ModelError(
                f"tensor '{tensor.name}' of '{path.name}' has offset {offset} and length {length}"
            )
        if offset + length > sizes[location]:
            where = path.name if location == IN_FILE else location
            raise ModelError(
                f"'{where}' is truncated: tensor '{tensor.name}' ends at byte {offset + length}, "
                f"the file at byte {sizes[location]}"
            )
        expected = _bytes_of(tensor)
        if expected is not None and length != expected:
            raise ModelError(
                f"tensor '{tensor.name}' of '{path.name}' has {length} bytes, and its shape "
                f"{list(tensor.dims)} of {type_name(tensor.data_type)} takes {expected}"
            )
        found.append(Reference(tensor, location, offset, length))
    return found


def _bytes_of(tensor: TensorProto) -> int | None:
    """How many bytes a tensor's values take; None where elements are not whole bytes."""
    try:
        size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        return None
    if tensor.data_type in _SUB_BYTE or tensor.data_type == TensorProto.STRING:
        return None
    return int(math.prod(tensor.dims) * size)


def _external_size(location: str, tensor: str, path: Path) -> int:
    if not location:
        raise ModelError(f"tensor '{tensor}' of '{path.name}' names no external-data file")
    if "\\" in location or "\0" in location:
        raise ModelError(
            f"tensor '{tensor}' of '{path.name}' is stored in {location!r}: expected a relative "
            "path with '/' between folders",
        )
    parts = PurePosixPath(location)
    folder = path.parent.resolve()
    where = (folder / parts).resolve()
    if parts.is_absolute() or ".." in parts.parts or not where.is_relative_to(folder):
        raise ModelError(
            f"tensor '{tensor}' of '{path.name}' is stored in '{location}', outside the model's "
            "folder",
            hint="copy the model with its links resolved, such as `cp -rL`",
        )
    try:
        size = where.stat().st_size
    except OSError as error:
        raise ModelError(
            f"'{location}' is missing: '{path.name}' keeps the weights of tensor '{tensor}' in it",
            hint=f"put the file beside '{path.name}', or export the model again",
        ) from error
    if not where.is_file():
        raise ModelError(f"'{location}', named by tensor '{tensor}', is not a regular file")
    return size


def inspect(path: Path) -> ModelInterface:
    """Check a model with ONNX's own checker and say what it looks like; ModelError if it is bad."""
    model = read_model(path)
    held = references(model, path)
    _check(model, path)
    features = features_of(model)
    initializers = {tensor.name for tensor in model.graph.initializer}
    return ModelInterface(
        inputs=tuple(
            _interface(value) for value in model.graph.input if value.name not in initializers
        ),
        outputs=tuple(_interface(value) for value in model.graph.output),
        opsets={opset.domain: opset.version for opset in model.opset_import},
        external=tuple(dict.fromkeys(r.location for r in held if r.location != IN_FILE)),
        features=features,
        nodes=len(model.graph.node),
        weight_bytes=sum(r.length for r in held),
    )


Locate = Callable[[Sequence[Reference]], Iterable[Mapping[str, str]]]
"""Gives the `external_data` that each of some references is to have."""


def canonicalize(path: Path, locate: Locate) -> tuple[bytes, list[Reference]]:
    """The canonical model as bytes, with the `external_data` of its references from `locate`.

    Dropped: producer, versions, documentation, metadata, graph name, `value_info`, type
    denotations, and the names of dimensions that name nothing. Kept: node and tensor names, the
    order of nodes and initializers, opsets, types and every value.
    """
    model = read_model(path)
    held = references(model, path)
    for reference, entries in zip(held, locate(held), strict=True):
        del reference.tensor.external_data[:]
        for key, value in entries.items():
            reference.tensor.external_data.add(key=key, value=value)
    for field in ("producer_name", "producer_version", "domain", "model_version"):
        model.ClearField(field)
    opsets = sorted((each.domain, each.version) for each in model.opset_import)
    del model.opset_import[:]
    for domain, version in opsets:
        model.opset_import.add(domain=domain, version=version)
    _bare(model)
    for graph in graphs(model):
        _bare(graph)
        graph.name = "graph"
        del graph.value_info[:]
        for value in (*graph.input, *graph.output):
            _bare(value)
            _clear_nameless(value)
    for function in model.functions:
        _bare(function)
        del function.value_info[:]
    for node in nodes(model):
        _bare(node)
        for attribute in node.attribute:
            _bare(attribute)
    for tensor in _tensors(model):
        _bare(tensor)
    return model.SerializeToString(deterministic=True), held


def by_content(path: Path, external: Mapping[str, Digest]) -> Locate:
    """References as the canonical form has them: an external file by its digest, with the place in
    it; bytes of the ONNX file itself by their own digest. Hashes on all processors."""

    def one(reference: Reference) -> dict[str, str]:
        if reference.location == IN_FILE:
            with path.open("rb", buffering=0) as file:
                file.seek(reference.offset)
                digest = digest_stream(file, reference.length)
            return {"location": digest, "length": str(reference.length)}
        return {
            "location": external[reference.location],
            "offset": str(reference.offset),
            "length": str(reference.length),
        }

    def locate(references: Sequence[Reference]) -> list[dict[str, str]]:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(one, references))

    return locate


def bind(path: Path, folder: Path) -> Path:
    """The canonical model as a file that a parser can load: beside links to where the weights are.

    Returns its path, `folder/model.onnx`. The folder must exist and be empty.
    """
    names = {IN_FILE: "weights"}

    def locate(references: Sequence[Reference]) -> Iterator[dict[str, str]]:
        for reference in references:
            name = names.setdefault(reference.location, f"weights-{len(names)}")
            offset, length = str(reference.offset), str(reference.length)
            yield {"location": name, "offset": offset, "length": length}

    data, held = canonicalize(path, locate)
    for location in {reference.location for reference in held}:
        source = path if location == IN_FILE else path.parent / location
        (folder / names[location]).symlink_to(source.resolve())
    bound = folder / "model.onnx"
    bound.write_bytes(data)
    return bound


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for attribute in _attributes(model):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse_tensors = list(attribute.sparse_tensors)
        if attribute.HasField("sparse_tensor"):
            sparse_tensors.append(attribute.sparse_tensor)
        for sparse in sparse_tensors:
            yield from (sparse.values, sparse.indices)


def _attributes(model: ModelProto) -> Iterator[AttributeProto]:
    for holder in (*graphs(model), *model.functions):
        yield from own_attributes(holder)


def _bare(
    message: ModelProto
    | GraphProto
    | FunctionProto
    | NodeProto
    | AttributeProto
    | TensorProto
    | onnx.ValueInfoProto,
) -> None:
    message.ClearField("doc_string")
    if hasattr(message, "metadata_props"):
        message.ClearField("metadata_props")


def _clear_nameless(value: onnx.ValueInfoProto) -> None:
    value.type.ClearField("denotation")
    for dim in value.type.tensor_type.shape.dim:
        dim.ClearField("denotation")
        if _dim(dim) is None:
            dim.ClearField("dim_value")
            dim.ClearField("dim_param")


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    """A size, a name, or None for a placeholder such as `?` or -1."""
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    name = dim.dim_param
    return name if name not in _NAMELESS and any(map(str.isalnum, name)) else None


def type_name(elem_type: int) -> str:
    """An ONNX element type in NumPy's words: `float32`, `bfloat16`, `float8e4m3fn`."""
    name = str(TensorProto.DataType.Name(elem_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _interface(value: onnx.ValueInfoProto) -> TensorInterface:
    tensor = value.type.tensor_type
    return TensorInterface(
        name=value.name,
        type=type_name(tensor.elem_type) if value.type.HasField("tensor_type") else "no tensor",
        dims=tuple(_dim(dim) for dim in tensor.shape.dim),
    )


def _check(model: ModelProto, path: Path) -> None:
    """ONNX's checker, on a copy: weights are an empty file beside it, and operators that ONNX does
    not know are left to TensorRT, where a plugin may have them."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in _tensors(copy):
        if tensor.data_location == TensorProto.EXTERNAL:
            del tensor.external_data[:]
            tensor.external_data.add(key="location", value="weights")
    for node in nodes(copy):
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type):
            node.domain = "unknown.to.onnx"
    if not any(each.domain == "unknown.to.onnx" for each in copy.opset_import):
        copy.opset_import.add(domain="unknown.to.onnx", version=1)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "weights").touch()
        file = Path(folder) / "model.onnx"
        file.write_bytes(copy.SerializeToString())
        try:
            onnx.checker.check_model(str(file))
        except onnx.checker.ValidationError as error:
            said = " ".join(str(error).replace(str(file), path.name).split())
            raise ModelError(
                f"'{path.name}' is no valid ONNX model: {said}",
                hint="export it again; `python -m onnx.bin.checker` checks an export",
            ) from error
