"""An ONNX file without its weights: the protobuf with every large tensor's bytes cut out and
referred to by offset.

So a model of any size is inspected and rewritten in a few milliseconds and megabytes. Knows just
the field numbers on the way to tensor data (onnx/onnx.proto3 of ONNX 1.x, and protobuf's wire
format); all else is copied as it stands.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Tensors below this stay in the graph: shape inference reads the values of shapes and axes.
INLINE_BYTES = 1024
# The `location` of a tensor whose bytes stand in the ONNX file itself.
IN_FILE = "\0"

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 100  # protobuf's own limit
_FLOAT = 1

# Message kind -> field number -> kind of the message inside. Fields that are not named hold no
# tensor.
_INSIDE: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}
_DATA_TYPE, _FLOAT_DATA, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 2, 4, 9, 13, 14


class Malformed(ValueError):
    """The bytes are no ONNX model; the message says where."""


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    wire_type: int
    start: int  # of the tag
    body: int  # of the value, after tag and length
    end: int


def read_skeleton(path: Path) -> bytes:
    """The model's protobuf with each tensor of `INLINE_BYTES` or more as external data.

    Its `location` is `IN_FILE`, with `offset` and `length` in the file. Tensors that are external
    already stay as they are. Malformed where the file is empty, truncated or no protobuf; OSError
    as `open` raises it.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise Malformed("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return b"".join(_copy(data, "Model", 0, len(data), 0))


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[_Field]:
    at = start
    while at < end:
        tag, body = _varint(data, at, end)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _BYTES:
            length, body = _varint(data, body, end)
            stop = body + length
        elif wire_type == _VARINT:
            _, stop = _varint(data, body, end)
        elif wire_type in (_FIXED64, _FIXED32):
            stop = body + (8 if wire_type == _FIXED64 else 4)
        else:
            raise Malformed(f"there is no protobuf field of wire type {wire_type}, at byte {at}")
        if number == 0:
            raise Malformed(f"there is no protobuf field of number 0, at byte {at}")
        if stop > end:
            raise Malformed(
                f"truncated: the field at byte {at} ends at byte {stop}, "
                f"{'the file' if end == len(data) else 'what holds it'} at byte {end}"
            )
        yield _Field(number, wire_type, at, body, stop)
        at = stop


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:  # noqa: PLR2004 - ten groups of seven bits
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last group has no continuation bit
            return value, at
        shift += 7
    raise Malformed(f"truncated: a number at byte {at} has no end")


def _copy(data: mmap.mmap, kind: str, start: int, end: int, depth: int) -> list[bytes]:
    """The message in pieces, with what is large inside it rewritten."""
    if depth > _MAX_DEPTH:
        raise Malformed(f"graphs are nested more than {_MAX_DEPTH} deep")
    pieces = []
    inside = _INSIDE[kind]
    for field in _fields(data, start, end):
        inner = inside.get(field.number) if field.wire_type == _BYTES else None
        if inner is None or field.end - field.body < INLINE_BYTES:
            pieces.append(data[field.start : field.end])
            continue
        if inner == "Tensor":
            body = _copy_tensor(data, field.body, field.end)
        else:
            body = _copy(data, inner, field.body, field.end, depth + 1)
        size = sum(map(len, body))
        pieces += [_encode(field.number << 3 | _BYTES), _encode(size), *body]
    return pieces


def _copy_tensor(data: mmap.mmap, start: int, end: int) -> list[bytes]:
    fields = list(_fields(data, start, end))
    types = [_varint(data, f.body, end)[0] for f in fields if f.number == _DATA_TYPE]
    # Packed `float_data` is, byte for byte, what `raw_data` would be.
    holders = (_RAW_DATA, _FLOAT_DATA) if types == [_FLOAT] else (_RAW_DATA,)
    large = [f for f in fields if f.number in holders and f.wire_type == _BYTES]
    if len(large) != 1 or large[0].end - large[0].body < INLINE_BYTES:
        return [data[start:end]]
    weights = large[0]
    entries = (
        ("location", IN_FILE),
        ("offset", str(weights.body)),
        ("length", str(weights.end - weights.body)),
    )
    return [
        *(data[f.start : f.end] for f in fields if f is not weights),
        *(_entry(key, value) for key, value in entries),
        _encode(_DATA_LOCATION << 3 | _VARINT),
        _encode(1),  # TensorProto.EXTERNAL
    ]


def _entry(key: str, value: str) -> bytes:
    """A StringStringEntryProto in the tensor's `external_data`."""
    body = b"".join(
        _encode(number << 3 | _BYTES) + _encode(len(text)) + text.encode()
        for number, text in ((1, key), (2, value))
    )
    return _encode(_EXTERNAL_DATA << 3 | _BYTES) + _encode(len(body)) + body


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a group
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
