"""An array read along axis 0, a few rows at a time, from memory or from a file.

Files are read from front to back, so a member of a zip file needs no more memory than its largest
sample; a damaged one is noticed by its size, or when its check sum is reached.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.lib import format as npy

from engineforge.errors import EngineForgeError
from engineforge.samples import BadSamples
from engineforge.samples.sample import Array, native

_LFS_POINTER = b"version https://git-lfs"


class Rows(Protocol):
    """An array, read along axis 0."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def skip(self, count: int) -> None: ...
    def take(self, count: int, place: str) -> Array:
        """The next rows, in memory of their own."""
        ...


class HeldRows:
    """Rows of an array in memory."""

    def __init__(self, array: Array, place: str) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        _check_array(self.shape, self.dtype, place)
        self._array = array
        self._at = 0

    def skip(self, count: int) -> None:
        self._at += count

    def take(self, count: int, place: str) -> Array:
        self._at += count
        return native(np.array(self._array[self._at - count : self._at], order="C"))


class StoredRows:
    """Rows of an array in a file, or in a member of a zip file, of `size` bytes."""

    def __init__(self, file: IO[bytes], size: int, path: Path, place: str) -> None:
        self._file, self._path = file, path
        with reading(path, place):
            self.shape, column_major, self.dtype = _header(file)
            found = size - file.tell()
        _check_array(self.shape, self.dtype, place)
        if column_major:
            message = f"{place}: samples lie across the file (Fortran order), not one after another"
            raise BadSamples(message, hint="write numpy.ascontiguousarray(array)")
        expected = math.prod(self.shape) * self.dtype.itemsize
        if found != expected:
            message = (
                f"{place}: {list(self.shape)} of {self.dtype.name} takes {expected} bytes, found "
                f"{found}"
            )
            raise BadSamples(message, hint="the file is damaged: write it again")
        self._row = expected // self.shape[0] if self.shape else expected
        self._skipped = 0

    def skip(self, count: int) -> None:
        self._skipped += count

    def take(self, count: int, place: str) -> Array:
        with reading(self._path, place):
            self._file.seek(self._skipped * self._row, 1)
            self._skipped = 0
            data = bytearray(self._file.read(count * self._row))
            if len(data) != count * self._row:
                raise EOFError("it ends too early")
        return native(np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:]))


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    if version == (2, 0):
        return npy.read_array_header_2_0(file)
    raise ValueError(f"its format is {'.'.join(map(str, version))}")


def _check_array(shape: tuple[int, ...], dtype: np.dtype[Any], place: str) -> None:
    if dtype.hasobject:
        hint = "give all samples one shape and stack them; Python objects are never unpickled"
        raise BadSamples(f"{place}: expected numbers, found Python objects", hint=hint)
    # ml_dtypes' bfloat16 and float8 are of kind V, as are structures: those have fields.
    if dtype.kind not in "biufcV" or dtype.fields or not dtype.itemsize:
        raise BadSamples(f"{place}: expected numbers, found {dtype.name}")
    if not math.prod(shape):
        raise BadSamples(f"{place}: there are no values in {list(shape)}")


@contextmanager
def reading(path: Path, place: str) -> Iterator[None]:
    """Whatever a library says of a damaged file, as BadSamples."""
    try:
        yield
    except (EngineForgeError, MemoryError):
        raise
    except Exception as error:  # zlib, zipfile, NumPy and Pillow have a dozen of their own
        if isinstance(error, OSError) and error.strerror:
            raise BadSamples(f"{place} cannot be read: {error.strerror}") from error
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                message = f"{place} is a Git LFS pointer, not the data"
                raise BadSamples(message, hint="git lfs pull") from error
        said = " ".join(str(error).split()) or type(error).__name__
        hint = "the file is damaged: write it again"
        raise BadSamples(f"{place} cannot be read: {said}", hint=hint) from error
