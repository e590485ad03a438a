"""An engine deserialized by TensorRT: the objects of its API, and what differs between versions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from engineforge.backends.library import FLAVOURS, Api, api, load, loaded_version
from engineforge.errors import EngineForgeError, HostUnfit
from engineforge.runtime.cuda import Device, Stream
from engineforge.runtime.engine_file import EngineFile, EngineRefused
from engineforge.runtime.interface import Interface, Shape, Tensor
from engineforge.runtime.messages import Messages, speaker
from engineforge.spec.model import InputRange, ShapeRange

_SHARING = "profile_sharing_0806"


class RunError(EngineForgeError):
    """TensorRT did not do what was asked; the message has its own words."""


class Loaded:
    """`cuda_engine`, deserialized from verified bytes on `device`, and its `interface`.

    EngineRefused where TensorRT does not take it, or the loaded library or the GPU is another than
    it was built for; HostUnfit where this host has no such library.
    """

    def __init__(
        self,
        file: EngineFile,
        *,
        device: Device,
        plugins: Sequence[Path],
        log: TextIO | None,
        weight_streaming_budget: int | None,
    ) -> None:
        file.check_gpu(device.name, device.compute_capability)
        self.device = device
        self.trt: Any = _import(file.backend)
        file.check_version(loaded_version(file.backend))
        self.api = api(self.trt)
        self.messages = Messages(log)
        self._lock = threading.Lock()
        previews = file.builder.get("preview_features") or {}
        self._taken_by_one = not self.api.shares_profiles and not previews.get(_SHARING)
        self._taken: set[int] = set()
        self._speaker = speaker(file.backend)
        self._speaker.listen(self.messages)
        self.runtime: Any = None
        self.cuda_engine: Any = None
        try:
            with device:
                self._deserialize(file, plugins)
                if weight_streaming_budget is not None:
                    self._stream_weights(weight_streaming_budget)
                self.interface = _interface(self.trt, self.cuda_engine, self.api, file)
        except BaseException:
            self.close()
            raise

    def _deserialize(self, file: EngineFile, plugins: Sequence[Path]) -> None:
        trt, logger = self.trt, self._speaker.logger
        self.messages.errors()
        runtime = self.runtime = trt.Runtime(logger)
        if self.api.plugins:
            trt.init_libnvinfer_plugins(logger, "")
        registry = runtime.get_plugin_registry()
        for plugin in plugins:
            if registry.load_library(str(plugin)) is None:
                told = self.messages.told()
                raise RunError(f"the plugin library '{plugin}' does not load{told}")
        # Such an engine brings a small runtime of its own, which is code; its bytes were verified.
        runtime.engine_host_code_allowed = file.version_compatible
        self.cuda_engine = runtime.deserialize_cuda_engine(file.data)
        errors = self.messages.errors()
        if self.cuda_engine is None or errors:
            said = "".join(f"\n  {line}" for line in errors[:8])
            raise EngineRefused(f"TensorRT does not take '{file.path}'{said}")

    def _stream_weights(self, budget: int) -> None:
        cuda_engine = self.cuda_engine
        if not self.api.wide:
            raise RunError("weight streaming needs TensorRT 10 or later")
        if cuda_engine.streamable_weights_size == 0:
            hint = "builder: {weight_streaming: true}"
            raise RunError("the engine was built without weight streaming", hint=hint)
        cuda_engine.weight_streaming_budget_v2 = budget
        if cuda_engine.weight_streaming_budget_v2 != budget:
            kept = cuda_engine.weight_streaming_budget_v2
            raise RunError(f"a budget of {budget} bytes was set, and TensorRT kept {kept}")

    def new_context(self, profile: int, stream: Stream) -> Any:  # noqa: ANN401
        """An execution context for a profile; None where another one has taken it, as TensorRT 8
        lets only one have it unless the engine was built with PROFILE_SHARING_0806."""
        with self._lock:
            if self._taken_by_one and profile in self._taken:
                return None  # asked for it all the same, 8.6 crashes the process
            context = self.cuda_engine.create_execution_context()
            if context is None:
                raise RunError(
                    f"TensorRT made no execution context{self.messages.told()}",
                    hint="it may lack GPU memory: each context has its own",
                )
            if context.active_optimization_profile != profile:
                if not context.set_optimization_profile_async(profile, stream.handle):
                    if self._taken_by_one:
                        self.messages.errors()
                        return None
                    told = self.messages.told()
                    raise RunError(f"TensorRT did not switch to profile {profile}{told}")
                stream.synchronize()
            self._taken.add(profile)
            return context

    def give_back(self, profile: int) -> None:
        """The context of a profile has ended."""
        with self._lock:
            self._taken.discard(profile)

    @property
    def device_memory(self) -> int:
        """Bytes of scratch memory that each context takes."""
        if not self.api.wide:
            return int(self.cuda_engine.device_memory_size)
        return int(self.cuda_engine.device_memory_size_v2)

    def close(self) -> None:
        """After the contexts: TensorRT's objects end in the order in which they need each other."""
        self.cuda_engine = None
        self.runtime = None
        self._speaker.leave(self.messages)


def _import(backend: str) -> ModuleType:
    try:
        return load(backend)
    except (ImportError, OSError) as error:
        raise HostUnfit(
            f"'{FLAVOURS[backend].module}' does not load here: {error}",
            hint="install the version that the engine was built with",
        ) from error


def known_dims(dims: Any) -> Shape:  # noqa: ANN401 - TensorRT's Dims
    """Sizes, -1 for those that may change. TensorRT 8 does not even know the rank of an output
    whose shape depends on the data: one -1 stands for all of it."""
    try:
        return tuple(dims)
    except ValueError:  # its length is -1
        return (-1,)


def _input_dims(name: str, dims: Any) -> Shape:  # noqa: ANN401
    try:
        return tuple(dims)
    except ValueError as error:  # seen with 8.6.0, which makes no context for such an engine
        raise RunError(
            f"TensorRT does not know the shape of input '{name}' of this engine",
            hint="TensorRT 8 forgets the shapes where all are fixed and that of an output depends "
            "on the data: give an input a dynamic dimension",
        ) from error


def _interface(trt: Any, cuda_engine: Any, api: Api, file: EngineFile) -> Interface:  # noqa: ANN401
    tensors: dict[str, dict[str, Tensor]] = {"INPUT": {}, "OUTPUT": {}}
    for index in range(cuda_engine.num_io_tensors):
        name = cuda_engine.get_tensor_name(index)
        mode = cuda_engine.get_tensor_mode(name).name
        dims = cuda_engine.get_tensor_shape(name)
        tensors[mode][name] = Tensor(
            name=name,
            dtype=cuda_engine.get_tensor_dtype(name).name,
            dims=_input_dims(name, dims) if mode == "INPUT" else known_dims(dims),
            on_host=cuda_engine.get_tensor_location(name) == trt.TensorLocation.HOST,
            shape_tensor=bool(cuda_engine.is_shape_inference_io(name)),
            layout=cuda_engine.get_tensor_format(name).name,
        )
    profiles = [
        {
            name: InputRange(
                shape=_shapes(cuda_engine, profile, each),
                values=_values(cuda_engine, api, profile, each, file),
            )
            for name, each in tensors["INPUT"].items()
        }
        for profile in range(cuda_engine.num_optimization_profiles)
    ]
    return Interface(inputs=tensors["INPUT"], outputs=tensors["OUTPUT"], profiles=profiles)


def _shapes(cuda_engine: Any, profile: int, tensor: Tensor) -> ShapeRange:  # noqa: ANN401
    if -1 not in tensor.dims:
        return ShapeRange(min=tensor.dims, opt=tensor.dims, max=tensor.dims)
    low, opt, high = cuda_engine.get_tensor_profile_shape(tensor.name, profile)
    return ShapeRange(min=tuple(low), opt=tuple(opt), max=tuple(high))


def _values(
    cuda_engine: Any,  # noqa: ANN401
    api: Api,
    profile: int,
    tensor: Tensor,
    file: EngineFile,
) -> ShapeRange | None:
    """The range of a shape tensor's values, where it is one."""
    if not (tensor.shape_tensor and tensor.on_host):
        return None
    if not api.wide:
        # Its `get_profile_shape_input` gives too few of them (seen with 8.6.0): as it was built.
        profiles = file.recipe.get("profiles", [])
        given = profiles[profile].get(tensor.name, {}) if profile < len(profiles) else {}
        bounds = given.get("values")
        return None if bounds is None else ShapeRange(**{k: tuple(v) for k, v in bounds.items()})
    # Its docstring has the names of the two arguments swapped.
    found = cuda_engine.get_tensor_profile_values(profile, tensor.name)
    if not found:
        return None
    low, opt, high = found
    return ShapeRange(min=tuple(low), opt=tuple(opt), max=tuple(high))
