"""The tools that give a graph its types: what each can do, which versions of it are known to do it,
and whether they are installed. Imports none of them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata

FORMAT = 2
"""Of this package's own rewriting: raised when the same request would give other bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A distribution, under any of its `names`, and the release series that is tested; None where
    any will do, since it does not shape what comes out. `but_for` are precisions that it has no
    part in."""

    names: tuple[str, ...]
    series: str | None
    but_for: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """`casts_by_data` says whether samples can keep in FP32 what overflows FP16; `methods` are the
    calibration methods by precision, `high_precisions` the types that it gives
    what it does not quantize, and `extra` is what the package calls its installation."""

    precisions: tuple[str, ...]
    casts_by_data: bool
    high_precisions: tuple[str, ...]
    methods: Mapping[str, tuple[str, ...]]
    packages: tuple[Package, ...]
    extra: str


_RUNTIME_NAMES = ("onnxruntime", "onnxruntime-gpu")
_OURS = (Package(names=("onnx",), series="1.23"), Package(names=("numpy",), series="2"))
_PYTHON = (3, 11)  # the oldest that ONNX Runtime 1.31 is there for

TOOLS: Mapping[str, Tool] = {
    "onnxruntime": Tool(
        precisions=("fp16", "int8"),
        casts_by_data=False,
        high_precisions=("fp32", "fp16"),
        methods={"int8": ("max", "entropy", "percentile")},
        # FP16 is made of the graph alone, by lowering.py.
        packages=(*_OURS, Package(names=_RUNTIME_NAMES, series="1.31", but_for=("fp16",))),
        extra="precision",
    ),
    "modelopt": Tool(
        precisions=("fp16", "bf16", "int8", "fp8", "int4"),
        casts_by_data=True,
        high_precisions=("fp32", "fp16", "bf16"),
        methods={
            "int8": ("max", "entropy"),
            "fp8": ("max", "entropy"),
            "int4": ("rtn", "awq_clip", "awq_lite"),
        },
        packages=(
            Package(names=("nvidia-modelopt",), series="0.47"),
            *_OURS,
            Package(names=_RUNTIME_NAMES, series="1.31"),
            Package(names=("torch",), series=None),
        ),
        extra="modelopt",
    ),
}


def default_tool(precision: str) -> str | None:
    """The tool for a precision, whatever is installed here; None where none is needed."""
    return next((name for name, tool in TOOLS.items() if precision in tool.precisions), None)


def versions(tool: str, precision: str) -> dict[str, str]:
    """The series of the packages that shape what the tool makes of a model."""
    packages = (each for each in TOOLS[tool].packages if precision not in each.but_for)
    return {each.names[0]: each.series for each in packages if each.series is not None}


def installed(tool: str) -> dict[str, str]:
    """The exact versions of the tool's packages that are here."""
    found = ((each.names[0], _version(each)) for each in TOOLS[tool].packages)
    return {name: version for name, version in found if version is not None}


def missing(tool: str) -> str | None:
    """Why the tool cannot be used here, and what to do; None if it can."""
    if sys.version_info < _PYTHON:
        needed = ".".join(map(str, _PYTHON))
        return (
            f"tool '{tool}' needs Python {needed} or later, and this is {platform.python_version()}"
        )
    for package in TOOLS[tool].packages:
        version = _version(package)
        install = f"python -m pip install 'engineforge[{TOOLS[tool].extra}]'"
        if version is None:
            return f"tool '{tool}' needs '{package.names[0]}', which is not installed: {install}"
        if package.series is not None and not f"{version}.".startswith(f"{package.series}."):
            return (
                f"tool '{tool}' needs '{package.names[0]}' {package.series}, found {version}: "
                f"{install}"
            )
    return None


def _version(package: Package) -> str | None:
    for name in package.names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
