"""A machine with GPUs, seen through modules that behave as `cuda.bindings.driver` and `pynvml` do:
what they return, what they raise, and what they refuse before they are initialized."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engineforge.backends.gpu import Libraries

H200_UUID = "11111111-2222-3333-4444-555555555555"
OTHER_UUID = "99999999-2222-3333-4444-555555555555"
MIG_UUID = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"

_H200 = {
    "MULTIPROCESSOR_COUNT": 132,
    "GLOBAL_MEMORY_BUS_WIDTH": 6144,
    "L2_CACHE_SIZE": 62914560,
    "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 232448,
    "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR": 233472,
    "ECC_ENABLED": 1,
    "COMPUTE_CAPABILITY_MAJOR": 9,
    "COMPUTE_CAPABILITY_MINOR": 0,
}


@dataclass(kw_only=True)
class Device:
    """What one GPU, or MIG instance, answers."""

    uuid: str = H200_UUID
    name: str = "NVIDIA H200"
    nvml_name: str = "NVIDIA H200"
    kind: str = "GPU"
    memory: int = 150110011392
    attributes: Mapping[str, int] = field(default_factory=lambda: _H200)
    processes: Sequence[tuple[int, str, int | None]] = ()
    throttle: int = 0

    @property
    def full_uuid(self) -> str:
        return f"{self.kind}-{self.uuid}"


def h200(**changes: Any) -> Device:  # noqa: ANN401 - as the fields are
    return Device(**changes)


def partition() -> Device:
    """The smallest MIG instance of an H200, as CUDA shows it."""
    return Device(
        uuid=MIG_UUID,
        name="NVIDIA H200 MIG 1g.18gb",
        nvml_name="NVIDIA H200 MIG 1g.18gb",
        kind="MIG",
        memory=17179869184,
        attributes={**_H200, "MULTIPROCESSOR_COUNT": 16, "L2_CACHE_SIZE": 7864320},
    )


class Status(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_DEVICE = 101
    CUDA_ERROR_SYSTEM_NOT_READY = 802


class Attribute(IntEnum):
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16
    CU_DEVICE_ATTRIBUTE_ECC_ENABLED = 32
    CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH = 37
    CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE = 38
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR = 81
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97


class NVMLError(Exception):
    pass


class NVMLLibraryMismatchError(Exception):
    pass


class Driver:
    """`cuda.bindings.driver` 12.9; `broken` are calls that end with a status instead."""

    CUresult = Status
    CUdevice_attribute = Attribute

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        visible: str | None = None,
        broken: Mapping[str, Status] | None = None,
    ) -> None:
        self._devices = [*devices] if visible is None else _left(devices, visible)
        self._broken = broken or {}
        self._ready = False

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("cu") and name in self._broken:
            return lambda *_: (self._broken[name], None)
        return super().__getattribute__(name)

    def cuInit(self, flags: int) -> tuple[Status]:  # noqa: N802 - CUDA's name
        assert flags == 0
        if not self._devices:
            return (Status.CUDA_ERROR_NO_DEVICE,)
        self._ready = True
        return (Status.CUDA_SUCCESS,)

    def cuDriverGetVersion(self) -> tuple[Status, int]:  # noqa: N802
        return Status.CUDA_SUCCESS, 13000

    def cuDeviceGetCount(self) -> tuple[Status, int | None]:  # noqa: N802
        if not self._ready:
            return Status.CUDA_ERROR_NOT_INITIALIZED, None
        return Status.CUDA_SUCCESS, len(self._devices)

    def cuDeviceGet(self, ordinal: int) -> tuple[Status, Any]:  # noqa: N802
        if not self._ready or ordinal >= len(self._devices):
            return Status.CUDA_ERROR_INVALID_DEVICE, None
        return Status.CUDA_SUCCESS, self._devices[ordinal]

    def cuDeviceGetName(self, length: int, device: Device) -> tuple[Status, bytes]:  # noqa: N802
        return Status.CUDA_SUCCESS, (device.name.encode() + b"\0").ljust(length)

    def cuDeviceGetUuid(self, device: Device) -> tuple[Status, Any]:  # noqa: N802
        shown = H200_UUID if device.kind == "MIG" else device.uuid
        return Status.CUDA_SUCCESS, SimpleNamespace(bytes=uuid.UUID(shown).bytes)

    def cuDeviceGetUuid_v2(self, device: Device) -> tuple[Status, Any]:  # noqa: N802
        return Status.CUDA_SUCCESS, SimpleNamespace(bytes=uuid.UUID(device.uuid).bytes)

    def cuDeviceTotalMem(self, device: Device) -> tuple[Status, int]:  # noqa: N802
        return Status.CUDA_SUCCESS, device.memory

    def cuDeviceGetAttribute(  # noqa: N802
        self, attribute: Attribute, device: Device
    ) -> tuple[Status, int]:
        name = attribute.name.removeprefix("CU_DEVICE_ATTRIBUTE_")
        return Status.CUDA_SUCCESS, device.attributes[name]


def _left(devices: Sequence[Device], visible: str) -> list[Device]:
    """What CUDA_VISIBLE_DEVICES leaves: indices or UUIDs, up to the first that is neither."""
    left: list[Device] = []
    for word in filter(None, visible.split(",")):
        fit = [
            each
            for index, each in enumerate(devices)
            if word == str(index) or (word[:3] == each.kind and each.full_uuid.startswith(word))
        ]
        if not fit:
            break
        left.append(fit[0])
    return left


class Nvml:
    """`pynvml`: sees all devices, whatever CUDA_VISIBLE_DEVICES says; `broken` are calls that fail,
    with the text of their error."""

    NVMLError = NVMLError
    NVMLLibraryMismatchError = NVMLLibraryMismatchError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(
        self, devices: Sequence[Device], *, broken: Mapping[str, str] | None = None
    ) -> None:
        self._devices = {each.full_uuid: each for each in devices}
        self._broken = broken or {}
        self.open = 0

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401
        call = super().__getattribute__(name)
        if not name.startswith("nvml"):
            return call

        def checked(*args: object) -> Any:  # noqa: ANN401
            if name in self._broken:
                raise NVMLError(self._broken[name])
            if name != "nvmlInit" and self.open < 1:
                raise NVMLError("Uninitialized")
            return call(*args)

        return checked

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "580.159.04"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Device:  # noqa: N802
        if uuid not in self._devices:
            raise NVMLError("Not Found")
        return self._devices[uuid]

    def nvmlDeviceGetName(self, device: Device) -> str:  # noqa: N802
        return device.nvml_name

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, device: Device) -> Device:  # noqa: N802
        assert device.kind == "MIG"
        return self._devices[f"GPU-{H200_UUID}"]

    def nvmlDeviceGetClockInfo(self, device: Device, kind: int) -> int:  # noqa: N802
        return {1: 1755, 2: 3201}[self._of_a_gpu(device, kind)]

    def nvmlDeviceGetMaxClockInfo(self, device: Device, kind: int) -> int:  # noqa: N802
        return {1: 1980, 2: 3201}[self._of_a_gpu(device, kind)]

    def nvmlDeviceGetTemperature(self, device: Device, sensor: int) -> int:  # noqa: N802
        return 31 + self._of_a_gpu(device, sensor)

    def nvmlDeviceGetPowerUsage(self, device: Device) -> int:  # noqa: N802
        return self._of_a_gpu(device, 76512)

    def nvmlDeviceGetEnforcedPowerLimit(self, device: Device) -> int:  # noqa: N802
        return self._of_a_gpu(device, 700000)

    def nvmlDeviceGetPerformanceState(self, device: Device) -> int:  # noqa: N802
        return self._of_a_gpu(device, 0)

    def nvmlDeviceGetCurrentClocksEventReasons(self, device: Device) -> int:  # noqa: N802
        return self._of_a_gpu(device, device.throttle)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, device: Device) -> int:  # noqa: N802
        return self._of_a_gpu(device, device.throttle)

    def nvmlDeviceGetUtilizationRates(self, device: Device) -> Any:  # noqa: ANN401, N802
        return SimpleNamespace(gpu=self._of_a_gpu(device, 37), memory=2)

    def nvmlDeviceGetMemoryInfo(self, device: Device) -> Any:  # noqa: ANN401, N802
        return SimpleNamespace(total=device.memory, used=device.memory // 4)

    def nvmlDeviceGetComputeRunningProcesses(self, device: Device) -> list[Any]:  # noqa: N802
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=memory) for pid, _, memory in device.processes
        ]

    def nvmlDeviceGetMPSComputeRunningProcesses(self, device: Device) -> list[Any]:  # noqa: N802
        raise NVMLError("Not Supported")

    def nvmlDeviceGetProcessUtilization(self, device: Device, since: int) -> list[Any]:  # noqa: N802
        if not device.processes:
            raise NVMLError("Not Found")
        return [
            SimpleNamespace(pid=pid, timeStamp=time, smUtil=percent)
            for pid, *_ in device.processes
            for time, percent in ((2, 80), (1, 10))
        ]

    def nvmlSystemGetProcessName(self, pid: int) -> str:  # noqa: N802
        for device in self._devices.values():
            for each, name, _ in device.processes:
                if each == pid and name:
                    return name
        raise NVMLError("Not Found")

    def _of_a_gpu(self, device: Device, value: int) -> int:
        if device.kind == "MIG":
            raise NVMLError("Not Supported")
        return value


def machine(
    *devices: Device,
    visible: str | None = None,
    broken_cuda: Mapping[str, Status] | None = None,
    broken_nvml: Mapping[str, str] | None = None,
) -> Libraries:
    return Libraries(
        Driver(devices, visible=visible, broken=broken_cuda), Nvml(devices, broken=broken_nvml)
    )


_MODULE = """\
import os
from tests.backends.machines import OTHER_UUID, Device, Status, h200, machine, partition
_shown = os.environ.get("CUDA_VISIBLE_DEVICES")
_machine = machine(*[{devices}], visible=_shown, **dict({broken}))
def __getattr__(name):
    return getattr(_machine.{which}, name)
"""


def install(
    folder: Path, setenv: Callable[[str, str], None], devices: str, *, broken: str = ""
) -> None:
    """Such a machine for child processes: modules in `folder`, found through the environment, and a
    library under the driver's name. `devices` and `broken` are arguments of `machine`, as text."""
    import _ctypes
    import shutil

    bindings = folder / "cuda" / "bindings"
    bindings.mkdir(parents=True)
    (folder / "cuda" / "__init__.py").touch()
    (bindings / "__init__.py").touch()
    parts = {"devices": devices, "broken": broken}
    (bindings / "driver.py").write_text(_MODULE.format(which="driver", **parts))
    (folder / "pynvml.py").write_text(_MODULE.format(which="nvml", **parts))
    assert _ctypes.__file__ is not None
    shutil.copy(_ctypes.__file__, folder / "libcuda.so.1")
    root = Path(__file__).parent.parent.parent
    setenv("PYTHONPATH", f"{folder}:{root}")
    setenv("LD_LIBRARY_PATH", str(folder))
