"""Which toolchains this host has, and whether it can build for a target. Loads no library."""

from __future__ import annotations

import platform
from importlib import metadata

from engineforge.target import Target, Toolchain

# Backend -> the distribution whose version is the toolchain's, and how to get it.
_DISTRIBUTIONS = {"tensorrt_rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
_RTX_CUDA = {"12": "tensorrt_rtx_cu12_libs", "13": "tensorrt_rtx_cu13_libs"}


def host_platform() -> str:
    """This host in a target's words: `linux-x86_64`."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    return f"{platform.system().lower()}-{machine}"


def installed(backend: str) -> list[Toolchain]:
    """The toolchains of a backend that are installed here; for TensorRT-RTX one per CUDA."""
    version = _version(_DISTRIBUTIONS[backend])
    if version is None:
        return []
    if backend == "tensorrt_rtx":
        return [
            Toolchain(backend=backend, version=found, cuda=cuda)
            for cuda, libraries in _RTX_CUDA.items()
            if (found := _version(libraries)) is not None
        ]
    return [Toolchain(backend=backend, version=version, cuda="unknown")]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def why_not(target: Target) -> str | None:
    """Why this host cannot build for a target, with what would help; None where it can."""
    chain = target.toolchain
    if chain.backend == "tensorrt":
        return (
            "this version of EngineForge plans for classic TensorRT and builds with TensorRT-RTX "
            f"only; {chain} on a {target.gpu.name if target.gpu else 'GPU'} was asked for"
        )
    if target.platform != host_platform():
        return f"the target is for {target.platform}, and this host is {host_platform()}"
    found = installed(chain.backend)
    if not found:
        return (
            f"{chain} is not installed here: python -m pip install "
            f"tensorrt-rtx-cu{chain.cuda}=={chain.version}"
        )
    if len(found) > 1:
        both = " and ".join(str(each) for each in found)
        return f"{both} are installed, in one folder: which one loads is left to chance"
    if found[0] != chain:
        return (
            f"the target pins {chain}, and this host has {found[0]}: python -m pip install "
            f"tensorrt-rtx-cu{chain.cuda}=={chain.version}, or change the target"
        )
    return None
