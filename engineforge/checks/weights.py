"""Weights beside many graphs: one file in a scratch folder that holds each distinct tensor once, so
that graphs made of one another cost no copy of their weights, and ONNX Runtime can map it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, numpy_helper

from engineforge.stages.sources.onnx import Reference, read_model, references
from engineforge.stages.sources.skeleton import IN_FILE, INLINE_BYTES

_FILE = "weights"
_PAGE = 4096  # ONNX Runtime maps a tensor that starts at a page, and reads any other into memory
_CHUNK = 1 << 20


class Weights:
    """The file, in `folder`. Graphs that refer to it must be written to the same folder, since
    ONNX Runtime follows no link out of a model's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[bytes, int] = {}
        self._end = 0
        (folder / _FILE).touch()

    def read(self, path: Path) -> ModelProto:
        """The model of a file, its large initializers held here; never all of them in memory."""
        model = read_model(path)
        held = references(model, path)
        initializers = {id(tensor) for tensor in model.graph.initializer}
        for reference in held:
            tensor = reference.tensor
            if id(tensor) in initializers and reference.length >= INLINE_BYTES:
                self._refer(tensor, *self._copy(reference, path))
            else:  # ONNX Runtime takes external data in initializers of the main graph alone
                data = b"".join(_bytes(reference, path))
                tensor.ClearField("external_data")
                tensor.ClearField("data_location")
                tensor.raw_data = data
        return model

    def hold(self, tensor: TensorProto) -> TensorProto:
        """The same tensor, its bytes here if there are many; what is held already stays."""
        if tensor.data_location == TensorProto.EXTERNAL or not tensor.HasField("raw_data"):
            return tensor
        data = tensor.raw_data
        if len(data) < INLINE_BYTES:
            return tensor
        made = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        with self._writing() as out:
            out.write(data)
        self._refer(made, self._settled(hashlib.sha256(data).digest(), len(data)), len(data))
        return made

    def array(self, tensor: TensorProto) -> npt.NDArray[np.generic]:
        """The values of a tensor, held here or not."""
        return numpy_helper.to_array(tensor, str(self._folder))

    def write(self, model: ModelProto, name: str) -> Path:
        """A graph that refers to the weights, as a file beside them."""
        path = self._folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    def _copy(self, reference: Reference, path: Path) -> tuple[int, int]:
        digest = hashlib.sha256()
        with self._writing() as out:
            for chunk in _bytes(reference, path):
                digest.update(chunk)
                out.write(chunk)
        return self._settled(digest.digest(), reference.length), reference.length

    def _settled(self, digest: bytes, length: int) -> int:
        """Where the bytes just written at the end are: here, unless they were there before."""
        if digest in self._offsets:
            with self._writing() as out:
                out.truncate()
            return self._offsets[digest]
        offset = self._offsets[digest] = self._end
        self._end += -(-length // _PAGE) * _PAGE
        return offset

    @contextmanager
    def _writing(self) -> Iterator[BinaryIO]:
        with (self._folder / _FILE).open("r+b") as out:
            out.seek(self._end)
            yield out

    def _refer(self, tensor: TensorProto, offset: int, length: int) -> None:
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": _FILE, "offset": str(offset), "length": str(length)}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)


def same(left: TensorProto, right: TensorProto) -> bool:
    """Whether two tensors of graphs over the same weights have equal types, shapes and values."""
    if left.data_type != right.data_type or list(left.dims) != list(right.dims):
        return False
    external = [each.data_location == TensorProto.EXTERNAL for each in (left, right)]
    if all(external):
        return list(left.external_data) == list(right.external_data)
    if any(external):  # the same bytes would have been held both times
        return False
    return numpy_helper.to_array(left).tobytes() == numpy_helper.to_array(right).tobytes()


def _bytes(reference: Reference, path: Path) -> Iterator[bytes]:
    here = reference.location == IN_FILE
    with (path if here else path.parent / reference.location).open("rb") as file:
        file.seek(reference.offset)
        left = reference.length
        while left and (chunk := file.read(min(left, _CHUNK))):
            yield chunk
            left -= len(chunk)
