"""The TensorRT library of a flavour: imported, asked for its version, and its log kept.

What differs between flavours before any object is made stands in `FLAVOURS`; which options each
honours, in `options`.
"""

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
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

_MAX_WARNINGS = 50


def load(backend: str) -> ModuleType:
    """Import a flavour's module, and with it the library."""
    return importlib.import_module(FLAVOURS[backend].module)


def generation(trt: ModuleType) -> int:
    """The major version whose API a module has; TensorRT-RTX 1 has that of TensorRT 11.

    8 has weak typing only, serializes into memory, and neither tells what a timing cache holds nor
    which node did not parse; 10 and 11 differ in options only.
    """
    if trt.__name__ == FLAVOURS["tensorrt_rtx"].module:
        return 11
    return int(str(trt.__version__).partition(".")[0])


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
