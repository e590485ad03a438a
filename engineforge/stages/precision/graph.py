"""The graph that tools convert, and the file that becomes of it: read without its weights, written
canonically."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, inliner, numpy_helper

from engineforge.errors import EngineForgeError
from engineforge.stages.sources.onnx import Reference, canonicalize, read_model, references
from engineforge.stages.sources.skeleton import IN_FILE, INLINE_BYTES

MODEL = "model.onnx"
WEIGHTS = "weights"
_TYPED_WEIGHTS = "model.onnx.data"
_BESIDE_BYTES = 1 << 30  # protobuf ends at 2 GiB, and parsers copy what stands inside
_PAGE = 4096  # ONNX Runtime maps a tensor that starts at a page, and reads any other into memory
_CHUNK = 1 << 24
ONNX = ("", "ai.onnx")


class NotConvertible(EngineForgeError):
    """A model that cannot be converted; the message says why."""


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all inside it, from outside in, in the order of the nodes."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    for graph in graphs(model.graph):
        yield from graph.node


def opset_of(model: ModelProto) -> int:
    """The version of ONNX's own operators."""
    return max((each.version for each in model.opset_import if each.domain in ONNX), default=1)


def named(path: Path) -> ModelProto:
    """The model of a file without its weights, every node under a name of its own.

    Functions of the model are inlined. A node that has no name, or one that is taken, is called
    after its operator and counted: `Conv_3`.
    """
    model = read_model(path)
    if model.functions:
        model = inliner.inline_local_functions(model)
    name_nodes(model)
    return model


def copied(model: ModelProto) -> ModelProto:
    made = ModelProto()
    made.CopyFrom(model)
    return made


def skeleton(path: Path) -> ModelProto:
    """A prepared model without its large weights."""
    return onnx.load(path, load_external_data=False)


def array_of(tensor: TensorProto, model: Path, mode: Literal["r", "r+"] = "r") -> NDArray[Any]:
    """The values of a tensor of the model in that file; those of a large one are a file, mapped."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    entries = _entries(tensor)
    mapped = np.memmap(
        _location(entries, model),
        dtype=np.uint8,
        mode=mode,
        offset=int(entries["offset"]),
        shape=(int(entries["length"]),),
    )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return mapped.view(dtype).reshape(tuple(tensor.dims))


def hollow(model: ModelProto) -> dict[str, TensorProto]:
    """Take the large weights' places out of a prepared model, for libraries that would load what
    they name: they have types and shapes, and no values. Returns the tensors as they were."""
    taken = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            taken[tensor.name] = TensorProto.FromString(tensor.SerializeToString())
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return taken


def refill(model: ModelProto, taken: Mapping[str, TensorProto]) -> None:
    """Undo `hollow`."""
    for tensor in model.graph.initializer:
        if tensor.name in taken:
            tensor.CopyFrom(taken[tensor.name])


def drop_unread(model: ModelProto) -> None:
    """Remove initializers that nothing reads."""
    read = {name for node in nodes(model) for name in node.input}
    read |= {value.name for graph in graphs(model.graph) for value in graph.output}
    for graph in graphs(model.graph):
        for at in reversed(range(len(graph.initializer))):
            if graph.initializer[at].name not in read:
                del graph.initializer[at]


def put(tensor: TensorProto, values: NDArray[Any], model: Path | None) -> None:
    """Give a tensor these values: if they are large, among the weights of that prepared model.
    Without one, as for a graph inside the graph, always in the tensor itself."""
    name = tensor.name
    tensor.Clear()
    tensor.name = name
    tensor.dims.extend(values.shape)
    tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    if model is None or values.nbytes < INLINE_BYTES:
        tensor.raw_data = values.tobytes()
        return
    with (model.parent / WEIGHTS).open("ab") as weights:
        content = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        _refer(tensor, WEIGHTS, _append(weights, [content.data]), values.nbytes)


def write(model: ModelProto, folder: Path, prepared: Path) -> Path:
    """The canonical model as a file in `folder`: `model.onnx`, and `model.onnx.data` where weights
    take a gigabyte or more. Equal models give equal bytes.

    Large initializers may be those of the model `prepared`. What the model holds itself is taken
    from it.
    """
    path, data = folder / MODEL, folder / _TYPED_WEIGHTS
    with data.open("xb") as out:
        for tensor in model.graph.initializer:
            _settle(tensor)
            if tensor.data_location == TensorProto.EXTERNAL:
                bring(tensor, prepared, out)
            elif len(tensor.raw_data) >= INLINE_BYTES:
                length = len(tensor.raw_data)
                _refer(tensor, _TYPED_WEIGHTS, _append(out, [tensor.raw_data]), length)
        beside = out.tell() >= _BESIDE_BYTES
    path.write_bytes(model.SerializeToString())
    canonical = ModelProto.FromString(canonicalize(path, _where_they_are)[0])
    for reference in references(canonical, path):
        if reference.location == IN_FILE or not beside:
            bring(reference.tensor, path, None)
    path.write_bytes(canonical.SerializeToString(deterministic=True))
    if not beside:
        data.unlink()
    return path


def ordered(model: ModelProto, like: ModelProto) -> None:
    """Put the nodes of `like` in its order, and what a library added right before its reader."""
    rank = {node.name: at for at, node in enumerate(like.graph.node)}
    producers = {name: node for node in model.graph.node for name in node.output if name}
    placed: dict[str, NodeProto] = {}

    def place(node: NodeProto) -> None:
        # What is before it in `like` is there already: just a few added nodes are not.
        if node.name in placed:
            return
        for name in _reads(node):
            if name in producers:
                place(producers[name])
        placed[node.name] = node

    for node in sorted(
        model.graph.node, key=lambda node: (rank.get(node.name, len(rank)), node.name)
    ):
        place(node)
    sequence = GraphProto(node=placed.values())
    model.graph.ClearField("node")
    model.graph.node.extend(sequence.node)


def _reads(node: NodeProto) -> Iterator[str]:
    """What a node reads, graphs inside it included."""
    yield from node.input
    for inner in subgraphs(node):
        for each in inner.node:
            yield from _reads(each)


def _where_they_are(held: Sequence[Reference]) -> list[dict[str, str]]:
    return [_entries(reference.tensor) for reference in held]


def name_nodes(model: ModelProto) -> None:
    taken = {node.name for node in nodes(model)}
    seen = {""}
    counts: Counter[str] = Counter()
    for node in nodes(model):
        if node.name in seen:
            while (name := f"{node.op_type}_{counts[node.op_type]}") in taken:
                counts[node.op_type] += 1
            taken.add(name)
            node.name = name
        seen.add(node.name)


def bring(tensor: TensorProto, path: Path, weights: BinaryIO | None) -> None:
    """Move a tensor's bytes from where the file `path` says they are to the end of `weights`, or
    into the tensor itself."""
    entries = _entries(tensor)
    source = _location(entries, path)
    offset = int(entries.get("offset", "0"))
    length = int(entries.get("length", source.stat().st_size - offset))
    chunks = _read(source, offset, length)
    if weights is None or length < INLINE_BYTES:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = b"".join(chunks)
    else:
        _refer(tensor, Path(weights.name).name, _append(weights, chunks), length)


def _read(path: Path, offset: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while length:
            chunk = file.read(min(length, _CHUNK))
            if not chunk:
                raise NotConvertible(f"'{path.name}' is truncated: {length} bytes are missing")
            length -= len(chunk)
            yield chunk


def _append(weights: BinaryIO, chunks: Iterable[bytes | memoryview]) -> int:
    """Where the bytes were written: at the start of a page."""
    weights.write(bytes(-weights.tell() % _PAGE))
    offset = weights.tell()
    for chunk in chunks:
        weights.write(chunk)
    return offset


def _refer(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    for field in ("raw_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": str(offset), "length": str(length)}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def _settle(tensor: TensorProto) -> None:
    """Give a tensor the one of ONNX's ways to write its values that all others can be put in."""
    external = tensor.data_location == TensorProto.EXTERNAL
    if external or tensor.HasField("raw_data") or tensor.data_type == TensorProto.STRING:
        return
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _location(entries: Mapping[str, str], model: Path) -> Path:
    location = entries.get("location", "")
    return model if location == IN_FILE else model.parent / location
