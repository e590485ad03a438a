"""A GPU and a TensorRT of the host's own memory: what `Engine` and `Context` do with the API, seen
without either. Copies and launches happen at once; streams only count how often they were waited
for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from engineforge.digest import digest_bytes
from engineforge.runtime.engine import Engine
from engineforge.runtime.engine_file import EngineFile
from engineforge.runtime.interface import Interface, Shape
from engineforge.runtime.messages import Messages


class PretendCuda:
    """`cuda.bindings.runtime`, as far as it is used; what is allocated and not freed is seen."""

    cudaStreamNonBlocking = 1  # noqa: N815 - CUDA's names
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(  # noqa: N815
        cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2, cudaMemcpyDeviceToDevice=3
    )

    def __init__(self) -> None:
        self.alive: dict[int, Any] = {}
        self.recorded: list[Callable[[], None]] | None = None
        self.copies = 0
        self.launches = 0
        self.waits = 0
        self._handles = 0

    def _memory(self, size: int, *_: object) -> tuple[int, int]:
        raw = ctypes.create_string_buffer(size + 256)
        address = ctypes.addressof(raw) + 255 & ~255
        self.alive[address] = raw
        return 0, address

    def _free(self, handle: int) -> tuple[int]:
        del self.alive[handle]
        return (0,)

    def _handle(self, *_: object) -> tuple[int, int]:
        self._handles += 1
        self.alive[self._handles] = "handle"
        return 0, self._handles

    cudaMalloc = cudaHostAlloc = _memory  # noqa: N815
    cudaFree = cudaFreeHost = cudaStreamDestroy = cudaEventDestroy = _free  # noqa: N815
    cudaGraphExecDestroy = cudaGraphDestroy = _free  # noqa: N815
    cudaStreamCreateWithFlags = cudaEventCreate = _handle  # noqa: N815

    def cudaMemcpyAsync(  # noqa: N802
        self, to: int, source: int, size: int, kind: int, stream: int
    ) -> tuple[int]:
        ctypes.memmove(to, source, size)
        self.copies += 1
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:  # noqa: N802
        self.waits += 1
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:  # noqa: N802
        self.recorded = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:  # noqa: N802
        _, handle = self._handle()
        self.alive[handle], self.recorded = self.recorded, None
        return 0, handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:  # noqa: N802
        _, handle = self._handle()
        self.alive[handle] = self.alive[graph]
        return 0, handle

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:  # noqa: N802
        for call in self.alive[graph]:
            call()
        return (0,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:  # noqa: N802
        return (0,)

    def cudaEventSynchronize(self, event: int) -> tuple[int]:  # noqa: N802
        return (0,)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[int]:  # noqa: N802
        return (0,)

    def cudaEventElapsedTime(self, begin: int, end: int) -> tuple[int, float]:  # noqa: N802
        return 0, 0.25


class PretendAllocator:
    """The base that TensorRT's IOutputAllocator has."""


class PretendDevice:
    index, name, uuid, compute_capability = 0, "Pretend", "GPU-0", "9.0"

    def __enter__(self) -> PretendDevice:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class PretendContext:
    """Computes `x + relu(x)` of the float input 'x', or where it is not zero."""

    def __init__(self, cuda: PretendCuda, interface: Interface) -> None:
        self._cuda, self._interface = cuda, interface
        self.shapes: dict[str, Shape] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.calls: list[str] = []

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        self.calls.append("set_input_shape")
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.calls.append("set_tensor_address")
        assert address % 256 == 0
        self.addresses[name] = address
        return True

    def set_output_allocator(self, name: str, allocator: Any) -> bool:  # noqa: ANN401
        self.allocators[name] = allocator
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> Shape:
        return self.shapes["x"] if name == "y" else (len(self.shapes["x"]), -1)

    def execute_async_v3(self, stream: int) -> bool:
        if self._cuda.recorded is not None:
            self._cuda.recorded.append(self._compute)
        else:
            self._compute()
        return True

    def _compute(self) -> None:
        self._cuda.launches += 1
        x = _array(self.addresses["x"], self.shapes["x"], np.float32)
        if "y" in self._interface.outputs:
            _array(self.addresses["y"], x.shape, np.float32)[...] = x + np.maximum(x, 0)
        for name, allocator in self.allocators.items():
            where = np.stack(np.nonzero(x)).astype(np.int32)
            address = allocator.reallocate_output(name, 0, where.nbytes, 256)
            _array(address, where.shape, np.int32)[...] = where
            allocator.notify_shape(name, where.shape)


def _array(address: int, shape: Shape, dtype: type) -> npt.NDArray[Any]:
    size = max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1)
    raw = (ctypes.c_char * size).from_address(address)
    return np.ndarray(shape, dtype, buffer=memoryview(raw))


class PretendLoaded:
    """As `Loaded`. With `shared` False, one context takes a profile alone, as on TensorRT 8."""

    def __init__(self, cuda: PretendCuda, interface: Interface, *, shared: bool = True) -> None:
        self.interface, self.device = interface, PretendDevice()
        self.trt = SimpleNamespace(IOutputAllocator=PretendAllocator, IProfiler=object)
        self.device_memory = 0
        self.messages = Messages(None)
        self.contexts: list[PretendContext] = []
        self.closed = False
        self._cuda, self._shared = cuda, shared
        self._taken: set[int] = set()

    def new_context(self, profile: int, stream: object) -> PretendContext | None:
        if not self._shared and profile in self._taken:
            return None
        self._taken.add(profile)
        self.contexts.append(PretendContext(self._cuda, self.interface))
        return self.contexts[-1]

    def give_back(self, profile: int) -> None:
        self._taken.discard(profile)

    def close(self) -> None:
        self.closed = True


def pretend_engine(loaded: Any, contexts: int = 4) -> Engine:  # noqa: ANN401
    """An Engine of what is pretended to be loaded."""
    file = EngineFile(
        path=Path("pretend.engine"),
        data=np.zeros(1, np.uint8),
        sha256=digest_bytes(b""),
        backend="tensorrt",
        recipe={},
    )
    return Engine(loaded, file, contexts)
