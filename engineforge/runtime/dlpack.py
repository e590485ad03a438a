"""DLPack, in and out: tensors of other libraries used where they lie, and ours given to them.

By ctypes after dlpack.h 1.1 (github.com/dmlc/dlpack, `DLManagedTensor`, the unversioned structure
that every library takes) and the array API's protocol
(data-apis.org/array-api/latest/API_specification, `__dlpack__`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engineforge.errors import EngineForgeError
from engineforge.runtime import element_types

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
"""Values of `DLDeviceType`."""

_NAME, _USED = b"dltensor", b"used_dltensor"


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (
        ("dl_tensor", _DLTensor),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DESTRUCTOR = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


def _python(name: str, result: Any, *arguments: Any) -> Any:  # noqa: ANN401
    # A function object of its own: the attributes of ctypes.pythonapi are everybody's.
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_new = _python("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_is_valid = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_pointer = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_rename = _python("PyCapsule_SetName", ctypes.c_int, ctypes.py_object, ctypes.c_char_p)
_keep = _python("Py_IncRef", None, ctypes.py_object)
_drop = _python("Py_DecRef", None, ctypes.py_object)


class Borrowed:
    """A tensor of another library: `pointer`, `shape`, `strides` (in elements), `dtype`, `device`
    (type and index). The other library keeps the memory until `close`, or the end of this."""

    def __init__(self, source: Any, stream: int | None = None) -> None:  # noqa: ANN401
        """`stream` is the CUDA stream that will read, as a number; EngineForgeError where the
        tensor is not in CPU or CUDA memory, or cannot be given away."""
        self._managed: Any = None
        kind, index = (int(part) for part in source.__dlpack_device__())
        if kind not in (CPU, CUDA, CUDA_HOST, CUDA_MANAGED):
            raise EngineForgeError(f"a tensor on a device of DLPack's kind {kind} cannot be read")
        on_gpu = kind in (CUDA, CUDA_MANAGED)
        try:
            capsule = source.__dlpack__(stream=stream) if on_gpu else source.__dlpack__()
        except (BufferError, RuntimeError, TypeError) as error:
            raise EngineForgeError(f"a tensor could not be read through DLPack: {error}") from error
        if not _is_valid(id(capsule), _NAME):
            raise EngineForgeError("what '__dlpack__' gave is no unused DLPack tensor")
        self._managed = _DLManagedTensor.from_address(_pointer(id(capsule), _NAME))
        _rename(capsule, _USED)
        tensor = self._managed.dl_tensor
        self.device = (kind, index)
        self.shape = tuple(tensor.shape[: tensor.ndim])
        self.strides = (
            tuple(tensor.strides[: tensor.ndim]) if tensor.strides else _packed(self.shape)
        )
        self.pointer = (tensor.data or 0) + tensor.byte_offset
        self.dtype = element_types.from_dlpack(tensor.code, tensor.bits, tensor.lanes)

    @property
    def on_gpu(self) -> bool:
        return self.device[0] in (CUDA, CUDA_MANAGED)

    @property
    def contiguous(self) -> bool:
        steps = zip(self.shape, self.strides, _packed(self.shape), strict=True)
        return 0 in self.shape or all(size == 1 or a == b for size, a, b in steps)

    def array(self) -> npt.NDArray[Any]:
        """The tensor, in the memory of the host, as an array that must not outlive this."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        reach = [(size - 1) * step for size, step in zip(self.shape, self.strides, strict=True)]
        below = -sum(min(each, 0) for each in reach) * self.dtype.itemsize
        above = (sum(max(each, 0) for each in reach) + 1) * self.dtype.itemsize
        raw = (ctypes.c_char * (below + above)).from_address(self.pointer - below)
        steps = tuple(step * self.dtype.itemsize for step in self.strides)
        return np.ndarray(self.shape, self.dtype, buffer=raw, offset=below, strides=steps)

    def close(self) -> None:
        managed, self._managed = self._managed, None
        if managed is not None and managed.deleter:
            _DELETER(managed.deleter)(ctypes.addressof(managed))

    def __del__(self) -> None:
        self.close()


class _Lent:
    """All that a tensor that was given away needs, alive until its consumer calls the deleter."""

    def __init__(self, owner: object, shape: Sequence[int]) -> None:
        self.owner = owner
        self.shape = (ctypes.c_int64 * max(len(shape), 1))(*shape)
        self.strides = (ctypes.c_int64 * max(len(shape), 1))(*_packed(shape))
        self.managed = _DLManagedTensor()


def _deleted(address: int) -> None:
    lent = ctypes.cast(_DLManagedTensor.from_address(address).manager_ctx, ctypes.py_object).value
    _drop(lent)


def _destroyed(capsule: int) -> None:
    if _is_valid(capsule, _NAME):  # nobody took the tensor
        _deleted(_pointer(capsule, _NAME))


_delete, _destroy = _DELETER(_deleted), _DESTRUCTOR(_destroyed)


def lend(
    owner: object,
    *,
    pointer: int,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    device: tuple[int, int],
) -> Any:  # noqa: ANN401 - a PyCapsule
    """A DLPack capsule of a packed tensor; `owner` lives until whoever takes it lets go."""
    code, bits = element_types.dlpack_type(dtype)
    lent = _Lent(owner, shape)
    managed = lent.managed
    managed.dl_tensor = _DLTensor(
        data=pointer if 0 not in shape else None,
        device_type=device[0],
        device_id=device[1],
        ndim=len(shape),
        code=code,
        bits=bits,
        lanes=1,
        shape=ctypes.cast(lent.shape, ctypes.POINTER(ctypes.c_int64)),
        strides=ctypes.cast(lent.strides, ctypes.POINTER(ctypes.c_int64)),
    )
    managed.manager_ctx = id(lent)
    managed.deleter = ctypes.cast(_delete, ctypes.c_void_p).value
    capsule = _new(ctypes.addressof(managed), _NAME, ctypes.cast(_destroy, ctypes.c_void_p).value)
    _keep(lent)
    return capsule


def _packed(shape: Sequence[int]) -> tuple[int, ...]:
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= max(size, 1)
    return tuple(reversed(steps))
