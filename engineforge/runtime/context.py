"""One execution context: bound to shapes, filled, launched, read. What stays the same from run to
run is done once, so that a run of equal shapes costs what the calls themselves cost."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engineforge.runtime import formats
from engineforge.runtime.allocator import make_allocator
from engineforge.runtime.cuda import Copy, CudaError, DeviceMemory, Graph, PinnedMemory, Stream
from engineforge.runtime.device_tensor import DeviceTensor
from engineforge.runtime.dlpack import Borrowed
from engineforge.runtime.inputs import Given, given, request_of, values_of
from engineforge.runtime.interface import Request, Shape, Tensor, WrongInput
from engineforge.runtime.loaded import Loaded, RunError, known_dims

Outputs = dict[str, Any]
"""By name: NumPy arrays, or DeviceTensors where they were asked for."""

_ALIGNED = 256  # what TensorRT asks of addresses


class ProfileTaken(RunError):
    """On TensorRT 8 only one context may have a profile, and another one has it."""


@dataclass(slots=True)
class _Slot:
    """A tensor bound to a shape. `staging` is its pinned memory as an array, `memory` its own place
    on the GPU, None for tensors that TensorRT wants on the host; `address` is what TensorRT has.
    `copy` is what a run does, `from_host` what it does unless the input lies on the GPU already."""

    tensor: Tensor
    name: str
    dtype: np.dtype[Any]
    shape: Shape
    staging: npt.NDArray[Any]
    address: int
    values: Shape | None = None
    memory: DeviceMemory | None = None
    copy: Copy | None = None
    from_host: Copy | None = None


class Context:
    """An execution context of an engine, with a stream and buffers of its own, for one profile.

    One run at a time; runs of several threads wait for each other.
    """

    def __init__(self, loaded: Loaded, profile: int, *, cuda_graph: bool = False) -> None:
        self.profile = loaded.interface.checked_index(profile)
        self._loaded, self._cuda_graph = loaded, cuda_graph
        self._lock = threading.Lock()
        self._room: dict[str, tuple[PinnedMemory, DeviceMemory | None]] = {}
        self._allocators: dict[str, Any] = {}
        self._inputs: list[_Slot] | None = None
        self._outputs: list[_Slot] = []
        self._graph: Graph | None = None
        with loaded.device:
            self.stream = Stream()
            try:
                context = loaded.new_context(profile, self.stream)
                if context is None:
                    raise ProfileTaken(
                        f"profile {profile} is in use, and this engine does not share it",
                        hint="builder: {preview_features: {profile_sharing_0806: true}}, or "
                        "a profile for each context",
                    )
            except BaseException:
                self.stream.close()
                raise
        self._context: Any = context
        self._handle = self.stream.handle

    def run(self, inputs: Mapping[str, Any], *, device: bool = False) -> Outputs:
        """The outputs for these inputs: NumPy arrays or anything with `__dlpack__`, in CPU or CUDA
        memory; as NumPy arrays, or with `device` as tensors that stay on the GPU.

        WrongInput where an input does not fit this context's profile; RunError and CudaError where
        it fails. CUDA memory is read in place where it is contiguous and aligned to 256 bytes.
        """
        with contextlib.ExitStack() as borrowed:
            return self.run_given(given(inputs, self.stream, borrowed), device=device)

    def run_given(self, arrays: Given, *, device: bool = False, bound: bool = False) -> Outputs:
        """`run`, with inputs that are ready in this context's stream; `bound` where it is known
        that it takes them as it is."""
        with self._lock, self._loaded.device:
            if self._context is None:
                raise RunError("this context is closed")
            try:
                if not bound and not self.takes(arrays):
                    self._loaded.interface.check(arrays)
                    self._bind(request_of(self._loaded.interface, arrays))
                self._fill(arrays)
                self.send()
                if self._cuda_graph and self._graph is None:
                    self._capture()
                for each in self._allocators.values():
                    each.shape = each.error = None
                self.launch()
                if not device:
                    self.fetch()
                self.stream.synchronize()
            except BaseException:
                # What was lent goes back now, and the GPU must not be reading it.
                with contextlib.suppress(CudaError):
                    self.stream.synchronize()
                raise
            return {slot.name: self._result(slot, device) for slot in self._outputs}

    def takes(self, arrays: Given) -> bool:
        """Whether these fit what is bound already."""
        inputs = self._inputs
        if inputs is None or len(inputs) != len(arrays):
            return False
        for slot in inputs:
            array = arrays.get(slot.name)
            if array is None or array.shape != slot.shape or array.dtype != slot.dtype:
                return False
            if slot.values is not None and (
                isinstance(array, Borrowed) or values_of(array) != slot.values
            ):
                return False
        return True

    def prepare(self, request: Request, arrays: Given | None = None) -> None:
        """Bind shapes, and fill the inputs: with zeros where there are no `arrays`. With a CUDA
        graph, capture it. For who then calls `send`, `launch` and `fetch`, and waits."""
        with self._lock, self._loaded.device:
            self._bind(request)
            if arrays is not None:
                self._fill(arrays)
            self.send()
            if self._cuda_graph:
                self._capture()

    def capture(
        self, shapes: Mapping[str, Shape], values: Mapping[str, Shape] | None = None
    ) -> None:
        """Make the CUDA graph for these shapes of inputs now; runs of them replay it."""
        self._cuda_graph = True
        self.prepare(Request(shapes=dict(shapes), values=dict(values or {})))

    def send(self) -> None:
        """Enqueue the copies of all inputs to the GPU."""
        for slot in self._inputs or ():
            if slot.copy is not None:
                slot.copy()

    def launch(self) -> None:
        """Enqueue the engine, or replay its graph."""
        if self._graph is not None:
            self._graph.launch(self.stream)
        elif not self._context.execute_async_v3(self._handle):
            for each in self._allocators.values():
                if each.error is not None:
                    raise each.error
            raise RunError(f"TensorRT did not run the engine{self._loaded.messages.told()}")

    def fetch(self) -> None:
        """Enqueue the copies of all outputs whose shapes are known before they are computed."""
        for slot in self._outputs:
            if slot.copy is not None:
                slot.copy()

    def profile_layers(self, profiler: Any) -> None:  # noqa: ANN401 - an IProfiler
        """Have TensorRT report the time of each layer of each launch from now on."""
        self._context.profiler = profiler

    def told_to(self, inspector: Any) -> None:  # noqa: ANN401 - TensorRT's EngineInspector
        """Have an inspector tell of the engine as it is with the shapes that are bound."""
        inspector.execution_context = self._context

    @property
    def data_dependent(self) -> list[str]:
        """The bound outputs whose shapes are known only when they are computed."""
        return [slot.name for slot in self._outputs if slot.name in self._allocators]

    def _bind(self, request: Request) -> None:
        context, interface = self._context, self._loaded.interface
        for name in request.shapes:
            if name not in interface.inputs:
                raise WrongInput(f"the engine has no input '{name}'")
        if missing := [name for name in interface.inputs if name not in request.shapes]:
            raise WrongInput(f"input '{missing[0]}' has no shape")
        interface.profile_for(request, self.profile)
        self._inputs = None
        if self._graph is not None:
            self._graph.close()
            self._graph = None
        inputs = []
        for name, tensor in interface.inputs.items():
            slot = self._slot(tensor, request.shapes[name], "HostToDevice")
            slot.values = request.values.get(name) if tensor.shape_tensor else None
            slot.staging[...] = 0
            if slot.values is not None and tensor.on_host:
                slot.staging[...] = np.reshape(slot.values, slot.shape)
            if not context.set_input_shape(name, slot.shape):
                told = self._loaded.messages.told()
                raise RunError(f"TensorRT refused shape {list(slot.shape)} of '{name}'{told}")
            self._set_address(slot, slot.address)
            inputs.append(slot)
        try:
            missing = list(context.infer_shapes())
        except RuntimeError as error:
            told = self._loaded.messages.told()
            raise RunError(f"TensorRT cannot infer shapes: {error}{told}") from error
        if missing:
            raise RunError(f"TensorRT lacks shapes or values of {', '.join(missing)}")
        self._outputs = [self._bound_output(each) for each in interface.outputs.values()]
        self._inputs = inputs

    def _bound_output(self, tensor: Tensor) -> _Slot:
        shape = known_dims(self._context.get_tensor_shape(tensor.name))
        if -1 not in shape:
            slot = self._slot(tensor, shape, "DeviceToHost")
            self._set_address(slot, slot.address)
            return slot
        if tensor.name not in self._allocators:
            allocator = make_allocator(self._loaded.trt)
            if not self._context.set_output_allocator(tensor.name, allocator):
                raise RunError(f"TensorRT took no output allocator for '{tensor.name}'")
            self._allocators[tensor.name] = allocator
        dtype = tensor.numpy_type
        return _Slot(tensor, tensor.name, dtype, shape, np.empty(0, dtype), address=0)

    def _slot(self, tensor: Tensor, shape: Shape, kind: str) -> _Slot:
        dtype = tensor.numpy_type
        stored = formats.stored_shape(shape, tensor.layout)
        size = int(np.prod(stored, dtype=np.int64)) * dtype.itemsize
        pinned, memory = self._room.get(tensor.name, (None, None))
        if pinned is None or pinned.size < size:
            pinned = PinnedMemory(size)
            memory = None if tensor.on_host else DeviceMemory(size)
            self._room[tensor.name] = pinned, memory
        staging = pinned.array(stored, dtype)
        if memory is None:
            return _Slot(tensor, tensor.name, dtype, shape, staging, pinned.handle)
        ends = (memory.handle, pinned.handle)
        to, source = ends if kind == "HostToDevice" else ends[::-1]
        copy = Copy(to, source, size, kind, self.stream)
        slot = _Slot(tensor, tensor.name, dtype, shape, staging, memory.handle)
        slot.memory, slot.copy, slot.from_host = memory, copy, copy
        return slot

    def _set_address(self, slot: _Slot, address: int) -> None:
        if not self._context.set_tensor_address(slot.name, address):
            told = self._loaded.messages.told()
            raise RunError(f"TensorRT took no address for '{slot.name}'{told}")
        slot.address = address

    def _fill(self, arrays: Given) -> None:
        for slot in self._inputs or ():
            array = arrays[slot.name]
            if isinstance(array, Borrowed):
                self._use(slot, array)
                continue
            if slot.copy is not slot.from_host:  # after CUDA memory of others
                slot.copy = slot.from_host
                self._use_own(slot)
            if slot.tensor.layout == formats.LINEAR:
                np.copyto(slot.staging, array)
            else:
                formats.pack(array, slot.tensor.layout, slot.staging)

    def _use_own(self, slot: _Slot) -> None:
        if slot.memory is not None and slot.address != slot.memory.handle:
            self._set_address(slot, slot.memory.handle)

    def _use(self, slot: _Slot, found: Borrowed) -> None:
        """Read an input that lies in CUDA memory: in place, or by a copy on the GPU."""
        where = f"input '{slot.name}' is in CUDA memory"
        if slot.memory is None:
            raise WrongInput(f"{where}, and TensorRT reads it on the CPU", hint="give it as NumPy")
        if found.device[1] != self._loaded.device.index:
            index = self._loaded.device.index
            raise WrongInput(f"{where} of GPU {found.device[1]}, and the engine is on GPU {index}")
        if not found.contiguous or slot.tensor.layout != formats.LINEAR:
            raise WrongInput(f"{where}, and not contiguous there", hint="copy it into order first")
        if self._graph is None and not self._cuda_graph and found.pointer % _ALIGNED == 0:
            slot.copy = None
            if slot.address != found.pointer:
                self._set_address(slot, found.pointer)
            return
        self._use_own(slot)
        to, size = slot.memory.handle, slot.staging.nbytes
        slot.copy = Copy(to, found.pointer, size, "DeviceToDevice", self.stream)

    def _capture(self) -> None:
        if self.data_dependent:
            names = ", ".join(f"'{name}'" for name in self.data_dependent)
            raise RunError(
                f"no CUDA graph can be made: the shape of {names} depends on the data",
                hint="run without cuda_graph",
            )
        # The first launch after shapes were set does work of its own, which a graph must not have.
        self.launch()
        self.stream.synchronize()
        try:
            with self.stream.capture() as found:
                self.launch()
        except CudaError as error:
            raise RunError(f"this engine cannot be captured in a CUDA graph: {error}") from error
        self._graph = found[0]

    def _result(self, slot: _Slot, device: bool) -> npt.NDArray[Any] | DeviceTensor:
        allocator = self._allocators.get(slot.name)
        if allocator is not None:
            return self._computed(slot, allocator, device)
        if device and slot.memory is not None:
            return self._given_away(slot, slot.memory)
        if slot.tensor.layout == formats.LINEAR:
            return slot.staging.copy()
        return formats.unpack(slot.staging, slot.shape, slot.tensor.layout)

    def _computed(
        self,
        slot: _Slot,
        allocator: Any,  # noqa: ANN401
        device: bool,
    ) -> npt.NDArray[Any] | DeviceTensor:
        """An output whose shape came with its values."""
        shape, memory = allocator.shape, allocator.memory
        if shape is None or memory is None:
            raise RunError(f"TensorRT told no shape of output '{slot.name}'")
        _only_linear(slot.tensor)
        tensor = DeviceTensor(memory, shape, slot.dtype, self._loaded.device)
        if device:
            allocator.memory = None  # the next run asks for more
            return tensor
        return tensor.numpy()

    def _given_away(self, slot: _Slot, memory: DeviceMemory) -> DeviceTensor:
        _only_linear(slot.tensor)
        size = slot.staging.nbytes
        fresh = DeviceMemory(size)
        pinned, _ = self._room[slot.name]
        if self._graph is not None:  # which writes to this memory ever after
            Copy(fresh.handle, memory.handle, size, "DeviceToDevice", self.stream)()
            self.stream.synchronize()
            return DeviceTensor(fresh, slot.shape, slot.dtype, self._loaded.device)
        self._room[slot.name] = pinned, fresh
        slot.memory = fresh
        slot.copy = Copy(pinned.handle, fresh.handle, size, "DeviceToHost", self.stream)
        self._set_address(slot, fresh.handle)
        return DeviceTensor(memory, slot.shape, slot.dtype, self._loaded.device)

    def close(self) -> None:
        """Give everything back; what was given out as device tensors stays."""
        with self._lock, self._loaded.device:
            self._inputs, self._outputs = None, []
            if self._context is not None:
                with contextlib.suppress(CudaError):
                    self.stream.synchronize()
            if self._graph is not None:
                self._graph.close()
                self._graph = None
            if self._context is not None:
                self._context = None
                # Only now: on TensorRT 8, to ask for a profile that a context has is fatal.
                self._loaded.give_back(self.profile)
            self._allocators.clear()
            for pinned, memory in self._room.values():
                pinned.close()
                if memory is not None:
                    memory.close()
            self._room.clear()
            self.stream.close()

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _only_linear(tensor: Tensor) -> None:
    if tensor.layout != formats.LINEAR:
        raise RunError(f"output '{tensor.name}' has format {tensor.layout}: take it as NumPy")
