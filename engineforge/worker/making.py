"""What a child process makes of models: it reads, exports, prepares, converts and builds them. Each
takes a request and gives an answer, both plain JSON."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engineforge.digest import Digest, document

if TYPE_CHECKING:
    from engineforge.backends import Definition
    from engineforge.store.timings import Timings

# What fewer samples than this show is chance, of ranges and of accuracy.
FEWEST = 8


def inspect(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.stages.sources import onnx

    return document(onnx.inspect(Path(request["model"])))


def import_(request: Mapping[str, Any]) -> dict[str, Any]:
    """Write the canonical model to `canonical`, and one that a parser can load into `bind`."""
    from engineforge.stages.sources import onnx

    path = Path(request["model"])
    if request["canonical"] is not None:
        external = {name: Digest(digest) for name, digest in request["external"].items()}
        data, _ = onnx.canonicalize(path, onnx.by_content(path, external))
        Path(request["canonical"]).write_bytes(data)
    bound = None if request["bind"] is None else str(onnx.bind(path, Path(request["bind"])))
    return {"bound": bound}


def export(request: Mapping[str, Any]) -> dict[str, Any]:
    """Make an ONNX model of a source in `scratch`, and keep it in the folder `out`; what was warned
    of on the way is in `notes`."""
    from engineforge.spec.sources import NetworkSource, read_source
    from engineforge.stages.sources import MODEL, exporters
    from engineforge.worker.wire import read_axes

    made = Path(request["scratch"]) / "exported"
    made.mkdir()
    source = read_source(request["source"])
    if isinstance(source, NetworkSource):
        raise RuntimeError("a network definition is not exported")
    with _warnings() as notes, _reads_only(request["folder"], request["files"]):
        exporters.export(
            source,
            folder=Path(request["folder"]),
            files=[Path(each) for each in request["files"]],
            inputs=read_axes(request["inputs"]),
            out=made,
        )
    _keep(made / MODEL, Path(request["out"]), request["called"])
    return {"peak_memory": peak_memory(), "notes": notes}


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """What this package's own code warns of meanwhile."""
    found: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    logger, handler = logging.getLogger("engineforge"), Kept(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def _reads_only(folder: str, files: Sequence[str]) -> Iterator[None]:
    """SourceFailed where a file beside the spec was read that no key has: a change of that would
    go unseen."""
    from engineforge.stages.sources import SourceFailed

    beside, known = os.path.realpath(folder), {os.path.realpath(each) for each in files}
    read: dict[str, None] = {}
    watching = True

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        # A hook cannot be taken out again.
        if watching and event == "open" and isinstance(arguments[0], str):
            read.setdefault(arguments[0])

    sys.addaudithook(heard)
    try:
        yield
    finally:
        watching = False
    for each in read:
        path = os.path.realpath(each)
        inside = path.startswith(beside + os.sep) and not path.endswith((".py", ".pyc"))
        if inside and path not in known and os.path.isfile(path):  # noqa: PTH113 - as it was said
            name = os.path.relpath(path, beside)
            raise SourceFailed(
                f"'{name}' was read, and a change of that would go unseen",
                hint=f"name it beside the function: files: [{name}], or under 'weights'",
            )


def _keep(model: Path, out: Path, called: str) -> None:
    """Keep a model that was made, if it is a sound one; SourceFailed, by what it is called."""
    from engineforge.stages.sources import MODEL, SourceFailed, exported, onnx

    if not model.is_file():
        raise SourceFailed(f"the {called} was exported to no file")
    try:
        exported.keep(model, out)
        onnx.inspect(out / MODEL)
    except onnx.ModelError as error:
        said = error.args[0].replace(f"'{MODEL}'", "what came out")
        raise SourceFailed(f"the {called} gives no sound ONNX model: {said}") from error


def prepare(request: Mapping[str, Any]) -> dict[str, Any]:
    """Prepare a model in `scratch`, and keep it in the folder `out`."""
    from engineforge.spec.sources import Preparation
    from engineforge.stages.sources import MODEL, preparation

    made = Path(request["scratch"]) / "prepared"
    made.mkdir()
    preparation.prepare(Path(request["model"]), Preparation(**request["prepare"]), out=made)
    _keep(made / MODEL, Path(request["out"]), request["called"])
    return {"peak_memory": peak_memory(), "notes": []}


def patterns(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.stages.precision import patterns

    return document(patterns.look_up(Path(request["model"]), request["patterns"]))


def type_(request: Mapping[str, Any]) -> dict[str, Any]:
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
            fewest=FEWEST if precision.quantizes else 1,
            calibrating=precision.quantizes,
        )
    report = make_typed(
        Path(request["model"]),
        precision,
        samples=samples,
        out=Path(request["out"]),
        scratch=Path(request["scratch"]),
    )
    return {**report, "shapes": samples.shapes() if samples else {}, "peak_memory": peak_memory()}


def build(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.backends import BuildRequest, tensorrt
    from engineforge.backends.library import api_of
    from engineforge.worker.wire import read_profiles, read_target

    busy, target = _busy(request["gpu"]), read_target(request["target"])
    typed = api_of(target.toolchain.backend, target.toolchain.version).strongly_typed
    defined = request.get("network")
    with _definition(defined) as definition:
        output = tensorrt.build(
            BuildRequest(
                model=Path(request["model"]),
                definition=definition,
                profiles=read_profiles(request["profiles"]),
                builder=request["builder"],
                target=target,
                types={} if typed or definition else _types(Path(request["model"])),
                timings=_path(request.get("timings")),
                shared_timings=_shared_timings(request),
                timings_out=_path(request.get("timings_out")),
            ),
            Path(request["engine"]),
            Path(request["log"]),
        )
    return {**asdict(output), **busy, "peak_memory": peak_memory()}


@contextlib.contextmanager
def _definition(given: Mapping[str, Any] | None) -> Iterator[Definition | None]:
    """The function that fills the network of a build, where there is no model."""
    from engineforge.backends import BuildError, Definition
    from engineforge.samples.user_code import UserCode
    from engineforge.spec.sources import NetworkSource, read_source
    from engineforge.stages.sources.exporters import importable

    if given is None:
        yield None
        return
    source, folder = read_source(given["source"]), Path(given["folder"])
    if not isinstance(source, NetworkSource):
        raise RuntimeError("a model is no network definition")
    user = UserCode.find(
        source.function,
        folder,
        [Path(each) for each in given["files"]],
        raises=BuildError,
        listed="under 'network'",
        packages=importable(source),
    )
    with user.imported() as function:

        @functools.wraps(function)
        def fill(*given: object, **named: object) -> None:
            with user.beside():  # `define` says more of what it raises than `running` would
                function(*given, **named)

        # What else fails in a build is not the function's fault: nothing but the call runs as its.
        yield Definition(
            function=fill,
            weights=None if source.weights is None else folder / source.weights,
            arguments=source.arguments,
            inputs={name: tuple(dims) for name, dims in given["inputs"].items()},
            called=user.called,
        )


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


def unknown_settings(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.backends import library, settings

    return {"names": settings.unknown_settings(library.load(request["backend"]))}


def gpus(request: Mapping[str, Any]) -> dict[str, Any]:
    from engineforge.backends import gpu

    return gpu.gpus(request)


def peak_memory() -> int:
    """The most memory that this process had, in bytes. Not `ru_maxrss`, which begins with that of
    the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
