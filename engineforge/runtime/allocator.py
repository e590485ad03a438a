"""Memory for outputs whose shapes are known only when they are computed."""

from __future__ import annotations

from typing import Any

from engineforge.runtime.cuda import CudaError, DeviceMemory
from engineforge.runtime.interface import Shape


def make_allocator(trt: Any) -> Any:  # noqa: ANN401 - a class of an untyped module
    """An IOutputAllocator of this TensorRT, for one output."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        """Memory that grows to what an output turns out to need; `shape` is what it then has."""

        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.memory: DeviceMemory | None = None
            self.shape: Shape | None = None
            self.error: CudaError | None = None

        def reallocate_output(
            self, tensor_name: str, memory: object, size: int, alignment: int
        ) -> int:
            try:
                if self.memory is None or self.memory.size < size:
                    self.memory = None
                    self.memory = DeviceMemory(size)
            except CudaError as error:  # TensorRT would drop it
                self.error = error
                return 0
            return self.memory.handle

        def notify_shape(self, tensor_name: str, shape: Any) -> None:  # noqa: ANN401
            self.shape = tuple(shape)

    return Allocator()
