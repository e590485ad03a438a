"""Digests: canonical JSON, and sha256 of bytes, values and files. Owns no cache and no key."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

_HEX = re.compile(r"sha256:[0-9a-f]{64}")
_CHUNK = 1 << 20
_MAX_EXACT_INTEGER_IN_A_FLOAT = 1 << 53


class Digest(str):
    """A sha256 as OCI writes it: `sha256:` and 64 hexadecimal digits.

    ValueError for anything else; never truncated, except by `short` for people to read.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        if not _HEX.fullmatch(text):
            raise ValueError(f"expected 'sha256:' and 64 hexadecimal digits, found {text!r}")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, raw: bytes) -> Digest:
        """The one with these 32 bytes."""
        return str.__new__(cls, f"sha256:{raw.hex()}")

    @property
    def hex(self) -> str:
        return self[7:]

    @property
    def short(self) -> str:
        """The first 12 digits, for display only."""
        return self[7:19]


def _plain(value: object, where: str) -> object:
    match value:
        case None | bool() | int():
            return value
        case str():
            return str.__str__(value)
        case float():
            return _plain_float(value, where)
        case Mapping():
            for key in value:
                if not isinstance(key, str):
                    raise TypeError(f"{where}: a key must be a string, found {key!r}")
            return {str.__str__(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name), f"{where}.{field.name}")
            for field in dataclasses.fields(value)
        }
    raise TypeError(f"{where}: {type(value).__name__} has no canonical JSON form")


def _plain_float(value: float, where: str) -> int | float:
    # 0.1 is not the number that its digits say: such a value is written as a string, by its author.
    if not math.isfinite(value) or Decimal(repr(value)) != Decimal(value):
        raise ValueError(f"{where}: {value!r} is not exact in binary; write it as a string")
    if value.is_integer() and abs(value) <= _MAX_EXACT_INTEGER_IN_A_FLOAT:
        return int(value)
    return value


def canonical_json(value: object) -> bytes:
    """The one way to write a value: UTF-8, keys sorted by code point, no white space.

    Takes None, booleans, integers, exactly representable floats, strings, lists, tuples, mappings
    with string keys and dataclasses. TypeError or ValueError for what could be written in more
    than one way: sets, paths, bytes, NaN, 0.1, lone surrogates.
    """
    text = json.dumps(
        _plain(value, "value"),
        ensure_ascii=False,
        allow_nan=False,
        sort_keys=True,
        separators=(",", ":"),
    )
    return text.encode()


def document(value: object) -> dict[str, object]:
    """A dataclass or mapping as the plain JSON object that `canonical_json` would write."""
    plain = _plain(value, "value")
    if not isinstance(plain, dict):
        raise TypeError(f"expected a dataclass or a mapping, found {type(value).__name__}")
    return plain


def digest_bytes(data: bytes | bytearray | memoryview) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def digest_value(value: object) -> Digest:
    """sha256 of the value's canonical JSON."""
    return digest_bytes(canonical_json(value))


def digest_stream(stream: io.FileIO, length: int | None = None) -> Digest:
    """sha256 of the next `length` bytes (or all); EOFError where the stream is shorter."""
    sha, buffer = hashlib.sha256(), bytearray(_CHUNK)
    view, left = memoryview(buffer), length
    while left is None or left > 0:
        read = stream.readinto(view if left is None else view[: min(left, _CHUNK)])
        if not read:
            if left:
                raise EOFError(f"{left} bytes are missing at the end")
            break
        sha.update(view[:read])
        if left is not None:
            left -= read
    return Digest("sha256:" + sha.hexdigest())


def digest_file(path: Path) -> Digest:
    """sha256 of a file's bytes; OSError as `open` and `read` raise it."""
    with path.open("rb", buffering=0) as file:
        return digest_stream(file)
