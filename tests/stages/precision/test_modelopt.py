from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from tests.models import convnet
from tests.stages.precision.modelopt_modes import (
    FP16,
    MODES,
    NETS,
    Mode,
    Net,
    chain,
    digits,
    interface,
    noise,
    prepared,
    quantized,
    types,
)

each_mode = pytest.mark.parametrize("mode", MODES, ids=str)


each_net = pytest.mark.parametrize("net", [digits(name) for name in NETS], ids=NETS)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


@each_mode
@each_net
def test_every_precision_gives_a_valid_model_with_the_nodes_of_the_source(
    net: Net, mode: Mode, tmp_path: Path, scratch: Path
) -> None:
    model = prepared(net.path, tmp_path / "in", max(mode.opset, 17))
    source = onnx.load(model)
    result = mode(model, scratch, feeds=net.feeds)
    onnx.checker.check_model(result, full_check=True)
    names = [node.name for node in result.graph.node]
    assert all(names)
    assert len(names) == len(set(names))
    assert {node.name for node in source.graph.node} <= set(names)
    assert result.opset_import == source.opset_import
    assert interface(result) == interface(source)
    assert bool(quantized(result)) == mode.quantizes


@pytest.mark.parametrize("mode", [m for m in MODES if m.low == "fp32"], ids=str)
@each_net
def test_quantized_digits_are_as_right_as_before_within_a_point(
    net: Net, mode: Mode, tmp_path: Path, scratch: Path
) -> None:
    model = prepared(net.path, tmp_path / "in", max(mode.opset, 17))
    result = mode(model, scratch, feeds=lambda: net.feeds(256))
    assert net.top1(result) >= net.top1(onnx.load(model)) - 0.01


@pytest.mark.slow
def test_every_precision_builds_with_tensorrt_rtx_for_8_9(tmp_path: Path, scratch: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs: python -m pip install 'engineforge[rtx]'")
    nets = {
        "convnet": (convnet(tmp_path / "c.onnx", channels=32), noise(1, 3, 16, 16, name="image")),
        **{name: (digits(name).path, digits(name).feeds) for name in NETS},
    }
    files = {}
    for name, (path, feeds) in nets.items():
        shape = [
            d.dim_value or 2 for d in onnx.load(path).graph.input[0].type.tensor_type.shape.dim
        ]
        for mode in MODES:
            if name == "convnet" and mode.to == "fp8":
                continue  # its layers are too narrow
            model = prepared(path, tmp_path / f"{name}-{mode}", max(mode.opset, 17))
            onnx.save(mode(model, scratch, feeds=feeds), model)
            files[str(model)] = shape
    built = subprocess.run(
        [sys.executable, "-c", _BUILD, json.dumps(files)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert built.stdout.split() == ["built"] * len(files), built.stdout + built.stderr


_BUILD = """
import json, sys
import tensorrt_rtx as trt
log = trt.Logger(trt.Logger.ERROR)
for path, shape in json.loads(sys.argv[1]).items():
    builder = trt.Builder(log)
    network = builder.create_network()
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(path):
        print(path, *(parser.get_error(at).desc() for at in range(parser.num_errors)))
        continue
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("image", shape, shape, shape)
    config.add_optimization_profile(profile)
    print("built" if builder.build_serialized_network(network, config) else path)
"""


NAMES = ("/fc.1/MatMul", "/fc.1/MatMul_1", "/fcX1/MatMul", "/fc[1]/MatMul", "/fc/(a|b)+$/MatMul")


@pytest.mark.parametrize(
    "mode", [FP16, Mode("int8", around="fp16"), Mode("int4", "rtn", "fp16", 21)], ids=str
)
@pytest.mark.parametrize("kept", NAMES)
def test_nodes_to_keep_are_names_and_no_patterns(
    kept: str, mode: Mode, tmp_path: Path, scratch: Path
) -> None:
    model = chain(tmp_path / "net.onnx", *NAMES)
    result = mode(model, scratch, feeds=noise(4, 32), keep=(kept,))
    low = {name for name, given in types(result).items() if given == TensorProto.FLOAT16}
    assert low & {*NAMES} == {*NAMES} - {kept}
    if mode.quantizes:
        assert quantized(result) & {*NAMES} == {*NAMES} - {kept}


@pytest.mark.parametrize("mode", [m for m in MODES if m.low != "fp32"], ids=str)
def test_inputs_and_outputs_get_the_low_type_only_when_asked(
    mode: Mode, tmp_path: Path, scratch: Path
) -> None:
    model = chain(tmp_path / "net.onnx", "a", "b", opset=mode.opset)
    result = mode(model, scratch, feeds=noise(4, 32), keep_io_types=False)
    low = TensorProto.FLOAT16 if mode.low == "fp16" else TensorProto.BFLOAT16
    ends = (*result.graph.input, *result.graph.output)
    assert [end.type.tensor_type.elem_type for end in ends] == [low, low]
    assert [end.name for end in ends] == ["x", "y"]
    onnx.checker.check_model(result, full_check=True)


_DIGEST = """
import gc, sys
from pathlib import Path
from tests.stages.precision.test_modelopt import MODES, digest
gc.freeze()
for mode in MODES:
    print(digest(mode, Path(sys.argv[1]), Path(sys.argv[2])))
"""


def digest(mode: Mode, folder: Path, scratch: Path) -> str:
    net = digits("digits-transformer")
    model = prepared(net.path, folder / str(mode), max(mode.opset, 17))
    result = mode(model, scratch, feeds=net.feeds)
    return hashlib.sha256(result.SerializeToString(deterministic=True)).hexdigest()


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(tmp_path: Path) -> None:
    said = []
    for seed in ("1", "2"):
        folder, scratch = tmp_path / seed / "in", tmp_path / seed / "scratch"
        scratch.mkdir(parents=True)
        ended = subprocess.run(
            [sys.executable, "-c", _DIGEST, str(folder), str(scratch)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[3],
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        said.append(ended.stdout.split())
    assert len(said[0]) == len(MODES)
    assert said[0] == said[1]
