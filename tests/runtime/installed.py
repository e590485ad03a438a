"""A GPU and a TensorRT 8 that child processes find, as tests/backends/machines.py lets them find a
GPU. Its engines are JSON behind a head, and compute `x + relu(x)`, off by a share that they hold.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Mapping
from enum import Enum, IntEnum
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from engineforge.digest import digest_bytes, document
from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.runtime.interface import Interface, Tensor
from engineforge.spec.model import InputRange, ShapeRange
from engineforge.stages.sources.onnx import by_content, canonicalize
from engineforge.store.manifest import PlanRecord
from tests.backends import machines
from tests.backends.packages import TENSORRT_8, Site
from tests.conftest import Forge
from tests.models import save
from tests.runtime.pretend import PretendAllocator, PretendContext, PretendCuda

TARGET = """\
h200:
  backend: tensorrt
  version: 8.6.0
  cuda: '12'
  gpu:
    name: NVIDIA H200
    compute_capability: 9.0
    sm_count: 132
    memory: 150110011392
    memory_bus_width: 6144
    l2_cache: 60MiB
    shared_memory_per_block: 227KiB
    shared_memory_per_sm: 228KiB
    ecc: true
"""
_MOST = (8, 4)
_HEAD = b"ftrt" + bytes(20) + bytes([8, 6, 0, 0])  # as far as the version of a plan is read


class Cuda(PretendCuda):
    """With the one device that a process sees."""

    def cudaGetDeviceCount(self) -> tuple[int, int]:  # noqa: N802 - CUDA's names
        return 0, 1

    def cudaGetDeviceProperties(self, index: int) -> tuple[int, Any]:  # noqa: N802
        return 0, SimpleNamespace(name=b"NVIDIA H200\0", major=9, minor=0)

    def cudaSetDevice(self, index: int) -> tuple[int]:  # noqa: N802
        return (0,)

    def cudaFree(self, handle: int) -> tuple[int]:  # noqa: N802
        return self._free(handle) if handle else (0,)


@cache
def cuda() -> Cuda:
    """The one of this process: `cuda.bindings.runtime`."""
    return Cuda()


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Location(Enum):
    DEVICE, HOST = range(2)


class ILogger:
    Severity = Severity


class Context(PretendContext):
    active_optimization_profile = 0

    def __init__(self, off_by: float) -> None:
        tensors = {name: Tensor(name=name, dtype="FLOAT", dims=(-1, 4)) for name in "xy"}
        shape = ShapeRange(min=(1, 4), opt=(2, 4), max=_MOST)
        super().__init__(
            cuda(),
            Interface(
                inputs={"x": tensors["x"]},
                outputs={"y": tensors["y"]},
                profiles=[{"x": InputRange(shape=shape)}],
            ),
        )
        self._off_by = off_by

    def _compute(self) -> None:
        super()._compute()
        count = int(np.prod(self.shapes["x"]))
        raw = (ctypes.c_float * count).from_address(self.addresses["y"])
        y = np.ctypeslib.as_array(raw)
        y *= np.float32(1 + self._off_by)


class CudaEngine:
    """`ICudaEngine`, as far as the runtime asks it."""

    num_io_tensors, num_optimization_profiles, device_memory_size = 2, 1, 0

    def __init__(self, held: Mapping[str, float]) -> None:
        self._held = held

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_mode(self, name: str) -> Any:  # noqa: ANN401
        return SimpleNamespace(name="INPUT" if name == "x" else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:  # noqa: ANN401
        return SimpleNamespace(name="FLOAT")

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        return -1, 4

    def get_tensor_location(self, name: str) -> Location:
        return Location.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_format(self, name: str) -> Any:  # noqa: ANN401
        return SimpleNamespace(name="LINEAR")

    def get_tensor_profile_shape(self, name: str, profile: int) -> tuple[tuple[int, int], ...]:
        return (1, 4), (2, 4), (8, 4)

    def create_execution_context(self) -> Context:
        return Context(self._held["off_by"])


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger: ILogger) -> None:
        pass

    def get_plugin_registry(self) -> object:
        return object()

    def deserialize_cuda_engine(self, data: Any) -> CudaEngine:  # noqa: ANN401
        return CudaEngine(json.loads(bytes(data[len(_HEAD) :])))


def tensorrt() -> SimpleNamespace:
    """What `import tensorrt` gives."""
    from engineforge.runtime import loaded

    # No library is mapped that would say it.
    vars(loaded)["loaded_version"] = lambda backend: "8.6.0"
    return SimpleNamespace(
        __version__="8.6.0",
        ILogger=ILogger,
        IOutputAllocator=PretendAllocator,
        IProfiler=object,
        Runtime=Runtime,
        TensorLocation=Location,
        init_libnvinfer_plugins=lambda logger, namespace: True,
    )


_MODULE = """\
from tests.runtime import installed
_pretended = installed.{which}()
def __getattr__(name):
    return getattr(_pretended, name)
"""


def install(forge: Forge, setenv: Callable[[str, str], None]) -> None:
    """Let processes to come find an H200 with TensorRT 8.6.0, and make its target known."""
    folder = forge.root / "machine"
    machines.install(folder, setenv, "h200()")
    (folder / "cuda" / "bindings" / "runtime.py").write_text(_MODULE.format(which="cuda"))
    (folder / "tensorrt.py").write_text(_MODULE.format(which="tensorrt"))
    Site(folder).has(TENSORRT_8)
    setenv("CUDA_VISIBLE_DEVICES", "0")
    forge.spec("targets", TARGET)


def model(path: Path) -> Path:
    """What the engines should compute: `x + relu(x)`."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Add", ["x", "r"], ["y"], name="add"),
    ]
    graph = helper.make_graph(
        nodes,
        "both",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    )
    return save(graph, path)


def project(forge: Forge, setenv: Callable[[str, str], None], spec: str) -> None:
    """The spec `net` on such a host, with data for its check, and engines of its two variants:
    `good`, which is right, and `bad`, which is 10 % off."""
    install(forge, setenv)
    model(forge.model)
    forge.spec("net", spec)
    random = np.random.default_rng(0)
    np.savez(forge.specs / "holdout.npz", x=random.standard_normal((8, 4)).astype(np.float32))
    put_engine(forge, "good", 0)
    put_engine(forge, "bad", 0.1)


def put_engine(forge: Forge, variant: str, off_by: float) -> Path:
    """Put an engine for a variant of the spec `net` into the store, as if it had been built."""
    with Project(forge.specs, forge.cache, os.environ) as project:
        selection = Selection(variants=frozenset([variant]))
        plan = project.plan([forge.specs / "net.yaml"], selection, jobs=True)
        assert not plan.problems
        (planned,) = plan.variants
        job = planned.job
        assert job is not None
        canonical, _ = canonicalize(forge.model, by_content(forge.model, {}))
        key = document(job.key.engine_key(digest_bytes(canonical), ()))
        with project.store.session() as session, session.staged() as staged:
            (staged / "model.engine").write_bytes(_HEAD + json.dumps({"off_by": off_by}).encode())
            record = {"spec": "net", "variant": variant, "target": "h200", "seconds": 1.0}
            entry, _ = project.store.publish(
                staged, stage="engine", key_document=key, digests={}, record=record
            )
            plan_record = PlanRecord(
                key=job.key.digest(),
                key_document=document(job.key),
                entries={"engine": entry.manifest.key},
            )
            project.store.put_record(plan_record, session.folder)
    return entry.path
