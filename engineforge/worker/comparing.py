"""What a child process measures of models and engines. Each takes a request and gives an answer,
both plain JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engineforge.digest import Digest
from engineforge.worker.making import FEWEST, peak_memory

if TYPE_CHECKING:
    from engineforge.samples.read import Samples


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
        fewest=FEWEST,
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


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
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


def check_engine(request: Mapping[str, Any]) -> dict[str, Any]:
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


def sensitivity(request: Mapping[str, Any]) -> dict[str, Any]:
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
    return {"peak_memory": peak_memory()}


def advise(request: Mapping[str, Any]) -> dict[str, Any]:
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
