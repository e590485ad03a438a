"""ModelOpt kept to itself: its temporary files, what it prints and logs, and its changes to ONNX
Runtime's quantizer and to GraphSurgeon, which every other user of this process would see.

Its shape inference, which runs up to six times a conversion, is done without weights.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as graphsurgeon
from modelopt.onnx import utils as library
from onnx import ModelProto, TensorProto
from onnxruntime.quantization import base_quantizer, calibrate, qdq_quantizer, registry

from engineforge.errors import EngineForgeError
from engineforge.stages.sources.skeleton import INLINE_BYTES


class ModelOptFailed(EngineForgeError):
    """ModelOpt cannot convert a model; the message is the library's own."""


@contextlib.contextmanager
def contained(scratch: Path) -> Iterator[None]:
    """The library's habits kept in: temporary files, what it prints and logs, and its changes to
    ONNX Runtime's quantizer and to GraphSurgeon, which other users of this process see.

    Whatever fails inside is ModelOptFailed.
    """
    root = logging.getLogger()
    silent = logging.NullHandler()
    level, folder = logging.root.manager.disable, tempfile.tempdir
    said = io.StringIO()
    with (
        tempfile.TemporaryDirectory(dir=scratch) as temporary,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
        # INT4 compiles an extension with setuptools, which takes what lies here for a project.
        contextlib.chdir(temporary),
        _unpatched(),
    ):
        tempfile.tempdir = temporary
        # Without a handler, `logging.warning` would give the root logger one.
        root.addHandler(silent)
        logging.disable(logging.CRITICAL)
        try:
            yield
        except EngineForgeError:
            raise
        except (Exception, SystemExit) as error:
            raise ModelOptFailed(f"'modelopt' failed: {error}") from error
        finally:
            logging.disable(level)
            root.removeHandler(silent)
            tempfile.tempdir = folder


@contextlib.contextmanager
def _unpatched() -> Iterator[None]:
    owners = (
        calibrate,
        calibrate.CalibraterBase,
        calibrate.MinMaxCalibrater,
        calibrate.HistogramCalibrater,
        calibrate.HistogramCollector,
        base_quantizer.BaseQuantizer,
        qdq_quantizer.QDQQuantizer,
        library,
        graphsurgeon,
        graphsurgeon.exporters.onnx_exporter.OnnxExporter,
    )
    before = [dict(vars(owner)) for owner in owners]
    tables = (registry.QLinearOpsRegistry, registry.QDQRegistry)
    entries = [dict(table) for table in tables]
    library.infer_shapes = infer_shapes
    try:
        yield
    finally:
        for owner, was in zip(owners, before, strict=True):
            for name, value in vars(owner).copy().items():
                if name not in was:
                    delattr(owner, name)
                elif was[name] is not value:
                    setattr(owner, name, was[name])
        for table, had in zip(tables, entries, strict=True):
            table.clear()
            table.update(had)


def infer_shapes(model: ModelProto, **options: Any) -> ModelProto:  # noqa: ANN401 - ONNX's own
    """The same model with the types and shapes of all tensors. The library's serializes a model and
    parses it again for that, its weights each time."""
    light = ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy(light, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy(light.graph, field.name, value)
    light.graph.initializer.extend(map(_without_values, model.graph.initializer))
    inferred = onnx.shape_inference.infer_shapes(light, **options).graph
    for name in ("node", "value_info", "output"):
        model.graph.ClearField(name)
        getattr(model.graph, name).extend(getattr(inferred, name))
    return model


def _copy(message: Any, name: str, value: Any) -> None:  # noqa: ANN401 - any field of a message
    single = getattr(message, name)
    if hasattr(single, "extend"):
        single.extend(value)
    elif hasattr(single, "CopyFrom"):
        single.CopyFrom(value)
    else:
        setattr(message, name, value)


def _without_values(tensor: TensorProto) -> TensorProto:
    """The tensor itself where it is small: inference reads the values of shapes and axes."""
    if tensor.ByteSize() < INLINE_BYTES:
        return tensor
    bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    bare.data_location = TensorProto.EXTERNAL
    bare.external_data.add(key="location", value="left out")
    return bare
