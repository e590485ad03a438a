"""The tools that give a graph its types: what each can do, which versions of it are known to do it,
and whether they are installed. Imports none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engineforge.stages import packages
from engineforge.stages.packages import Package

FORMAT = 2
"""Of this package's own rewriting: raised when the same request would give other bytes."""


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
    return packages.series([x for x in TOOLS[tool].packages if precision not in x.but_for])


def installed(tool: str) -> dict[str, str]:
    """The exact versions of the tool's packages that are here."""
    return dict(packages.installed(TOOLS[tool].packages))


def missing(tool: str) -> str | None:
    """Why the tool cannot be used here, and what to do; None if it can."""
    return packages.missing(f"tool '{tool}'", TOOLS[tool].packages, TOOLS[tool].extra)
