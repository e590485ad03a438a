"""The process that a stage runs in: `python -m engineforge.worker.child`.

One JSON object a line comes in on stdin, one answer a line goes out on stdout; what libraries print
goes to stderr. It ends when its parent does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engineforge.digest import Digest, document
from engineforge.errors import EngineForgeError

if TYPE_CHECKING:
    from engineforge.samples.read import Samples
    from engineforge.store.timings import Timings

# TensorRT recurses over chains of layers: 3,000 elementwise nodes overflow the usual 8 MB.
_STACK_BYTES = 1 << 30
_BUG, _PARENT_IS_GONE = 1, 3
# What fewer samples than this show is chance, of ranges and of accuracy.
_FEWEST = 8
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
    from engineforge.backends.library import api_of
    from engineforge.worker.wire import read_profiles, read_target

    busy, target = _busy(request["gpu"]), read_target(request["target"])
    typed = api_of(target.toolchain.backend, target.toolchain.version).strongly_typed
    output = tensorrt.build(
        BuildRequest(
            model=Path(request["model"]),
            profiles=read_profiles(request["profiles"]),
            builder=request["builder"],
            target=target,
            types={} if typed else _types(Path(request["model"])),
            timings=_path(request.get("timings")),
            shared_timings=_shared_timings(request),
            timings_out=_path(request.get("timings_out")),
        ),
        Path(request["engine"]),
        Path(request["log"]),
    )
    return {**asdict(output), **busy, "peak_memory": _peak()}


def _types(model: Path) -> dict[str, str]:
    from engineforge.stages.sources.features import float_types
    from engineforge.stages.sources.onnx import read_model

    return float_types(read_model(model))


def _shared_timings(request: Mapping[str, Any]) -> Timings | None:
    """The timing cache in the store that a build shares with others, where it does."""
    from engineforge.store.timings import Timings

    if request.get("shared_timings") is None:
        return None
    return Timings(Path(request["store"]), request["shared_timings"])


def _busy(uuid: str | None) -> dict[str, Any]:
    """In what state the GPU of a build is, and what else computes on it: timings may be off."""
    if uuid is None:
        return {}
    from engineforge.backends import gpu

    return {"gpu_at_start": gpu.gpu_conditions({"uuid": uuid, "ours": [os.getpid()]})}


def _path(given: str | None) -> Path | None:
    return None if given is None else Path(given)


def _peak() -> int:
    """The most memory that this process had, in bytes. Not `ru_maxrss`, which begins with that of
    the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _type(request: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a model into the folder `out`; says how, and which shapes its samples had."""
    from engineforge.samples.read import Samples
    from engineforge.stages.precision.typed import make_typed
    from engineforge.worker.wire import read_precision, read_tensors

    precision = read_precision(request["precision"], request["data"])
    samples = None
    if (calibration := precision.calibration) is not None:
        samples = Samples(
            calibration.data,
            Path(request["folder"]),
            read_tensors(request["inputs"]),
            samples=calibration.samples,
            seed=calibration.seed,
            files=[Path(each) for each in request["files"]],
            fewest=_FEWEST if precision.quantizes else 1,
            calibrating=precision.quantizes,
        )
    report = make_typed(
        Path(request["model"]),
        precision,
        samples=samples,
        out=Path(request["out"]),
        scratch=Path(request["scratch"]),
    )
    return {**report, "shapes": samples.shapes() if samples else {}, "peak_memory": _peak()}


def _samples(request: Mapping[str, Any]) -> Samples:
    """What a typed model is compared with its source on."""
    from engineforge.samples.read import Samples
    from engineforge.worker.wire import read_data, read_tensors

    return Samples(
        read_data(request["data"]),
        Path(request["folder"]),
        read_tensors(request["inputs"]),
        samples=request["samples"],
        seed=request["seed"],
        labels=request["labels"],
        fewest=_FEWEST,
        varied=True,
        files=[Path(each) for each in request["files"]],
    )


def _prepared(request: Mapping[str, Any], opset_of: str) -> Path:
    """The source with the names that its nodes have in the typed model, beside a copy of its
    weights, as ONNX Runtime reads no links; with the opset of one of the two models."""
    from engineforge.stages.precision.graph import opset_of as opset_in
    from engineforge.stages.precision.prepare import prepare
    from engineforge.stages.sources.onnx import read_model

    folder = Path(request["scratch"]) / "prepared"
    folder.mkdir()
    opset = opset_in(read_model(Path(request[opset_of])))
    return prepare(Path(request["source"]), opset=opset, out=folder)


def _measure(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.checks.accuracy import measure

    # Not with another opset: raising it could change the source as it changed the typed model.
    source = _prepared(request, "source")
    converted = request["typed"] != request["source"]
    found = measure(
        source,
        Path(request["typed"]) if converted else source,
        _samples(request),
        class_axis=request["class_axis"],
        scratch=Path(request["scratch"]),
    )
    return _measured(request, found)


def _check_engine(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.checks.engine import measure_engine
    from engineforge.runtime.engine import Engine

    source = _prepared(request, "source")
    with (
        Path(request["log"]).open("a", encoding="utf-8", buffering=1) as log,
        Engine.load(
            Path(request["engine"]),
            sha256=Digest(request["sha256"]),
            plugins=[Path(each) for each in request["plugins"]],
            log=log,
        ) as engine,
    ):
        found = measure_engine(
            source,
            engine,
            _samples(request),
            class_axis=request["class_axis"],
            scratch=Path(request["scratch"]),
        )
    return _measured(request, found)


def _sensitivity(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.checks.pair import Pair
    from engineforge.checks.sensitivity import ranked, sensitivity

    pair = Pair(_prepared(request, "typed"), Path(request["typed"]), Path(request["scratch"]))
    expected = pair.expected(_samples(request))
    costs = [*sensitivity(pair, expected, class_axis=request["class_axis"])]
    return _measured(request, {"samples": sum(1 for _ in expected), "layers": ranked(costs)})


def _measured(request: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.worker.measured import MEASURED

    text = json.dumps(found, indent=1, allow_nan=False)
    (Path(request["out"]) / MEASURED).write_text(text + "\n", encoding="utf-8")
    return {"peak_memory": _peak()}


def _advise(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.checks.diagnosis import diagnosis

    lines = diagnosis(
        _prepared(request, "typed"),
        Path(request["typed"]),
        _samples(request),
        thresholds=request["thresholds"],
        class_axis=request["class_axis"],
        scratch=Path(request["scratch"]),
    )
    return {"lines": lines}


def _patterns(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.stages.precision import patterns

    return document(patterns.look_up(Path(request["model"]), request["patterns"]))


def _unknown_settings(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.backends import library, settings

    return {"names": settings.unknown_settings(library.load(request["backend"]))}


def _on_engine(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.runtime.operations import OPERATIONS

    return OPERATIONS[request["op"]](request)


def _gpus(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.backends import gpu

    return gpu.gpus(request)


def _answer_beside(request: Mapping[str, Any], parent: int) -> dict[str, Any]:
    """The work in a thread with a big stack, while another watches for the parent's end."""
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
    "inspect": _inspect,
    "import": _import,
    "patterns": _patterns,
    "unknown-settings": _unknown_settings,
    "gpus": _gpus,
}

# Work that has a process to itself, and a log.
_ALONE: Mapping[str, _Operation] = {
    "type": _type,
    "build": _build,
    "checks": _measure,
    "check-engine": _check_engine,
    "sensitivity": _sensitivity,
    "advise": _advise,
    "run": _on_engine,
    "bench": _on_engine,
    "load-test": _on_engine,
    "compare": _on_engine,
}

if __name__ == "__main__":
    main()
