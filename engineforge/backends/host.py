"""Which toolchains this host has, and whether it can build for a target. Loads no library.

GPUs are asked for only where the answer depends on them: reading them is `gpu`'s.
"""

from __future__ import annotations

import importlib.util
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from engineforge.backends.gpu import HostGpu
from engineforge.backends.library import FLAVOURS
from engineforge.target import Gpu, Target, Toolchain, gpu_differences, same_version

_RTX = "tensorrt_rtx"
_RTX_CUDA = {"12": "tensorrt_rtx_cu12_libs", "13": "tensorrt_rtx_cu13_libs"}
# From 10.0 on, TensorRT's packages have the CUDA major in their names; what `tensorrt` itself is
# then is a pointer to them. Bindings without libraries go with libraries of the system.
_CLASSIC_CUDA = ("11", "12", "13", "14")
# 8.6.1 came in parts, 8.6.0 in one.
_CLASSIC = ("tensorrt_libs", "tensorrt")
_REQUIRED_CUDA = re.compile(
    r"nvidia[-_]cuda[-_]runtime[-_]cu(\d+)\b|cuda[-_]toolkit\b[^;]*?>=\s*(\d+)"
)
_LINKED_CUDA = re.compile(rb"libcublas\.so\.(\d+)\0")
_SHIPPED_VERSION = re.compile(r"""^__version__\s*=\s*["'](\d+(?:\.\d+)+)""", re.MULTILINE)

AMPERE = "8.0"
"""The least compute capability that an engine with hardware_compatibility 'ampere_plus' is for."""

Gpus = Callable[[], Sequence[HostGpu]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuNeed:
    """Which GPUs will do, under which drivers: this one, one of some compute capabilities, or of
    one from `least` on. `words` name them to people, `cuda` is what the driver has to know."""

    words: str
    cuda: str
    driver: str | None = None
    gpu: Gpu | None = None
    capabilities: tuple[str, ...] = ()
    least: str | None = None

    def lacking(self, host: HostGpu) -> list[str]:
        """In what a GPU of this host is not what is needed, in words."""
        differences = []
        if self.gpu is not None:
            differences += [str(each) for each in gpu_differences(self.gpu, host.gpu)]
        found = host.gpu.compute_capability
        capability = f"compute capability is '{found}', expected"
        if self.capabilities and found not in self.capabilities:
            wanted = " or ".join(f"'{each}'" for each in self.capabilities)
            differences.append(f"{capability} {wanted}")
        if self.least is not None and _parts(found) < _parts(self.least):
            differences.append(f"{capability} {self.least} or higher")
        if self.driver is not None and self.driver != host.driver:
            differences.append(f"driver is {host.driver}, expected {self.driver}")
        if _parts(host.cuda)[0] < _parts(self.cuda)[0]:
            differences.append(
                f"driver {host.driver} knows CUDA up to {host.cuda}, expected {self.cuda}"
            )
        return differences

    def why_not(self, who: str, gpus: Sequence[HostGpu]) -> str:
        """Why none of these GPUs will do for `who`, by the nearest of them."""
        if not gpus:
            return (
                f"{who} is for {self.words}, and this host shows no NVIDIA GPU: there is none, no "
                "driver, or CUDA_VISIBLE_DEVICES hides it"
            )
        nearest = min(gpus, key=lambda each: len(self.lacking(each)))
        which = f"nearest of {len(gpus)}, " if len(gpus) > 1 else ""
        return (
            f"{who} is for {self.words}, and this host has '{nearest.gpu.name}' "
            f"({which}{nearest.uuid}), whose {'; '.join(self.lacking(nearest))}"
        )


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def host_platform() -> str:
    """This host in a target's words: `linux-x86_64`."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    return f"{platform.system().lower()}-{machine}"


def installed(backend: str) -> list[Toolchain]:
    """The toolchains of a backend that are installed here, one per CUDA; see `unclear`."""
    return [
        Toolchain(backend=backend, version=version, cuda=cuda)
        for cuda, version in (_rtx() if backend == _RTX else _classic()).items()
        if cuda is not None
    ]


def _rtx() -> dict[str | None, str]:
    """The versions of TensorRT-RTX by CUDA major."""
    if _version(_RTX) is None:
        return {}
    found = {cuda: _version(libraries) for cuda, libraries in _RTX_CUDA.items()}
    return {cuda: version for cuda, version in found.items() if version is not None}


def unclear(backend: str) -> str | None:
    """What cannot be told of a toolchain that is installed, and so is not among `installed`."""
    if backend == _RTX or (version := _classic().get(None)) is None:
        return None
    packages = ", ".join(f"'tensorrt_cu{cuda}_libs'" for cuda in _CLASSIC_CUDA)
    return (
        f"TensorRT {version} is here, and nothing says for which CUDA: none of {packages} is "
        "installed, and no package of TensorRT requires 'nvidia-cuda-runtime-cu…'"
    )


def _classic() -> dict[str | None, str]:
    """The versions of classic TensorRT by CUDA major; None for one that cannot be told."""
    found: dict[str | None, str] = {}
    for cuda in _CLASSIC_CUDA:
        for part in ("libs", "bindings"):
            if (version := _version(f"tensorrt_cu{cuda}_{part}")) is not None:
                found[cuda] = version
                break
    if found:
        return found
    for name in _CLASSIC:
        if (version := _version(name)) is not None:
            return {_required_cuda(name) or _linked_cuda(): version}
    version = _shipped_version()
    return {} if version is None else {_linked_cuda(): version}


def _version(distribution: str) -> str | None:
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
    # A package made anew, .post1, is of the same library.
    return re.sub(r"\.post\d+$", "", version)


def _required_cuda(distribution: str) -> str | None:
    for requirement in metadata.requires(distribution) or ():
        if match := _REQUIRED_CUDA.match(requirement.lower()):
            return match[1] or match[2]
    return None


def _folder() -> Path | None:
    """Of the package `tensorrt`, which is not imported: that would load the library."""
    spec = importlib.util.find_spec(FLAVOURS["tensorrt"].module)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def _shipped_version() -> str | None:
    """The version of a TensorRT that was unpacked, not installed, so that no metadata is there."""
    folder = _folder()
    if folder is None:
        return None
    text = (folder / "__init__.py").read_text(encoding="utf-8", errors="replace")
    match = _SHIPPED_VERSION.search(text)
    return match[1] if match else None


def _linked_cuda() -> str | None:
    """The CUDA major of the cuBLAS that the plugin library of TensorRT 8 is linked to."""
    import mmap

    folder = _folder()
    for library in sorted(folder.glob("libnvinfer_plugin.so.*")) if folder else ():
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            # Found by `find` first: the expression alone takes 50 ms over the whole library.
            if match := _LINKED_CUDA.match(data, max(data.find(b"libcublas.so."), 0)):
                return match[1].decode()
    return None


def why_not(
    target: Target, gpus: Gpus | None = None, builder: Mapping[str, object] | None = None
) -> str | None:
    """Why this host cannot build for a target, with what would help; None where it can.

    `gpus` is called only for a target that is built on its GPU, and only where that decides;
    `builder` are the options of the build, by default those that the target carries.
    """
    chain = target.toolchain
    on_gpu = FLAVOURS[chain.backend].on_gpu
    if target.platform != host_platform():
        return f"the target is for {target.platform}, and this host is {host_platform()}"
    why = _why_not_toolchain(chain)
    if why is not None or not on_gpu:
        return why
    if gpus is None:
        return f"{chain} builds on the GPU that it builds for, and no GPU was looked for"
    return why_no_gpu(target, gpus(), builder)


def why_no_gpu(
    target: Target, gpus: Sequence[HostGpu], builder: Mapping[str, object] | None = None
) -> str | None:
    """Why an engine for the target can be built on none of these GPUs; None where it can."""
    if matching(target, gpus, builder):
        return None
    return _need(target, builder).why_not("the target", gpus)


def _why_not_toolchain(wanted: Toolchain) -> str | None:
    found = installed(wanted.backend)
    if not found and (why := unclear(wanted.backend)) is not None:
        return why
    why = why_not_one(wanted, found)
    if why is not None or same_toolchain(found[0], wanted):
        return why
    return (
        f"the target pins {wanted}, and this host has {found[0]}: {install(wanted)}, "
        "or change the target"
    )


def why_not_one(wanted: Toolchain, found: Sequence[Toolchain]) -> str | None:
    """Why it cannot even be asked whether a host has this toolchain, of whose backend it `found`
    these: there is none, or more than one."""
    # 'tensorrt' alone is the name of the family to many.
    name = str(wanted) if wanted.backend == _RTX else f"classic TensorRT, {wanted},"
    if not found:
        return f"{name} is not installed here: {install(wanted)}"
    if len(found) > 1:
        all_of_them = " and ".join(str(each) for each in found)
        return f"{all_of_them} are installed, in one folder: which one loads is left to chance"
    return None


def same_toolchain(one: Toolchain, other: Toolchain) -> bool:
    """Whether two toolchains of a backend are of one version, for CUDA as far as both tell."""
    return one.version == other.version and same_version(one.cuda, other.cuda)


def install(wanted: Toolchain) -> str:
    """The command that installs it."""
    major = wanted.cuda.partition(".")[0]
    package = f"tensorrt-cu{major}"
    if wanted.backend == _RTX:
        package = f"tensorrt-rtx-cu{major}"
    elif wanted.version.startswith("8."):
        package = "tensorrt"
    return f"python -m pip install {package}=={wanted.version}"


def matching(
    target: Target, gpus: Sequence[HostGpu], builder: Mapping[str, object] | None = None
) -> list[HostGpu]:
    """On which of these GPUs an engine for the target can be built; `builder` as in `why_not`.

    Total memory may differ by 1 %, since drivers keep different amounts for themselves; all else
    of a GPU is compared exactly, and the driver where the target pins one. With the option
    `hardware_compatibility`, any GPU that the level is for will do.
    """
    need = _need(target, builder)
    return [each for each in gpus if not need.lacking(each)]


def _need(target: Target, builder: Mapping[str, object] | None) -> GpuNeed:
    options = target.builder if builder is None else builder
    level, gpu = options.get("hardware_compatibility", "none"), target.gpu
    same = gpu is not None and level == "same_compute_capability"
    return GpuNeed(
        words=f"'{gpu.name}'" if gpu is not None else "a GPU",
        cuda=target.toolchain.cuda,
        driver=target.driver,
        gpu=None if level in ("ampere_plus", "same_compute_capability") else gpu,
        capabilities=(gpu.compute_capability,) if gpu is not None and same else (),
        least=AMPERE if gpu is not None and level == "ampere_plus" else None,
    )
