"""What the elements of a tensor are: TensorRT's name, NumPy's type, DLPack's code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engineforge.errors import EngineForgeError

# TensorRT's DataType -> (NumPy's name, DLPack's code, bits). Codes: dlpack.h 1.1, DLDataTypeCode.
_INT, _UINT, _FLOAT, _BFLOAT, _BOOL, _E4M3FN, _E8M0FNU = 0, 1, 2, 4, 6, 10, 14
_TYPES: Mapping[str, tuple[str, int, int]] = {
    "FLOAT": ("float32", _FLOAT, 32),
    "HALF": ("float16", _FLOAT, 16),
    "BF16": ("bfloat16", _BFLOAT, 16),
    "FP8": ("float8_e4m3fn", _E4M3FN, 8),
    "E8M0": ("float8_e8m0fnu", _E8M0FNU, 8),
    "INT64": ("int64", _INT, 64),
    "INT32": ("int32", _INT, 32),
    "INT8": ("int8", _INT, 8),
    "UINT8": ("uint8", _UINT, 8),
    "BOOL": ("bool", _BOOL, 8),
}
_EXTENSIONS = frozenset({"bfloat16", "float8_e4m3fn", "float8_e8m0fnu"})
_FROM_DLPACK = {(code, bits): name for name, code, bits in _TYPES.values()} | {
    (_FLOAT, 64): "float64",
    (_INT, 16): "int16",
    (_UINT, 16): "uint16",
    (_UINT, 32): "uint32",
    (_UINT, 64): "uint64",
}


def numpy_type(name: str) -> np.dtype[Any]:
    """The NumPy type of a TensorRT DataType, by its name; EngineForgeError where there is none."""
    if name not in _TYPES:  # INT4 and FP4: two elements in a byte
        raise EngineForgeError(
            f"elements of TensorRT's type '{name}' have no NumPy type",
            hint="keep inputs and outputs in a wider type: precision option 'keep_io_types'",
        )
    return _dtype(_TYPES[name][0])


def is_native(dtype: np.dtype[Any]) -> bool:
    """Whether NumPy has this type by itself, so that .npy files can hold it."""
    return dtype.name not in _EXTENSIONS


def dlpack_type(dtype: np.dtype[Any]) -> tuple[int, int]:
    """DLPack's code and bits of a NumPy type; BufferError where it has none, as DLPack asks."""
    for key, name in _FROM_DLPACK.items():
        if name == dtype.name:
            return key
    raise BufferError(f"DLPack has no type for {dtype.name}")


def from_dlpack(code: int, bits: int, lanes: int) -> np.dtype[Any]:
    """The NumPy type of DLPack's code, bits and lanes; EngineForgeError where there is none."""
    if lanes != 1 or (code, bits) not in _FROM_DLPACK:
        raise EngineForgeError(
            f"DLPack's type (code {code}, {bits} bits, {lanes} lanes) is not known"
        )
    return _dtype(_FROM_DLPACK[code, bits])


def _dtype(name: str) -> np.dtype[Any]:
    if name not in _EXTENSIONS:
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise EngineForgeError(
            f"NumPy has no {name} of its own", hint="python -m pip install ml_dtypes"
        ) from error
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found
