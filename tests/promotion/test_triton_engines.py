"""What an export reads from the manifests that builds really write, with TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from engineforge.digest import digest_bytes
from engineforge.errors import EngineForgeError
from engineforge.promotion.triton.engines import Engine, Exported, engine_of
from engineforge.store.local import ENGINE
from engineforge.store.manifest import Manifest
from tests.conftest import Forge
from tests.models import save

RESHAPED = """\
model:
  source: {path: models/net.onnx}
inputs:
  x: {min: [1, 4], opt: [2, 4], max: [8, 4]}
  wanted: {values: {min: [1, 1], opt: [4, 2], max: [32, 4]}}
targets: [ampere]
variants:
  fp32: {precision: fp32}
"""


def exported(forge: Forge) -> Exported:
    (file,) = forge.engines()
    data = file.with_name("manifest.json").read_bytes()
    return Exported(
        spec="net",
        variant="fp32",
        target="ada",
        digest=digest_bytes(data),
        manifest=Manifest.from_bytes(data),
        file=file,
    )


def served(forge: Forge) -> Engine:
    return engine_of(exported(forge), backend="rtx")


def reshaping(path: Path) -> None:
    """`x` in the shape that `wanted`, an input, says; and that shape, of INT64."""
    nodes = [
        helper.make_node("Reshape", ["x", "wanted"], ["y"], name="reshape"),
        helper.make_node("Shape", ["y"], ["found"], name="shape"),
    ]
    graph = helper.make_graph(
        nodes,
        "reshaping",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("wanted", TensorProto.INT64, [2]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "columns"]),
            helper.make_tensor_value_info("found", TensorProto.INT64, [2]),
        ],
    )
    save(graph, path)


def test_a_build_records_its_tensors_for_an_export(built: Forge) -> None:
    image, logits = served(built).interface.tensors
    assert (image.name, image.data_type, image.dims) == ("image", "TYPE_FP32", (-1, 3, 16, 16))
    assert (logits.name, logits.data_type, logits.dims) == ("logits", "TYPE_FP32", (-1, 10))
    assert image.dimensions == ("batch", None, None, None)
    assert image.linear
    assert not image.shape_tensor


def test_an_engine_is_the_file_that_the_manifest_says(built: Forge) -> None:
    (file,) = built.engines()
    found = served(built)
    assert found.stored.size == file.stat().st_size
    assert found.stored.sha256 == exported(built).manifest.files[ENGINE].sha256
    assert found.interface.profiles[0]["image"].shape is not None


def test_shape_tensors_and_integers_are_recorded_as_tensorrt_has_them(forge: Forge) -> None:
    reshaping(forge.model)
    forge.spec("net", RESHAPED)
    result = forge.build()
    assert result.code == 0, result.err
    found = served(forge)
    inputs = {each.name: each for each in found.interface.inputs}
    outputs = {each.name: each for each in found.interface.outputs}
    assert inputs["wanted"].shape_tensor
    assert inputs["wanted"].data_type == "TYPE_INT64"
    assert inputs["wanted"].dims == (2,)
    assert not inputs["x"].shape_tensor
    assert not outputs["y"].shape_tensor
    assert outputs["y"].dims == (-1, -1)
    assert outputs["found"].data_type == "TYPE_INT64"
    assert found.capabilities == ("8.0", "8.6")
    assert found.file_name == "model_8_0_8_6.engine"
    values = found.interface.profiles[0]["wanted"].values
    assert values is not None
    assert np.prod(values.max) == 128


def test_triton_is_not_said_to_load_engines_of_tensorrt_rtx(built: Forge) -> None:
    with pytest.raises(EngineForgeError, match="classic TensorRT only") as raised:
        engine_of(exported(built), backend=None)
    assert "'net/fp32@ada'" in str(raised.value)
    assert "--backend NAME" in str(raised.value)
