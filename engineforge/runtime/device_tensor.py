"""An output that stays on the GPU, for whoever speaks DLPack or the CUDA array interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engineforge.runtime import dlpack, element_types
from engineforge.runtime.cuda import Copy, Device, DeviceMemory, PinnedMemory, Stream


class DeviceTensor:
    """A packed tensor in memory of its own on a GPU, computed when it is given out. The memory is
    freed when this and all that took it through DLPack are gone."""

    def __init__(
        self, memory: DeviceMemory, shape: tuple[int, ...], dtype: np.dtype[Any], device: Device
    ) -> None:
        self._memory, self._device = memory, device
        self.shape, self.dtype = shape, dtype

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self._device.index

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:  # noqa: ANN401 - a PyCapsule
        # Whatever stream will read: the values were there before this was given out.
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("this tensor can only be taken where it is; copy it afterwards")
        return dlpack.lend(
            self._memory,
            pointer=self._memory.handle,
            shape=self.shape,
            dtype=self.dtype,
            device=self.__dlpack_device__(),
        )

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3, numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html."""
        if not element_types.is_native(self.dtype):
            raise AttributeError(f"the CUDA array interface has no type for {self.dtype.name}")
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._memory.handle if self.nbytes else 0, False),
            "strides": None,
            "version": 3,
        }

    def numpy(self) -> npt.NDArray[Any]:
        """A copy in the memory of the host."""
        with self._device, Stream() as stream, PinnedMemory(self.nbytes) as staging:
            Copy(staging.handle, self._memory.handle, self.nbytes, "DeviceToHost", stream)()
            stream.synchronize()
            return np.array(staging.array(self.shape, self.dtype))
