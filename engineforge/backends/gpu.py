"""Which GPUs this host has and what they are doing, read through CUDA's driver API and NVML.

Makes no CUDA context. Runs in a child process: what CUDA loads stays loaded. Which target fits
which GPU is `host`'s to say.
"""

from __future__ import annotations

import ctypes
import uuid as uuids
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from engineforge.digest import document
from engineforge.errors import HostUnfit
from engineforge.target import Gpu

_DRIVER_LIBRARY = "libcuda.so.1"
_PACKAGES = "python -m pip install 'engineforge[tensorrt]'"
_UTILITY = "in a container, NVIDIA_DRIVER_CAPABILITIES must have 'utility' beside 'compute'"

# Of `Gpu`, what CUDA calls it. Shared memory is what a kernel may ask for at most, not the 48 KiB
# that every one has.
_ATTRIBUTES = {
    "sm_count": "MULTIPROCESSOR_COUNT",
    "memory_bus_width": "GLOBAL_MEMORY_BUS_WIDTH",
    "l2_cache": "L2_CACHE_SIZE",
    "shared_memory_per_block": "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN",
    "shared_memory_per_sm": "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR",
}
_MAY_BE_ZERO = frozenset({"l2_cache"})
_NAME_BYTES = 256

# The bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h, NvmlClocksEventReasons).
_THROTTLE = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}


class GpuUnreadable(HostUnfit):
    """Something that belongs to a GPU's identity cannot be read; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostGpu:
    """A GPU, or a MIG instance, that this process may use.

    `index` counts what CUDA_VISIBLE_DEVICES leaves, `uuid` starts with 'GPU-' or 'MIG-', `driver`
    is its full version and `cuda` the newest CUDA that the driver knows: '13.0'.
    """

    index: int
    uuid: str
    gpu: Gpu
    driver: str
    cuda: str

    def __str__(self) -> str:
        partition = f" MIG {self.gpu.mig_profile}" if self.gpu.mig_profile else ""
        return f"{self.gpu.name}{partition}"


class Libraries:
    """CUDA's driver API and NVML as their Python modules give them: the seam to the hardware.

    What a call cannot read is an `Unread`.
    """

    def __init__(self, driver: Any, nvml: Any) -> None:  # noqa: ANN401 - untyped modules
        self.driver, self.nvml = driver, nvml

    def cuda(self, function: str, *args: object) -> Any:  # noqa: ANN401 - as the function returns
        """The value of a call of the driver API, which answers with a status and a value."""
        status, *values = getattr(self.driver, function)(*args)
        if status != self.driver.CUresult.CUDA_SUCCESS:
            raise Unread(f"{function} says {getattr(status, 'name', status)}", status)
        return values[0] if values else None

    def attribute(self, device: object, name: str) -> int:
        attribute = getattr(self.driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self.cuda("cuDeviceGetAttribute", attribute, device))

    def ask(self, function: str, *args: object) -> Any:  # noqa: ANN401 - as the function returns
        """The value of a call of NVML, which raises its errors."""
        try:
            return getattr(self.nvml, function)(*args)
        except self.nvml.NVMLError as error:
            raise Unread(f"{function} says '{error}'") from error

    @contextmanager
    def opened(self) -> Iterator[None]:
        """NVML, initialized; calls of it work inside only."""
        self.ask("nvmlInit")
        try:
            yield
        finally:
            with suppress(Unread):
                self.ask("nvmlShutdown")


class Unread(Exception):
    """One value that a library did not give; the message says why, `status` is CUDA's answer."""

    def __init__(self, why: str, status: object = None) -> None:
        super().__init__(why)
        self.status = status


def installed_libraries() -> Libraries | None:
    """Both libraries; None where there is no driver, whatever Python packages there are.

    GpuUnreadable where there is one and something to read it with is missing.
    """
    try:
        ctypes.CDLL(_DRIVER_LIBRARY)
    except OSError as error:
        if str(error).startswith(f"{_DRIVER_LIBRARY}: cannot open"):
            return None
        raise GpuUnreadable(f"the driver's library does not load: {error}") from error
    try:
        import pynvml
        from cuda.bindings import driver
    except ImportError as error:
        message = f"this host has an NVIDIA driver, and its GPUs cannot be read: {error}"
        raise GpuUnreadable(message, hint=_PACKAGES) from error
    return Libraries(driver, pynvml)


def visible() -> list[HostGpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process, in CUDA's order.

    Empty where there is no driver or no GPU; GpuUnreadable where a part of an identity is missing.
    """
    libraries = installed_libraries()
    return [] if libraries is None else identify(libraries)


def identify(libraries: Libraries) -> list[HostGpu]:
    """The same, through these libraries."""
    try:
        libraries.cuda("cuInit", 0)
        count = int(libraries.cuda("cuDeviceGetCount"))
    except Unread as error:
        if error.status == libraries.driver.CUresult.CUDA_ERROR_NO_DEVICE:
            return []
        raise GpuUnreadable(f"the GPUs of this host cannot be read: {error}") from error
    except RuntimeError as error:
        # How cuda.bindings says that it found no driver, or one that lacks a function.
        raise GpuUnreadable(f"the GPUs of this host cannot be read: {error}") from error
    if count == 0:
        return []
    try:
        with libraries.opened():
            driver = str(libraries.ask("nvmlSystemGetDriverVersion"))
            version = int(libraries.cuda("cuDriverGetVersion"))
            cuda = f"{version // 1000}.{version % 1000 // 10}"
            return [_identity(libraries, index, driver, cuda) for index in range(count)]
    except Unread as error:
        message = f"the driver's version cannot be read: {error}"
        raise GpuUnreadable(message, hint=_UTILITY) from error


def _identity(libraries: Libraries, index: int, driver: str, cuda: str) -> HostGpu:
    found: dict[str, Any] = {}
    label = f"GPU {index}"

    def read(field: str, value: Callable[[], Any]) -> Any:  # noqa: ANN401 - as `value` returns
        try:
            found[field] = value()
        except Unread as error:
            raise GpuUnreadable(f"'{field}' of {label} cannot be read: {error}") from error
        if not found[field] and field not in _MAY_BE_ZERO and found[field] is not False:
            raise GpuUnreadable(f"'{field}' of {label} cannot be read: found {found[field]!r}")
        return found[field]

    device = read("device", lambda: (libraries.cuda("cuDeviceGet", index),))[0]
    name = read("name", lambda: _text(libraries.cuda("cuDeviceGetName", _NAME_BYTES, device)))
    label += f" ({name})"
    plain = read("uuid", lambda: _uuid(libraries, device))
    handle, uuid = _handle(libraries, plain, label)
    mig_profile = None
    if uuid.startswith("MIG-"):
        # NVIDIA H200 MIG 1g.18gb
        whole = read("mig_profile", lambda: libraries.ask("nvmlDeviceGetName", handle))
        name, _, mig_profile = str(whole).partition(" MIG ")
        if not mig_profile:
            raise GpuUnreadable(f"'mig_profile' of {label} cannot be read: NVML calls it '{whole}'")
    return HostGpu(
        index=index,
        uuid=uuid,
        gpu=Gpu(
            name=name,
            compute_capability=read("compute_capability", lambda: _capability(libraries, device)),
            memory=read("memory", lambda: int(libraries.cuda("cuDeviceTotalMem", device))),
            ecc=read("ecc", lambda: bool(libraries.attribute(device, "ECC_ENABLED"))),
            mig_profile=mig_profile,
            **{
                field: read(field, lambda name=name: libraries.attribute(device, name))  # type: ignore[misc]
                for field, name in _ATTRIBUTES.items()
            },
        ),
        driver=driver,
        cuda=cuda,
    )


def _text(raw: bytes) -> str:
    # What cuda.bindings returns is the whole buffer.
    return raw.partition(b"\0")[0].decode("ascii", "replace").strip()


def _uuid(libraries: Libraries, device: object) -> str:
    # Before CUDA 13 the plain name is a call that gives the whole GPU's UUID for a MIG instance.
    new = "cuDeviceGetUuid_v2"
    function = new if hasattr(libraries.driver, new) else "cuDeviceGetUuid"
    return str(uuids.UUID(bytes=bytes(libraries.cuda(function, device).bytes)))


def _capability(libraries: Libraries, device: object) -> str:
    major, minor = (
        libraries.attribute(device, f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR")
    )
    return f"{major}.{minor}"


def _handle(libraries: Libraries, plain: str, label: str) -> tuple[Any, str]:
    """NVML's handle and the full UUID: CUDA does not say of which kind a UUID is."""
    why = []
    for kind in ("GPU", "MIG"):
        try:
            return libraries.ask("nvmlDeviceGetHandleByUUID", f"{kind}-{plain}"), f"{kind}-{plain}"
        except Unread as error:
            why.append(f"{kind}-{plain}: {error}")
    raise GpuUnreadable(f"'uuid' of {label} is not known to NVML: {'; '.join(why)}")


def _whole(libraries: Libraries, uuid: str) -> Any:  # noqa: ANN401 - NVML's handle
    """The handle of the GPU that has the clocks and the fans: a MIG instance has none."""
    handle = libraries.ask("nvmlDeviceGetHandleByUUID", uuid)
    if uuid.startswith("MIG-"):
        return libraries.ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle)
    return handle


def conditions(uuid: str) -> dict[str, Any]:
    """What a GPU is doing now, for those who read a latency: clocks in MHz, `temperature_c`,
    power in milliwatts, `utilisation` in percent of the last sample, memory in bytes.

    A MIG instance shares all but its memory with the whole GPU, whose values these are. What cannot
    be read is None, and `unread` says why; a measurement never fails for it.
    """
    try:
        libraries = installed_libraries()
    except GpuUnreadable as error:
        return _conditions_unread(error.args[0])
    return _conditions_unread("no driver") if libraries is None else observe(libraries, uuid)


def observe(libraries: Libraries, uuid: str) -> dict[str, Any]:
    """The same, through these libraries."""
    try:
        with libraries.opened():
            return _observed(libraries, _whole(libraries, uuid), uuid)
    except Unread as error:
        return _conditions_unread(str(error))


def _observed(libraries: Libraries, whole: object, uuid: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    unread: dict[str, str] = {}
    for name, read in _CONDITIONS.items():
        try:
            found[name] = read(libraries, whole)
        except Unread as error:
            found[name], unread[name] = None, str(error)
    try:
        own = libraries.ask("nvmlDeviceGetHandleByUUID", uuid)
        found["memory_used"] = int(libraries.ask("nvmlDeviceGetMemoryInfo", own).used)
    except Unread as error:
        found["memory_used"], unread["memory_used"] = None, str(error)
    return {**found, "unread": unread}


def _conditions_unread(why: str) -> dict[str, Any]:
    names = [*_CONDITIONS, "memory_used"]
    return {**dict.fromkeys(names), "unread": dict.fromkeys(names, why)}


def _clock(function: str, kind: str) -> Callable[[Libraries, object], int]:
    return lambda libraries, handle: int(
        libraries.ask(function, handle, getattr(libraries.nvml, kind))
    )


def _number(function: str) -> Callable[[Libraries, object], int]:
    return lambda libraries, handle: int(libraries.ask(function, handle))


def _throttled_by(libraries: Libraries, handle: object) -> list[str]:
    try:
        bits = int(libraries.ask("nvmlDeviceGetCurrentClocksEventReasons", handle))
    except Unread:  # a driver before 535 has it under its old name only
        bits = int(libraries.ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle))
    return [
        _THROTTLE.get(1 << place, f"unknown_{1 << place:#x}")
        for place in range(bits.bit_length())
        if bits >> place & 1
    ]


# `throttled_by` has 'gpu_idle' too, as NVML counts it: what is idle need not run fast.
_CONDITIONS: Mapping[str, Callable[[Libraries, Any], Any]] = {
    "sm_clock_mhz": _clock("nvmlDeviceGetClockInfo", "NVML_CLOCK_SM"),
    "sm_clock_max_mhz": _clock("nvmlDeviceGetMaxClockInfo", "NVML_CLOCK_SM"),
    "memory_clock_mhz": _clock("nvmlDeviceGetClockInfo", "NVML_CLOCK_MEM"),
    "memory_clock_max_mhz": _clock("nvmlDeviceGetMaxClockInfo", "NVML_CLOCK_MEM"),
    "temperature_c": _clock("nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU"),
    "power_mw": _number("nvmlDeviceGetPowerUsage"),
    "power_limit_mw": _number("nvmlDeviceGetEnforcedPowerLimit"),
    "throttled_by": _throttled_by,
    "utilisation": lambda libraries, handle: int(
        libraries.ask("nvmlDeviceGetUtilizationRates", handle).gpu
    ),
    "performance_state": lambda libraries, handle: (
        f"P{int(libraries.ask('nvmlDeviceGetPerformanceState', handle))}"
    ),
}


def other_processes(uuid: str, ours: Collection[int]) -> list[dict[str, Any]]:
    """What computes on a GPU besides the processes `ours`, by pid: name, GPU memory in bytes and
    `utilisation` of the SMs in percent, each None where the driver does not tell.

    GpuUnreadable where the processes cannot be listed. Inside a container the driver may list
    none of those outside, or those under their pids out there.
    """
    libraries = installed_libraries()
    return [] if libraries is None else list_others(libraries, uuid, ours)


def list_others(libraries: Libraries, uuid: str, ours: Collection[int]) -> list[dict[str, Any]]:
    """The same, through these libraries."""
    try:
        with libraries.opened():
            handle = libraries.ask("nvmlDeviceGetHandleByUUID", uuid)
            listed = list(libraries.ask("nvmlDeviceGetComputeRunningProcesses", handle))
            with suppress(Unread):  # not every GPU is shared through MPS
                listed += libraries.ask("nvmlDeviceGetMPSComputeRunningProcesses", handle)
            busy = _busy(libraries, handle)
            others = {int(each.pid): each for each in listed if int(each.pid) not in ours}
            return [
                {
                    "pid": pid,
                    "name": _process_name(libraries, pid),
                    "memory": None if each.usedGpuMemory is None else int(each.usedGpuMemory),
                    "utilisation": busy.get(pid),
                }
                for pid, each in sorted(others.items())
            ]
    except Unread as error:
        raise GpuUnreadable(f"what runs on {uuid} cannot be read: {error}") from error


def _busy(libraries: Libraries, handle: object) -> dict[int, int]:
    """SM utilisation by pid, of the newest sample of each."""
    with suppress(Unread):  # not found where nothing ran; not supported under MIG
        samples = libraries.ask("nvmlDeviceGetProcessUtilization", handle, 0)
        newest = sorted(samples, key=lambda sample: int(sample.timeStamp))
        return {int(sample.pid): int(sample.smUtil) for sample in newest}
    return {}


def _process_name(libraries: Libraries, pid: int) -> str | None:
    with suppress(Unread):
        return str(libraries.ask("nvmlSystemGetProcessName", pid))
    return None


def gpus(request: Mapping[str, Any]) -> dict[str, Any]:
    """`visible` as plain JSON; with `busy` asked for, `others` by UUID (None where unreadable)."""
    found = visible()
    answer: dict[str, Any] = {"gpus": [document(each) for each in found]}
    if request.get("busy"):
        answer["others"] = {each.uuid: _others(each.uuid, ()) for each in found}
    return answer


def gpu_conditions(request: Mapping[str, Any]) -> dict[str, Any]:
    """`conditions` of the GPU `uuid`, and in `others` what runs on it besides the pids `ours`."""
    uuid = request["uuid"]
    return {"conditions": conditions(uuid), "others": _others(uuid, request["ours"])}


def _others(uuid: str, ours: Collection[int]) -> list[dict[str, Any]] | None:
    try:
        return other_processes(uuid, ours)
    except GpuUnreadable:
        return None


def read_gpus(raw: list[Mapping[str, Any]]) -> list[HostGpu]:
    """What `gpus` answered, as values again."""
    return [HostGpu(**{**each, "gpu": Gpu(**each["gpu"])}) for each in raw]
