"""What a child process is asked about engines: plain JSON in and out, arrays in .npy files."""

from __future__ import annotations

import contextlib
import json
import re
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engineforge.digest import Digest
from engineforge.errors import EngineForgeError, UsageError
from engineforge.runtime import element_types
from engineforge.runtime.comparison import compare as _compare
from engineforge.runtime.engine import Engine
from engineforge.runtime.interface import Interface
from engineforge.runtime.latency import measure
from engineforge.runtime.layers import layer_information
from engineforge.runtime.load_test import about
from engineforge.runtime.load_test import load_test as _load_test
from engineforge.spec.validate import did_you_mean

Request = Mapping[str, Any]


def run(request: Request) -> dict[str, Any]:
    """Run once. `inputs` are paths of .npy by name, `archives` of .npz; outputs go to the paths in
    `outputs` by name, and all to `folder` where there is one, as `<name>.npy`.

    Gives of each output what it is and where it went, the seconds, and the engine's digest.
    """
    with _engine(request) as engine:
        interface = engine.interface
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, each in _arrays(request):
            if name in arrays:
                raise UsageError(f"input '{name}' is given twice")
            arrays[name] = _adapted(interface, name, each)
        paths = _paths(request, interface)
        started = time.monotonic()
        outputs = engine.run(arrays, request.get("profile"))
        seconds = time.monotonic() - started
        told = {}
        for name, each in outputs.items():
            array = np.asarray(each)
            told[name] = about(array)
            if array.size and array.dtype.kind != "b":
                wide = array.astype(np.float64)
                told[name] |= {k: _number(getattr(wide, k)()) for k in ("min", "mean", "max")}
            for path in paths.get(name, ()):
                _save(path, array)
                told[name]["path"] = str(path)
        return {"engine": engine.sha256, "seconds": seconds, "outputs": told}


def bench(request: Request) -> dict[str, Any]:
    """`measure`, with its arguments by name in `measure`, and what the engine and the GPU are."""
    from engineforge.backends import gpu

    with _engine(request) as engine:
        device = engine.loaded.device
        asked = dict(request["measure"])
        for key in ("shapes", "values"):
            asked[key] = {name: tuple(each) for name, each in (asked.get(key) or {}).items()}
        found = measure(engine, sampler=lambda: gpu.conditions(device.uuid), **asked)
        about_gpu = {
            "name": device.name,
            "uuid": device.uuid,
            "compute_capability": device.compute_capability,
        }
        return {
            "engine": engine.sha256,
            "backend": engine.backend,
            "device_memory": engine.loaded.device_memory,
            **found,
            "gpu": {**about_gpu, **found["gpu"]},
        }


def load_test(request: Request) -> dict[str, Any]:
    """`load_test` of the engine; its layers go to the path `layers`, where there is one."""
    builder = (request.get("recipe") or {}).get("builder", {})
    started = time.monotonic()
    with _engine(request) as engine:
        seconds = time.monotonic() - started
        weights = not builder.get("strip_plan")
        found = _load_test(engine, seconds, run=weights)
        if (path := request.get("layers")) and weights:
            _write_layers(engine, Path(path))
    return found


def compare(request: Request) -> dict[str, Any]:
    """`compare` of the engine with the one that `other` says, in the same words."""
    with _engine(request) as one, _engine({**request["other"], "log": request["log"]}) as other:
        return _compare(one, other)


def _write_layers(engine: Engine, path: Path) -> None:
    text = json.dumps(layer_information(engine), indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


OPERATIONS: Mapping[str, Callable[[Request], dict[str, Any]]] = {
    "run": run,
    "bench": bench,
    "load-test": load_test,
    "compare": compare,
}


def _which(request: Request) -> dict[str, Any]:
    """Of a request, which engine is to be loaded and how: `engine`, and what is not as usual."""
    sha256 = request.get("sha256")
    return {
        "path": Path(request["engine"]),
        "sha256": None if sha256 is None else Digest(sha256),
        "backend": request.get("backend"),
        "recipe": request.get("recipe"),
        "plugins": [Path(each) for each in request.get("plugins", ())],
        "device": request.get("device", 0),
    }


@contextlib.contextmanager
def _log(request: Request) -> Iterator[Any]:
    with Path(request["log"]).open("a", encoding="utf-8", buffering=1) as log:
        yield log


@contextlib.contextmanager
def _engine(request: Request) -> Iterator[Engine]:
    with _log(request) as log, Engine.load(log=log, **_which(request)) as engine:
        yield engine


def _arrays(request: Request) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    for archive in request.get("archives", ()):
        with _reading(archive), np.load(archive, allow_pickle=False) as found:
            if not isinstance(found, np.lib.npyio.NpzFile):
                raise UsageError(f"'{archive}' has one array: say of which input, NAME={archive}")
            for name in found.files:
                if not isinstance(array := found[name], np.ndarray):
                    raise EngineForgeError(f"'{archive}': '{name}' is no array")
                yield name, array
    for name, path in request.get("inputs", {}).items():
        with _reading(path):
            found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise UsageError(f"'{path}' is an archive: give it without '{name}='")
        yield name, found


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise EngineForgeError(f"'{path}' cannot be read as NumPy wrote it: {error}") from error


def _adapted(interface: Interface, name: str, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Types that .npy cannot hold come as float32."""
    tensor = interface.inputs.get(name)
    if tensor is None or array.dtype != np.float32 or element_types.is_native(tensor.numpy_type):
        return array
    return array.astype(tensor.numpy_type)


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    if not element_types.is_native(array.dtype):
        array = array.astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # np.save would add a suffix to other names
        np.save(file, array, allow_pickle=False)


def _paths(request: Request, interface: Interface) -> dict[str, list[Path]]:
    """Where each output goes; UsageError for an output that there is not."""
    paths: dict[str, list[Path]] = {name: [] for name in interface.outputs}
    for name, path in request.get("outputs", {}).items():
        if name not in paths:
            hint = did_you_mean(name, interface.outputs)
            raise UsageError(f"the engine has no output '{name}'", hint=hint)
        paths[name].append(Path(path))
    if folder := request.get("folder"):
        for index, name in enumerate(interface.outputs):
            plain = re.sub(r"[^\w.-]+", "_", name)
            if plain != name:  # and might be another's
                plain = f"{index}_{plain}"
            paths[name].append(Path(folder) / f"{plain}.npy")
    return paths


def _number(value: Any) -> float | None:  # noqa: ANN401 - a NumPy scalar
    """As JSON can hold it."""
    return float(value) if np.isfinite(value) else None
