"""Which GPUs this host has and what they are doing, read through CUDA's driver API and NVML.

Makes no CUDA context. Runs in a child process: what CUDA loads stays loaded. Which target fits
which GPU is `host`'s to say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from engineforge.digest import document
from engineforge.errors import HostUnfit
from engineforge.target import Gpu

_DRIVER_LIBRARY = "libcuda.so.1"
_PACKAGES = "python -m pip install 'engineforge[tensorrt]'"
_UTILITY = "in a container, NVIDIA_DRIVER_CAPABILITIES must have 'utility' beside 'compute'"
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


class Unread(Exception):
    """One value that a library did not give; the message says why, `status` is CUDA's answer."""

    def __init__(self, why: str, status: object = None) -> None:
        super().__init__(why)
        self.status = status


class Libraries:
    """CUDA's driver API and NVML, as the modules `cuda.bindings.driver` and `pynvml` give them: the
    seam to the hardware. A call that gives no value raises Unread."""

    def __init__(self, driver: Any, nvml: Any) -> None:  # noqa: ANN401 - untyped modules
        self.driver, self.nvml = driver, nvml

    def cuda(self, function: str, *args: object) -> Any:  # noqa: ANN401 - as the function returns
        """The value of a call of the driver API, which answers with a status and a value."""
        try:
            status, *values = getattr(self.driver, function)(*args)
        except RuntimeError as error:  # no library, or one that lacks the function
            raise Unread(f"{function} says '{error}'") from error
        if status != self.driver.CUresult.CUDA_SUCCESS:
            raise Unread(f"{function} says {getattr(status, 'name', status)}", status)
        return values[0] if values else None

    def ask(self, function: str, *args: object) -> Any:  # noqa: ANN401 - as the function returns
        """The value of a call of NVML, which raises its errors."""
        try:
            return getattr(self.nvml, function)(*args)
        except (self.nvml.NVMLError, self.nvml.NVMLLibraryMismatchError) as error:
            raise Unread(f"{function} says '{error}'") from error

    def handle(self, uuid: str) -> Any:  # noqa: ANN401 - NVML's own
        return self.ask("nvmlDeviceGetHandleByUUID", uuid)

    @contextmanager
    def nvml_open(self) -> Iterator[None]:
        """NVML answers inside of it only."""
        self.ask("nvmlInit")
        try:
            yield
        finally:
            with suppress(Unread):
                self.ask("nvmlShutdown")


def installed_libraries() -> Libraries | None:
    """Both libraries; None where there is no driver, whatever Python packages there are.

    GpuUnreadable where there is a driver, and what it takes to ask it is missing.
    """
    import ctypes

    try:
        ctypes.CDLL(_DRIVER_LIBRARY)
    except OSError as error:
        if str(error).startswith(f"{_DRIVER_LIBRARY}: cannot open"):
            return None
        raise GpuUnreadable(f"the NVIDIA driver's library does not load: {error}") from error
    try:
        import pynvml
        from cuda.bindings import driver
    except ImportError as error:
        message = f"this host has an NVIDIA driver, and its GPUs cannot be read: {error}"
        raise GpuUnreadable(message, hint=_PACKAGES) from error
    return Libraries(driver, pynvml)


def visible(libraries: Libraries | None = None) -> list[HostGpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves to this process, in CUDA's order.

    Empty where there is no driver or no GPU; GpuUnreadable where a part of an identity is missing.
    Without `libraries`, those installed.
    """
    libraries = libraries or installed_libraries()
    if libraries is None:
        return []
    try:
        libraries.cuda("cuInit", 0)
        count = int(libraries.cuda("cuDeviceGetCount"))
    except Unread as error:
        if error.status == libraries.driver.CUresult.CUDA_ERROR_NO_DEVICE:
            return []
        raise GpuUnreadable(f"the GPUs of this host cannot be read: {error}") from error
    if count == 0:
        return []
    try:
        with libraries.nvml_open():
            driver = str(libraries.ask("nvmlSystemGetDriverVersion"))
            version = int(libraries.cuda("cuDriverGetVersion"))  # 13000 is 13.0
            cuda = f"{version // 1000}.{version % 1000 // 10}"
            return [_identity(libraries, index, driver, cuda) for index in range(count)]
    except Unread as error:
        message = f"the driver's version cannot be read: {error}"
        raise GpuUnreadable(message, hint=_UTILITY) from error


def _identity(libraries: Libraries, index: int, driver: str, cuda: str) -> HostGpu:
    found: dict[str, Any] = {}
    label = f"GPU {index}"
    for field, read in _FIELDS.items():
        try:
            value = read(libraries, libraries.cuda("cuDeviceGet", index))
        except Unread as error:
            raise GpuUnreadable(f"'{field}' of {label} cannot be read: {error}") from error
        if not value and not isinstance(value, bool):
            raise GpuUnreadable(f"'{field}' of {label} cannot be read: found {value!r}")
        found[field] = value
        label = f"GPU {index} ({found['name']})"
    uuid, handle = _known_to_nvml(libraries, found.pop("uuid"), label)
    if uuid.startswith("MIG-"):
        found["name"], found["mig_profile"] = _partition(libraries, handle, label)
    gpu = Gpu(**{"mig_profile": None, **found})
    return HostGpu(index=index, uuid=uuid, gpu=gpu, driver=driver, cuda=cuda)


def _name(libraries: Libraries, device: object) -> str:
    # What comes back is the whole buffer.
    raw = bytes(libraries.cuda("cuDeviceGetName", _NAME_BYTES, device))
    return raw.partition(b"\0")[0].decode("ascii", "replace").strip()


def _uuid(libraries: Libraries, device: object) -> str:
    from uuid import UUID

    # Before CUDA 13 the plain name is an older call: of a MIG instance it gives the GPU's UUID.
    new = "cuDeviceGetUuid_v2"
    function = new if hasattr(libraries.driver, new) else "cuDeviceGetUuid"
    return str(UUID(bytes=bytes(libraries.cuda(function, device).bytes)))


def _attribute(name: str) -> Callable[[Libraries, object], int]:
    def read(libraries: Libraries, device: object) -> int:
        attribute = getattr(libraries.driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(libraries.cuda("cuDeviceGetAttribute", attribute, device))

    return read


def _capability(libraries: Libraries, device: object) -> str:
    parts = (_attribute(f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR"))
    return ".".join(str(part(libraries, device)) for part in parts)


# Shared memory is what a kernel may ask for at most, not the 48 KiB that every one may have.
_FIELDS: Mapping[str, Callable[[Libraries, Any], Any]] = {
    "name": _name,
    "uuid": _uuid,
    "compute_capability": _capability,
    "sm_count": _attribute("MULTIPROCESSOR_COUNT"),
    "memory": lambda libraries, device: int(libraries.cuda("cuDeviceTotalMem", device)),
    "memory_bus_width": _attribute("GLOBAL_MEMORY_BUS_WIDTH"),
    "l2_cache": _attribute("L2_CACHE_SIZE"),
    "shared_memory_per_block": _attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
    "shared_memory_per_sm": _attribute("MAX_SHARED_MEMORY_PER_MULTIPROCESSOR"),
    "ecc": lambda libraries, device: bool(_attribute("ECC_ENABLED")(libraries, device)),
}


def _known_to_nvml(libraries: Libraries, plain: str, label: str) -> tuple[str, object]:
    """The full UUID and NVML's handle: CUDA does not say of which kind a UUID is."""
    why = []
    for uuid in (f"GPU-{plain}", f"MIG-{plain}"):
        try:
            return uuid, libraries.handle(uuid)
        except Unread as error:
            why.append(f"of '{uuid}' {error}")
    raise GpuUnreadable(f"'uuid' of {label} cannot be read: {', '.join(why)}")


def _partition(libraries: Libraries, handle: object, label: str) -> tuple[str, str]:
    """The name of the GPU and the profile of its MIG instance, from NVML's name for the two:
    `NVIDIA H200 MIG 1g.18gb`."""
    try:
        both = str(libraries.ask("nvmlDeviceGetName", handle))
    except Unread as error:
        raise GpuUnreadable(f"'mig_profile' of {label} cannot be read: {error}") from error
    name, _, profile = both.partition(" MIG ")
    if not profile:
        raise GpuUnreadable(f"'mig_profile' of {label} cannot be read: NVML says '{both}'")
    return name, profile


def conditions(uuid: str, libraries: Libraries | None = None) -> dict[str, Any]:
    """What a GPU is doing now, for who reads a latency: clocks in MHz, temperature in °C, power in
    milliwatts, utilisation in percent of the driver's last sample, memory in bytes.

    A MIG instance has only its memory to itself: the rest is of the whole GPU. What cannot be read
    is None, and `unread` says why; no measurement fails for it.
    """
    try:
        libraries = libraries or installed_libraries()
        if libraries is None:
            return _nothing("there is no NVIDIA driver")
        with libraries.nvml_open():
            return _conditions(libraries, uuid)
    except (Unread, GpuUnreadable) as error:
        return _nothing(error.args[0])


def _nothing(why: str) -> dict[str, Any]:
    return {**dict.fromkeys(_CONDITIONS), "unread": dict.fromkeys(_CONDITIONS, why)}


def _conditions(libraries: Libraries, uuid: str) -> dict[str, Any]:
    own = whole = libraries.handle(uuid)
    if uuid.startswith("MIG-"):
        whole = libraries.ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", own)
    found: dict[str, Any] = {}
    unread: dict[str, str] = {}
    for name, read in _CONDITIONS.items():
        try:
            found[name] = read(libraries, own if name == "memory_used" else whole)
        except Unread as error:
            found[name], unread[name] = None, error.args[0]
    return {**found, "unread": unread}


def _number(function: str, constant: str | None = None) -> Callable[[Libraries, object], int]:
    def read(libraries: Libraries, handle: object) -> int:
        more = () if constant is None else (getattr(libraries.nvml, constant),)
        return int(libraries.ask(function, handle, *more))

    return read


def _throttled_by(libraries: Libraries, handle: object) -> list[str]:
    try:
        bits = int(libraries.ask("nvmlDeviceGetCurrentClocksEventReasons", handle))
    except Unread:  # drivers before 535 have it under its old name only
        bits = int(libraries.ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle))
    each = [1 << place for place in range(bits.bit_length()) if bits >> place & 1]
    return [_THROTTLE.get(bit, f"unknown_{bit:#x}") for bit in each]


# NVML counts being idle among the reasons for a low clock, and so does `throttled_by`.
_CONDITIONS: Mapping[str, Callable[[Libraries, Any], Any]] = {
    "sm_clock_mhz": _number("nvmlDeviceGetClockInfo", "NVML_CLOCK_SM"),
    "sm_clock_max_mhz": _number("nvmlDeviceGetMaxClockInfo", "NVML_CLOCK_SM"),
    "memory_clock_mhz": _number("nvmlDeviceGetClockInfo", "NVML_CLOCK_MEM"),
    "memory_clock_max_mhz": _number("nvmlDeviceGetMaxClockInfo", "NVML_CLOCK_MEM"),
    "temperature_c": _number("nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU"),
    "power_mw": _number("nvmlDeviceGetPowerUsage"),
    "power_limit_mw": _number("nvmlDeviceGetEnforcedPowerLimit"),
    "throttled_by": _throttled_by,
    "utilisation": lambda libraries, handle: int(
        libraries.ask("nvmlDeviceGetUtilizationRates", handle).gpu
    ),
    "performance_state": lambda libraries, handle: (
        f"P{int(libraries.ask('nvmlDeviceGetPerformanceState', handle))}"
    ),
    "memory_used": lambda libraries, handle: int(
        libraries.ask("nvmlDeviceGetMemoryInfo", handle).used
    ),
}


def other_processes(
    uuid: str, ours: Collection[int], libraries: Libraries | None = None
) -> list[dict[str, Any]]:
    """What computes on a GPU besides the processes `ours`, by pid: name, GPU memory in bytes, and
    utilisation of the SMs in percent, each None where the driver does not tell.

    GpuUnreadable where the processes cannot be listed. In a container, the driver leaves out those
    outside, or gives pids that mean something only there.
    """
    libraries = libraries or installed_libraries()
    if libraries is None:
        return []
    try:
        with libraries.nvml_open():
            handle = libraries.handle(uuid)
            listed = list(libraries.ask("nvmlDeviceGetComputeRunningProcesses", handle))
            with suppress(Unread):  # not every GPU can be shared through MPS
                listed += libraries.ask("nvmlDeviceGetMPSComputeRunningProcesses", handle)
            utilisation = _utilisation(libraries, handle)
            memory = {int(each.pid): each.usedGpuMemory for each in listed}
            return [
                {
                    "pid": pid,
                    "name": _process_name(libraries, pid),
                    "memory": None if memory[pid] is None else int(memory[pid]),
                    "utilisation": utilisation.get(pid),
                }
                for pid in sorted(memory.keys() - set(ours))
            ]
    except Unread as error:
        raise GpuUnreadable(f"what runs on '{uuid}' cannot be read: {error}") from error


def _utilisation(libraries: Libraries, handle: object) -> dict[int, int]:
    """By pid, of each one's newest sample."""
    with suppress(Unread):  # there are none where nothing ran, nor under MIG
        samples = libraries.ask("nvmlDeviceGetProcessUtilization", handle, 0)
        in_order = sorted(samples, key=lambda sample: int(sample.timeStamp))
        return {int(sample.pid): int(sample.smUtil) for sample in in_order}
    return {}


def _process_name(libraries: Libraries, pid: int) -> str | None:
    with suppress(Unread):  # it has ended, or is another container's
        return str(libraries.ask("nvmlSystemGetProcessName", pid))
    return None


def gpus(request: Mapping[str, Any]) -> dict[str, Any]:
    """`visible` as plain JSON; where `busy` asks for it, in `others` what runs on each, by UUID."""
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
    """None is not to be taken for a GPU that is free."""
    try:
        return other_processes(uuid, ours)
    except GpuUnreadable:
        return None


def read_gpus(raw: Sequence[Mapping[str, Any]]) -> list[HostGpu]:
    """What `gpus` answered, as values again."""
    return [HostGpu(**{**each, "gpu": Gpu(**each["gpu"])}) for each in raw]
