"""The process that a stage runs in: `python -m engineforge.worker.child`.

One JSON object a line comes in on stdin, one answer a line goes out on stdout; what libraries print
goes to stderr. It ends when its parent does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engineforge.digest import Digest, document
from engineforge.errors import EngineForgeError

# TensorRT recurses over chains of layers: 3,000 elementwise nodes overflow the usual 8 MB.
_STACK_BYTES = 1 << 30
_PARENT_IS_GONE = 3
_WRITTEN = ("engine", "canonical", "bind")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "load":
            _load(request)
            continue
        answer = _build_beside(request) if request["op"] == "build" else _answer(request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if request["op"] == "build":
            # Not through TensorRT's destructors: the engine is written.
            os._exit(0)


def _load(request: Mapping[str, Any]) -> None:
    """Import what a request to come will need; what is missing is said when it is needed."""
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module(request["module"])
        if "backend" in request:
            importlib.import_module("engineforge.backends.tensorrt").load(request["backend"])


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": _OPERATIONS[request["op"]](request)}
    except EngineForgeError as error:
        return {"error": error.args[0], "hint": error.hint}
    except MemoryError:
        return {"error": "out of memory", "hint": None}
    except OSError as error:
        # A write that fails, as on a full disk, does not say where.
        where = error.filename or next(filter(None, map(request.get, _WRITTEN)), "")
        return {"error": f"{error.strerror or error}: '{where}'", "hint": None}


def _inspect(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.stages.sources import onnx

    return document(onnx.inspect(Path(request["model"])))


def _import(request: Mapping[str, Any]) -> dict[str, Any]:
    """Write the canonical model to `canonical`, and one that a parser can load into `bind`."""
    from engineforge.stages.sources import onnx

    path = Path(request["model"])
    if request["canonical"] is not None:
        external = {name: Digest(digest) for name, digest in request["external"].items()}
        data, _ = onnx.canonicalize(path, onnx.by_content(path, external))
        Path(request["canonical"]).write_bytes(data)
    bound = None if request["bind"] is None else str(onnx.bind(path, Path(request["bind"])))
    return {"bound": bound}


def _build(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.backends import BuildRequest, tensorrt
    from engineforge.worker.wire import read_profiles, read_target

    output = tensorrt.build(
        BuildRequest(
            model=Path(request["model"]),
            profiles=read_profiles(request["profiles"]),
            builder=request["builder"],
            target=read_target(request["target"]),
        ),
        Path(request["engine"]),
        Path(request["log"]),
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**asdict(output), "peak_memory": peak}


def _unknown_settings(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.backends import settings, tensorrt

    return {"names": settings.unknown_settings(tensorrt.load(request["backend"]))}


def _build_beside(request: Mapping[str, Any]) -> dict[str, Any]:
    """The build in a thread with a big stack, while this one watches for the parent's end."""
    # A child may have been started before it was known what for.
    os.chdir(Path(request["log"]).parent)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    answer: list[dict[str, Any]] = []
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=lambda: answer.append(_answer(request)))
    thread.start()
    threading.stack_size(0)
    threading.Thread(target=_watch_parent, daemon=True).start()
    thread.join()
    return answer[0] if answer else {"error": "the build ended without an answer", "hint": None}


def _watch_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(_PARENT_IS_GONE)


_OPERATIONS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "inspect": _inspect,
    "import": _import,
    "build": _build,
    "unknown-settings": _unknown_settings,
}

if __name__ == "__main__":
    main()
