"""The process that a stage runs in: `python -m engineforge.worker.child`.

One JSON object a line comes in on stdin, one answer a line goes out on stdout; what libraries print
goes to stderr. It ends when its parent does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engineforge.errors import EngineForgeError
from engineforge.worker import comparing, making

# TensorRT recurses over chains of layers: 3,000 elementwise nodes overflow the usual 8 MB.
_STACK_BYTES = 1 << 30
_BUG, _PARENT_IS_GONE = 1, 3
_WRITTEN = ("engine", "canonical", "bind", "out", "scratch")


def main() -> None:
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Code that is not ours may read its input, and must not read ours.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for line in requests:
        request = json.loads(line)
        if request["op"] == "load":
            _load(request)
            continue
        alone = request["op"] in _ALONE
        answer = _answer_beside(request, requests.fileno()) if alone else _answer(request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if alone:
            # Not through the destructors of libraries: all files are written.
            os._exit(0)


def _confine(memory: int | None) -> None:
    """The log says where the network cannot be left."""
    from engineforge.worker.confined import leave_network, limit_memory

    if memory is not None:
        limit_memory(memory + _STACK_BYTES)
    try:
        why = leave_network()
    except OSError as error:  # as where a namespace of users can be made, and gives no privileges
        why = error.strerror or str(error)
    if why is not None:
        sys.stderr.write(f"not kept from the network: {why}\n")


def _load(request: Mapping[str, Any]) -> None:
    """Import what a request to come will need; what is missing is said when it is needed."""
    with contextlib.suppress(ImportError, OSError):
        importlib.import_module(request["module"])
        if "backend" in request:
            importlib.import_module("engineforge.backends.library").load(request["backend"])


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"ok": {**_SHARED, **_ALONE}[request["op"]](request)}
    except EngineForgeError as error:
        return {"error": error.args[0], "hint": error.hint, "exit_code": error.exit_code}
    except MemoryError:
        return {"error": "out of memory", "hint": None}
    except OSError as error:
        # A write that fails, as on a full disk, does not say where; a link has two names, of which
        # the second is made.
        where = (
            error.filename2 or error.filename or next(filter(None, map(request.get, _WRITTEN)), "")
        )
        return {"error": f"{error.strerror or error}: '{where}'", "hint": None}


def _on_engine(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.runtime.operations import OPERATIONS

    return OPERATIONS[request["op"]](request)


def _answer_beside(request: Mapping[str, Any], parent: int) -> dict[str, Any]:
    """The work in a thread with a big stack, while another watches for the parent's end."""
    # A child may have been started before it was known what for.
    os.chdir(Path(request["log"]).parent)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    if request["op"] in _CONFINED:
        _confine(request["memory"])
    elif request.get("network") is not None:
        _confine(None)
    answer: list[dict[str, Any]] = []
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=lambda: answer.append(_answer(request)))
    thread.start()
    threading.stack_size(0)
    threading.Thread(target=_watch, args=[parent], daemon=True).start()
    thread.join()
    if not answer:
        os._exit(_BUG)  # the traceback is in the log, whose end the parent shows
    return answer[0]


def _watch(parent: int) -> None:
    while os.read(parent, 4096):
        pass
    os._exit(_PARENT_IS_GONE)


_Operation = Callable[[Mapping[str, Any]], dict[str, Any]]

# What one process answers again and again.
_SHARED: Mapping[str, _Operation] = {
    "inspect": making.inspect,
    "import": making.import_,
    "patterns": making.patterns,
    "unknown-settings": making.unknown_settings,
    "gpus": making.gpus,
}

# Work that has a process to itself, and a log.
_ALONE: Mapping[str, _Operation] = {
    "export": making.export,
    "prepare": making.prepare,
    "type": making.type_,
    "build": making.build,
    "checks": comparing.measure,
    "check-engine": comparing.check_engine,
    "sensitivity": comparing.sensitivity,
    "advise": comparing.advise,
    "run": _on_engine,
    "bench": _on_engine,
    "load-test": _on_engine,
    "compare": _on_engine,
}

# Code of users and of exporters, which needs no network: what it reads from there is in no key. So
# is a build whose network a function fills; CUDA and TensorRT do without, and a child that has
# loaded TensorRT still has one thread.
_CONFINED = ("export", "prepare")

if __name__ == "__main__":
    main()
