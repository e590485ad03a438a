"""Which toolchains this host has, and whether it can build for a target. Loads no library.

GPUs are asked for only where the answer depends on them: reading them is `gpu`'s.
"""

from __future__ import annotations

import importlib.util
import platform
import re
from collections.abc import Callable, Mapping, Sequence
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

# The least compute capability that an engine with hardware_compatibility 'ampere_plus' is for.
_AMPERE = (8, 0)

Gpus = Callable[[], Sequence[HostGpu]]


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
    found = gpus()
    if matching(target, found, builder):
        return None
    return _why_no_gpu(target, found, builder)


def _why_not_toolchain(wanted: Toolchain) -> str | None:
    found = installed(wanted.backend)
    # 'tensorrt' alone is the name of the family to many.
    name = str(wanted) if wanted.backend == _RTX else f"classic TensorRT, {wanted},"
    if not found:
        return unclear(wanted.backend) or f"{name} is not installed here: {_install(wanted)}"
    if len(found) > 1:
        all_of_them = " and ".join(str(each) for each in found)
        return f"{all_of_them} are installed, in one folder: which one loads is left to chance"
    here = found[0]
    if here.version != wanted.version or not same_version(here.cuda, wanted.cuda):
        return (
            f"the target pins {wanted}, and this host has {here}: {_install(wanted)}, "
            "or change the target"
        )
    return None


def _install(wanted: Toolchain) -> str:
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
    return [each for each in gpus if not _differences(target, each, _level(target, builder))]


def _level(target: Target, builder: Mapping[str, object] | None) -> object:
    options = target.builder if builder is None else builder
    return options.get("hardware_compatibility", "none")


def _differences(target: Target, host: HostGpu, level: object) -> list[str]:
    """In what a GPU of this host is not what a target needs, in words."""
    differences = []
    if target.gpu is not None:
        differences += _gpu_differences(target.gpu, host.gpu, level)
    if target.driver is not None and target.driver != host.driver:
        differences.append(f"driver is {host.driver}, expected {target.driver}")
    needed = target.toolchain.cuda
    if int(host.cuda.partition(".")[0]) < int(needed.partition(".")[0]):
        differences.append(f"driver {host.driver} knows CUDA up to {host.cuda}, expected {needed}")
    return differences


def _gpu_differences(expected: Gpu, found: Gpu, level: object) -> list[str]:
    capability = f"compute capability is '{found.compute_capability}', expected"
    if level == "ampere_plus":
        parts = tuple(int(part) for part in found.compute_capability.split("."))
        return [] if parts >= _AMPERE else [f"{capability} 8.0 or higher"]
    if level == "same_compute_capability":
        same = found.compute_capability == expected.compute_capability
        return [] if same else [f"{capability} '{expected.compute_capability}'"]
    return [str(each) for each in gpu_differences(expected, found)]


def _why_no_gpu(
    target: Target, gpus: Sequence[HostGpu], builder: Mapping[str, object] | None
) -> str:
    name = target.gpu.name if target.gpu is not None else "a GPU"
    if not gpus:
        return (
            f"the target is for '{name}', and this host shows no NVIDIA GPU: there is none, no "
            "driver, or CUDA_VISIBLE_DEVICES hides it"
        )
    level = _level(target, builder)
    nearest = min(gpus, key=lambda each: len(_differences(target, each, level)))
    which = f"nearest of {len(gpus)}, " if len(gpus) > 1 else ""
    differences = "; ".join(_differences(target, nearest, level))
    return (
        f"the target is for '{name}', and this host has '{nearest.gpu.name}' "
        f"({which}{nearest.uuid}), whose {differences}"
    )
