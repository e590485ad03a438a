"""The TensorRT library of a flavour: imported, asked for its version, and its log kept.

In what flavours and versions differ stands in `FLAVOURS` and `APIS`; which options each honours, in
`options`.
"""

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from engineforge.errors import EngineForgeError


class LibraryError(EngineForgeError):
    """The library of a backend is not there, does not load, or is another than was asked for."""


@dataclass(frozen=True, slots=True)
class Flavour:
    """`module` is what is imported, `library` the shared library that it loads."""

    module: str
    library: str
    on_gpu: bool
    """Whether it builds on the GPU that it builds for, and then with timing caches."""


FLAVOURS: Mapping[str, Flavour] = {
    "tensorrt": Flavour("tensorrt", "libnvinfer.so", on_gpu=True),
    "tensorrt_rtx": Flavour("tensorrt_rtx", "libtensorrt_rtx.so", on_gpu=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """In what the APIs of versions differ; which builder options they honour, `options` says."""

    strongly_typed: bool
    """Whether networks take their types from the model; else `weak` holds them to it."""
    streams_engines: bool
    """Whether an engine is written piece by piece; else it is one piece of memory."""
    tells_timings: bool
    """Whether it tells what a timing cache holds."""
    names_nodes: bool
    """Whether the parser tells the node of an error by name."""
    shares_profiles: bool
    """Whether several contexts may have one profile, whatever the engine was built with."""
    wide: bool
    """Whether it has 64-bit sizes, all values of shape tensors, and weight streaming."""
    plugins: bool


_FROM_10 = Api(
    strongly_typed=True,
    streams_engines=True,
    tells_timings=True,
    names_nodes=True,
    shares_profiles=True,
    wide=True,
    plugins=True,
)
APIS: Mapping[tuple[str, int], Api] = {
    ("tensorrt_rtx", 1): replace(_FROM_10, plugins=False),
    ("tensorrt", 10): _FROM_10,  # 11 differs in options only
    ("tensorrt", 0): Api(
        strongly_typed=False,
        streams_engines=False,
        tells_timings=False,
        names_nodes=False,
        shares_profiles=False,
        wide=False,
        plugins=True,
    ),
}
"""By backend and the major version that it begins with, the later ones first."""

_MAX_WARNINGS = 50


def load(backend: str) -> ModuleType:
    """Import a flavour's module, and with it the library."""
    return importlib.import_module(FLAVOURS[backend].module)


def api(trt: ModuleType) -> Api:
    """What the API of a loaded module has."""
    backend = next(name for name, each in FLAVOURS.items() if each.module == trt.__name__)
    return api_of(backend, str(trt.__version__))


def api_of(backend: str, version: str) -> Api:
    """The same by version; one that is later than all that are known is taken for the last."""
    major = int(version.partition(".")[0])
    return next(each for (name, first), each in APIS.items() if name == backend and major >= first)


def loaded_version(backend: str) -> str:
    """The version that the loaded shared library itself gives, not that of the Python bindings:
    four numbers, or the three that TensorRT 8 knows of itself."""
    flavour = FLAVOURS[backend]
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    found = re.search(rf"\S*/{re.escape(flavour.library)}\S*", maps)
    if found is None:
        raise LibraryError(f"'{flavour.library}' is not loaded, though '{flavour.module}' is")
    library = ctypes.CDLL(found[0])
    if not hasattr(library, "getInferLibMajorVersion"):
        number = int(library.getInferLibVersion())  # 8600 is 8.6.0
        return f"{number // 1000}.{number // 100 % 10}.{number % 100}"
    parts = ("Major", "Minor", "Patch", "Build")
    return ".".join(str(getattr(library, f"getInferLib{part}Version")()) for part in parts)


def make_logger(trt: ModuleType, file: Any) -> Any:  # noqa: ANN401 - a class of an untyped module
    """An ILogger that writes what matters to `file`, and keeps `errors` and `warnings` (each
    distinct one, up to a limit); `timed` counts the timing runs that the verbose log tells of."""
    verbose = trt.ILogger.Severity.VERBOSE

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: dict[str, None] = {}
            self.timed = 0

        def log(self, severity: object, message: str) -> None:
            if severity == verbose:  # thousands of them, one for each step
                self.timed += "Timing Runner" in message
                return
            name = getattr(severity, "name", str(severity))
            file.write(f"[{name}] {message}\n")
            if name in ("INTERNAL_ERROR", "ERROR"):
                self.errors.append(message)
            elif name == "WARNING" and len(self.warnings) < _MAX_WARNINGS:
                self.warnings[message] = None

    return Logger()
