from __future__ import annotations

import logging
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import calibrate, registry

from engineforge.errors import EngineForgeError
from engineforge.stages.precision.contained import ModelOptFailed, infer_shapes
from tests.models import convnet, save
from tests.stages.precision.modelopt_modes import (
    BF16,
    FP8,
    FP16,
    INT4,
    INT8,
    MODES,
    NETS,
    Mode,
    chain,
    digits,
    noise,
    prepared,
    quantized,
    run,
    types,
)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@pytest.mark.parametrize("mode", [m for m in MODES if m.quantizes and m.method != "rtn"], ids=str)
def test_without_data_nothing_is_calibrated(mode: Mode, tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(ModelOptFailed, match="needs calibration data, found none"):
        mode(tmp_path / "not even read.onnx", scratch)


@pytest.mark.parametrize("mode", [FP16, BF16], ids=str)
def test_without_data_nothing_is_run(mode: Mode, tmp_path: Path, scratch: Path) -> None:
    # With every unknown dimension taken for 1, as the library does, no run of this is possible.
    path = convnet(tmp_path / "net.onnx", dims=("batch", "channels", "height", "width"))
    result = mode(prepared(path, tmp_path / "in", mode.opset), scratch)
    assert types(result)["/conv/Conv"] == TensorProto.DataType.Value(
        "FLOAT16" if mode is FP16 else "BFLOAT16"
    )


def overflowing(path: Path, mode: Mode) -> Path:
    """Three products; what the first gives is 2^16 times what the second gives the third."""
    model = onnx.load(chain(path, "up", "down", "last", opset=mode.opset))
    for tensor in model.graph.initializer:
        scale = {"up.w": 2.0**16, "down.w": 2.0**-16}.get(tensor.name)
        if scale:
            scaled = numpy_helper.to_array(tensor) * np.float32(scale) / 8
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    "mode", [FP16, Mode("int8", around="fp16", opset=19), Mode("fp8", around="fp16", opset=19)]
)
def test_what_overflows_on_the_data_stays_fp32(mode: Mode, tmp_path: Path, scratch: Path) -> None:
    model = overflowing(tmp_path / "net.onnx", mode)
    result = types(mode(model, scratch, feeds=noise(4, 32)))
    assert result["up"] == result["up.relu"] == result["down"] == TensorProto.FLOAT
    assert result["last"] == TensorProto.FLOAT16


def test_without_data_weights_alone_tell_what_overflows(tmp_path: Path, scratch: Path) -> None:
    model = onnx.load(chain(tmp_path / "net.onnx", "wide", "last"))
    wide = next(t for t in model.graph.initializer if t.name == "wide.w")
    wide.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(wide) * np.float32(1e6), "wide.w"))
    onnx.save(model, tmp_path / "net.onnx")
    result = types(FP16(tmp_path / "net.onnx", scratch))
    assert result["wide"] == TensorProto.FLOAT
    assert result["last"] == TensorProto.FLOAT16


def test_bf16_reaches_as_far_as_fp32(tmp_path: Path, scratch: Path) -> None:
    model = overflowing(tmp_path / "net.onnx", BF16)
    result = types(BF16(model, scratch, feeds=noise(4, 32)))
    assert result["up"] == result["down"] == TensorProto.BFLOAT16


@pytest.mark.parametrize("method", ["rtn", "awq_clip", "awq_lite"])
def test_int4_of_a_transposed_gemm_has_blocks_along_the_inner_dimension(
    method: str, tmp_path: Path, scratch: Path
) -> None:
    model = chain(tmp_path / "net.onnx", "fc", op="Gemm", size=64)
    result = Mode("int4", method)(model, scratch, feeds=noise(64, 64))
    dims = {t.name: list(t.dims) for t in result.graph.initializer}
    (dequantize,) = (n for n in result.graph.node if n.op_type == "DequantizeLinear")
    attributes = {a.name: helper.get_attribute_value(a) for a in dequantize.attribute}
    assert dims[dequantize.input[1]] == [2, 64]
    assert attributes == {"axis": 0, "block_size": 32}
    feed = {"x": np.random.default_rng(2).standard_normal((16, 64)).astype(np.float32)}
    (expected,), (found,) = run(onnx.load(model), feed), run(result, feed)
    assert np.linalg.norm(found - expected) < 0.15 * np.linalg.norm(expected)


def test_int4_leaves_a_layer_whose_last_block_would_be_a_part_of_one(
    tmp_path: Path, scratch: Path
) -> None:
    model = chain(tmp_path / "net.onnx", "fc", size=48)
    with pytest.raises(ModelOptFailed, match="finds nothing to quantize to 'int4'"):
        INT4(model, scratch)


def test_int4_turns_a_shared_weight_for_its_gemm_alone(tmp_path: Path, scratch: Path) -> None:
    model = onnx.load(chain(tmp_path / "net.onnx", "a", "b", op="Gemm"))
    gemms = [node for node in model.graph.node if node.op_type == "Gemm"]
    gemms[1].input[1] = "a.w"
    gemms[1].ClearField("attribute")
    onnx.save(model, tmp_path / "net.onnx")
    feed = {"x": np.random.default_rng(2).standard_normal((16, 32)).astype(np.float32)}
    (expected,), (found,) = run(model, feed), run(INT4(tmp_path / "net.onnx", scratch), feed)
    assert np.linalg.norm(found - expected) < 0.2 * np.linalg.norm(expected)


def test_a_layer_is_not_left_out_because_one_sample_is_no_batch(
    tmp_path: Path, scratch: Path
) -> None:
    model = chain(tmp_path / "net.onnx", "fc")
    assert "fc" in quantized(INT8(model, scratch, feeds=noise(1, 32)))


@pytest.mark.parametrize("mode", [INT8, FP8], ids=str)
def test_weights_are_stored_quantized(mode: Mode, tmp_path: Path, scratch: Path) -> None:
    result = mode(chain(tmp_path / "net.onnx", "fc"), scratch, feeds=noise(4, 32))
    weights = {t.name: t.data_type for t in result.graph.initializer}
    assert weights["fc.w"] == (TensorProto.INT8 if mode is INT8 else TensorProto.FLOAT8E4M3FN)


@pytest.mark.parametrize(
    ("mode", "most"),
    [(FP16, 2), (INT8, 2), (Mode("int8", "entropy"), 2), (Mode("int4", "awq_clip"), 130)],
    ids=str,
)
def test_samples_are_not_held(mode: Mode, most: int, tmp_path: Path, scratch: Path) -> None:
    alive: list[weakref.ref[NDArray[Any]]] = []
    held = []

    def feeds() -> Iterator[Mapping[str, NDArray[Any]]]:
        for feed in noise(2, 32, count=500)():
            alive.append(weakref.ref(feed["x"]))
            held.append(sum(each() is not None for each in alive))
            yield feed

    mode(chain(tmp_path / "net.onnx", "fc"), scratch, feeds=feeds)
    assert len(held) >= 500
    assert max(held) <= most


def _traces() -> list[object]:
    """What the library may change of a process, and would leave so."""
    root = logging.getLogger()
    return [
        (*root.handlers,),
        root.level,
        root.manager.disable,
        tempfile.tempdir,
        {**registry.QDQRegistry},
        {**registry.QLinearOpsRegistry},
        calibrate.create_calibrator,
        {**vars(calibrate.CalibraterBase)},
        {**vars(calibrate.MinMaxCalibrater)},
        sorted(Path(tempfile.gettempdir()).iterdir()),
    ]


@pytest.mark.parametrize(
    "mode", [FP16, Mode("int8", "entropy", "fp16"), Mode("int4", "awq_clip", "fp16")], ids=str
)
def test_the_library_leaves_no_traces(
    mode: Mode,
    tmp_path: Path,
    scratch: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = chain(tmp_path / "net.onnx", "a", "b")
    # One of its own: others write into that of the machine meanwhile.
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    before = _traces()
    mode(model, scratch, feeds=noise(4, 32))
    assert before == _traces()
    assert capfd.readouterr() == ("", "")
    assert not [*scratch.iterdir()]
    assert [*model.parent.iterdir()] == [model]


@pytest.mark.parametrize("mode", [FP16, INT8, INT4], ids=str)
def test_weights_in_a_file_of_their_own_give_the_same_bytes(
    mode: Mode, tmp_path: Path, scratch: Path
) -> None:
    model = chain(tmp_path / "net.onnx", "a", "b")
    beside = tmp_path / "beside" / "model.onnx"
    beside.parent.mkdir()
    onnx.save(onnx.load(model), beside, save_as_external_data=True, location="w", size_threshold=0)
    results = [mode(path, scratch, feeds=noise(4, 32)) for path in (model, beside)]
    assert [t for t in results[1].graph.initializer if t.data_location] == []
    assert results[0].SerializeToString(deterministic=True) == results[1].SerializeToString(
        deterministic=True
    )


def test_unnamed_dimensions_stay_unnamed(tmp_path: Path, scratch: Path) -> None:
    # The library calls all of them 'unk', and TensorRT holds what has one name equal.
    path = convnet(tmp_path / "net.onnx", dims=(None, 3, None, None))
    result = FP16(prepared(path, tmp_path / "in", 17), scratch, keep_io_types=False)
    dims = result.graph.input[0].type.tensor_type.shape.dim
    assert [dim.WhichOneof("value") for dim in dims] == [None, "dim_value", None, None]


def test_a_foreign_operator_is_refused(tmp_path: Path, scratch: Path) -> None:
    model = onnx.load(chain(tmp_path / "net.onnx", "a"))
    model.graph.node[1].op_type = "NewestNorm"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelOptFailed, match=r"'a\.relu' is a 'NewestNorm'"):
        FP16(tmp_path / "net.onnx", scratch)


def test_a_quantized_model_is_refused(tmp_path: Path, scratch: Path) -> None:
    model = chain(tmp_path / "net.onnx", "a")
    onnx.save(INT8(model, scratch, feeds=noise(4, 32)), model)
    with pytest.raises(ModelOptFailed, match="is quantized already"):
        INT8(model, scratch, feeds=noise(4, 32))


def test_a_bad_sample_is_reported_as_itself(tmp_path: Path, scratch: Path) -> None:
    def feeds() -> Iterator[Mapping[str, NDArray[Any]]]:
        yield from noise(4, 32)()
        raise EngineForgeError("sample 8 of 'a.npz' is bad")

    with pytest.raises(EngineForgeError, match=r"^sample 8 of 'a\.npz' is bad$"):
        INT8(chain(tmp_path / "net.onnx", "a"), scratch, feeds=feeds)


def test_what_the_library_says_is_passed_on(tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(ModelOptFailed, match=r"'modelopt' failed: .*Got invalid dimensions"):
        INT8(chain(tmp_path / "net.onnx", "a"), scratch, feeds=noise(4, 31))


def test_subgraphs_are_measured_with_their_weights_where_they_are(
    tmp_path: Path, scratch: Path
) -> None:
    weights = np.random.default_rng(0).standard_normal((3, 32, 32)).astype(np.float32) / 4

    def branch(name: str, weight: NDArray[np.float32]) -> onnx.GraphProto:
        return helper.make_graph(
            [helper.make_node("MatMul", ["h", f"{name}.w"], [f"{name}.y"], name=name)],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, ["batch", 32])],
            [numpy_helper.from_array(weight, f"{name}.w")],
        )

    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
            helper.make_node(
                "If",
                ["c"],
                ["y"],
                name="choice",
                then_branch=branch("then", weights[1]),
                else_branch=branch("else", weights[2]),
            ),
        ],
        "choosing",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 32])],
        [numpy_helper.from_array(weights[0], "w")],
    )
    model = prepared(save(graph, tmp_path / "net.onnx"), tmp_path / "in", 19)

    def feeds() -> Iterator[Mapping[str, NDArray[Any]]]:
        return ({**feed, "c": np.array(at % 2 == 0)} for at, feed in enumerate(noise(4, 32)()))

    result = Mode("int8", around="fp16", opset=19)(model, scratch, feeds=feeds)
    onnx.checker.check_model(result, full_check=True)
    feed = next(feeds())
    (expected,), (found,) = run(onnx.load(model), feed), run(result, feed)
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", NETS)
def test_inference_without_weights_finds_what_onnx_finds(name: str) -> None:
    model = onnx.load(digits(name).path)
    expected = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert infer_shapes(model, strict_mode=True) == expected
