"""CUDA, checked: streams, events, memory and graphs that free themselves, and an error for every
call that does not succeed. The one place of this room that names `cuda`."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from engineforge.errors import EngineForgeError, HostUnfit

_INSTALL = "python -m pip install 'cuda-python>=12.9,<14'"
_INSUFFICIENT_DRIVER, _NO_DEVICE = 35, 100


class CudaError(EngineForgeError):
    """A CUDA call failed: the message has the call, and CUDA's name and text of the error."""


def _bindings() -> Any:  # noqa: ANN401 - `cuda.bindings.runtime` has no types
    try:
        from cuda.bindings import runtime as cudart
    except ImportError as error:
        raise HostUnfit(f"cuda-python is not installed here: {error}", hint=_INSTALL) from error
    return cudart


def checked(call: str, *arguments: object) -> Any:  # noqa: ANN401 - what the call gives
    """The result of the runtime call of that name: nothing, one value or a tuple; CudaError."""
    cudart = _bindings()
    code, *values = getattr(cudart, call)(*arguments)
    if code:
        raise failed(call, code)
    return values[0] if len(values) == 1 else tuple(values)


def failed(call: str, code: Any) -> CudaError:  # noqa: ANN401
    """The error that a result code stands for."""
    cudart = _bindings()
    name = cudart.cudaGetErrorName(code)[1].decode()
    text = cudart.cudaGetErrorString(code)[1].decode()
    return CudaError(f"{call}: {name}: {text}")


def device_count() -> int:
    """How many GPUs this process sees; HostUnfit where there is no driver or no GPU.

    Must come before anything of TensorRT is made: without a driver, 8.6 crashes the process.
    """
    code, count = _bindings().cudaGetDeviceCount()
    if code:
        name = str(failed("cudaGetDeviceCount", code))
        if int(code) == _NO_DEVICE:
            hint = "look at CUDA_VISIBLE_DEVICES and nvidia-smi"
            raise HostUnfit(f"this host has no NVIDIA GPU to run on ({name})", hint=hint)
        hint = "an engine runs on the kind of GPU that it was built for"
        if int(code) == _INSUFFICIENT_DRIVER:
            hint += "; with a GPU here, install its driver, or an older cuda-python"
        raise HostUnfit(f"this host has no NVIDIA driver to run on ({name})", hint=hint)
    return int(count)


class Device:
    """One GPU, by its index among the visible ones or its UUID (`GPU-…`, `MIG-…`).

    A context manager that makes it this thread's device, and leaves it so: putting the former
    one back would cost every run a call.
    """

    def __init__(self, which: int | str = 0) -> None:
        count = device_count()
        self._alone = count == 1
        uuids = [_uuid(index) for index in range(count)]
        if isinstance(which, str) and not which.isdecimal():
            wanted = which.lower().removeprefix("gpu-").removeprefix("mig-")
            if wanted not in uuids:
                raise HostUnfit(f"no GPU that this process sees has the UUID '{which}'")
            self.index = uuids.index(wanted)
        elif not 0 <= int(which) < count:
            raise HostUnfit(f"there is no GPU {which}: this process sees {count}")
        else:
            self.index = int(which)
        properties = checked("cudaGetDeviceProperties", self.index)
        self.name = properties.name.split(b"\0")[0].decode()
        kind = "MIG" if " MIG " in self.name else "GPU"
        self.uuid = f"{kind}-{uuids[self.index]}"
        self.compute_capability = f"{properties.major}.{properties.minor}"
        checked("cudaSetDevice", self.index)
        checked("cudaFree", 0)  # makes the context now, so that its time is in no measurement
        self._set = _bindings().cudaSetDevice

    def __enter__(self) -> Device:
        if not self._alone:  # with another GPU here, this thread may have been on that one
            (code,) = self._set(self.index)
            if code:
                raise failed("cudaSetDevice", code)
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _uuid(index: int) -> str:
    """As NVML writes it, without the prefix. From the driver: for a MIG instance, its own."""
    from cuda.bindings import driver

    # 12 has both, and the older one gives the UUID of a MIG instance's parent.
    query = getattr(driver, "cuDeviceGetUuid_v2", driver.cuDeviceGetUuid)
    driver.cuInit(0)
    code, device = driver.cuDeviceGet(index)
    if not code:
        code, uuid = query(device)
    if code:
        raise CudaError(f"the UUID of GPU {index}: {code.name}")
    digits = bytes(uuid.bytes).hex()
    return "-".join(digits[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))


class _Owned:
    """Something of CUDA's that is given back once: by `close`, the end of `with`, or collection."""

    _close = ""

    def __init__(self, handle: Any) -> None:  # noqa: ANN401
        self._handle: Any = handle

    @property
    def handle(self) -> int:
        """As TensorRT and others take it: a pointer as a number."""
        return int(self._handle)

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            checked(self._close, handle)

    def __enter__(self) -> Any:  # noqa: ANN401
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        # At the end of the interpreter CUDA may be gone before its objects; and a constructor
        # that failed left no handle.
        with contextlib.suppress(Exception):
            self.close()


class Stream(_Owned):
    """A stream that does not wait for the default one."""

    _close = "cudaStreamDestroy"

    def __init__(self) -> None:
        cudart = _bindings()
        self._wait = cudart.cudaStreamSynchronize
        super().__init__(checked("cudaStreamCreateWithFlags", cudart.cudaStreamNonBlocking))

    def synchronize(self) -> None:
        (code,) = self._wait(self._handle)
        if code:
            raise failed("cudaStreamSynchronize", code)

    def wait(self, event: Event) -> None:
        checked("cudaStreamWaitEvent", self._handle, event._handle, 0)

    @contextlib.contextmanager
    def capture(self) -> Iterator[list[Graph]]:
        """What is enqueued inside becomes the one graph of the list that is given."""
        found: list[Graph] = []
        # Other threads may allocate meanwhile: only what this one does must be capturable.
        mode = _bindings().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        checked("cudaStreamBeginCapture", self._handle, mode)
        try:
            yield found
        except BaseException:
            with contextlib.suppress(CudaError):
                checked("cudaGraphDestroy", checked("cudaStreamEndCapture", self._handle))
            raise
        graph = checked("cudaStreamEndCapture", self._handle)
        try:
            found.append(Graph(checked("cudaGraphInstantiate", graph, 0)))
        finally:
            checked("cudaGraphDestroy", graph)


class Graph(_Owned):
    """A graph that is ready to run."""

    _close = "cudaGraphExecDestroy"

    def launch(self, stream: Stream) -> None:
        checked("cudaGraphLaunch", self._handle, stream._handle)


class Event(_Owned):
    """A point in a stream, with its time."""

    _close = "cudaEventDestroy"

    def __init__(self) -> None:
        super().__init__(checked("cudaEventCreate"))

    def record(self, stream: Stream) -> None:
        checked("cudaEventRecord", self._handle, stream._handle)

    def synchronize(self) -> None:
        checked("cudaEventSynchronize", self._handle)

    def since(self, earlier: Event) -> float:
        """Milliseconds between two events that have happened; CUDA resolves about 0.5 µs."""
        return float(checked("cudaEventElapsedTime", earlier._handle, self._handle))


class DeviceMemory(_Owned):
    """`size` bytes on this thread's GPU, at `handle`, which is a multiple of 256. Freeing waits for
    what still uses it, in any stream: that is why it is no stream-ordered memory."""

    _close = "cudaFree"

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(checked("cudaMalloc", max(size, 1)))


class PinnedMemory(_Owned):
    """`size` bytes of the host that the GPU copies from and to by itself."""

    _close = "cudaFreeHost"

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(checked("cudaHostAlloc", max(size, 1), 0))

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """The beginning of this memory as an array, which must not outlive it."""
        raw = (ctypes.c_char * max(self.size, 1)).from_address(self.handle)
        return np.ndarray(shape, dtype, buffer=memoryview(raw))


class Copy:
    """One asynchronous copy of `size` bytes, prepared: called again and again it costs little more
    than CUDA's own call. `kind` is `HostToDevice`, `DeviceToHost` or `DeviceToDevice`."""

    __slots__ = ("_arguments", "_call")

    def __init__(self, to: int, source: int, size: int, kind: str, stream: Stream) -> None:
        cudart = _bindings()
        kinds = cudart.cudaMemcpyKind
        self._call = cudart.cudaMemcpyAsync
        self._arguments = (to, source, size, getattr(kinds, f"cudaMemcpy{kind}"), stream._handle)

    def __call__(self) -> None:
        if self._arguments[2] == 0:
            return
        (code,) = self._call(*self._arguments)
        if code:
            raise failed("cudaMemcpyAsync", code)
