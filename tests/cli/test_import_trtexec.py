"""`engineforge import-trtexec`, from a command line to engines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from tests.conftest import Forge
from tests.drafting.lines import LINES, Line, model
from tests.models import convnet, save


@pytest.fixture
def empty(forge: Forge) -> Forge:
    """A folder without any specs."""
    for path in (*forge.specs.glob("*.yaml"), forge.model):
        path.unlink()
    convnet(forge.root / "net.onnx")
    return forge


SHAPES = "--minShapes=image:1x3x16x16 --optShapes=image:2x3x16x16 --maxShapes=image:4x3x16x16"


def test_a_command_line_is_built_at_once(empty: Forge) -> None:
    done = empty.run("import-trtexec", "-o", "specs", f"trtexec --onnx=net.onnx {SHAPES} --fp16")
    assert done.code == 0, done.err
    assert "next: engineforge build specs/net.yaml" in done.err
    built = empty.build()
    assert built.code == 0, built.err
    assert built.outcomes() == {"fp16@rtx-cuda13": "built"}


def test_a_command_may_stand_without_quotes(empty: Forge) -> None:
    done = empty.run("import-trtexec", "trtexec", "--onnx=net.onnx", "--noTF32")
    assert done.code == 0, done.err
    spec = yaml.safe_load(done.out)
    assert spec["model"]["source"]["path"] == "../net.onnx"
    assert spec["builder"] == {"tf32": False}


def test_options_behind_a_command_in_quotes_are_not_lost_in_silence(empty: Forge) -> None:
    done = empty.run("import-trtexec", "trtexec --onnx=net.onnx --fp16", "-o", "specs")
    assert done.code == 2
    assert "'-o specs' stands behind the command line" in done.err


def test_a_script_is_read_from_stdin(empty: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "trtexec --onnx=net.onnx --saveEngine=a.plan\ntrtexec --onnx=net.onnx --saveEngine=b.plan\n"
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(script))
    done = empty.run("import-trtexec", "-o", "specs")
    assert done.code == 0, done.err
    assert sorted(path.name for path in empty.specs.glob("*.yaml")) == [
        "a.yaml",
        "b.yaml",
        "targets.yaml",
    ]


def test_what_is_printed_for_several_commands_are_several_documents(
    empty: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("trtexec --onnx=a.onnx\ntrtexec --onnx=b.onnx\n"))
    done = empty.run("import-trtexec")
    assert len(list(yaml.safe_load_all(done.out))) == 2


def test_nothing_is_overwritten(empty: Forge) -> None:
    file = empty.spec("net", "mine: true\n")
    done = empty.run("import-trtexec", "-o", file, "trtexec --onnx=net.onnx")
    assert done.code == 2
    assert file.read_text() == "mine: true\n"
    assert "nothing is overwritten" in done.err


def test_targets_that_are_there_are_used(empty: Forge) -> None:
    empty.spec(
        "targets",
        "mine: {backend: tensorrt_rtx, version: 1.7.1.116, compute_capabilities: [8.9]}\n",
    )
    done = empty.run("import-trtexec", "trtexec --onnx=net.onnx")
    assert yaml.safe_load(done.out)["targets"] == ["mine"]
    assert empty.run("import-trtexec", "--target", "other", "trtexec --onnx=m.onnx").code == 2


def test_a_model_at_hand_is_looked_at(empty: Forge) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="d"),
    ]
    tensors = [
        onnx.numpy_helper.from_array(np.array(0.1, np.float32), "s"),
        onnx.numpy_helper.from_array(np.array(0, np.int8), "z"),
    ]
    io_ = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "xy"]
    save(helper.make_graph(nodes, "g", io_[:1], io_[1:], tensors), empty.root / "qat.onnx")
    done = empty.run("import-trtexec", "trtexec --onnx=qat.onnx --int8 --fp16")
    assert yaml.safe_load(done.out)["variants"] == {"source": {"precision": "source"}}
    assert "the model itself is quantized" in done.err


def test_samples_make_int8_build(empty: Forge) -> None:
    random = np.random.default_rng(0)
    np.savez(empty.root / "s.npz", image=random.standard_normal((16, 3, 16, 16), dtype=np.float32))
    done = empty.run(
        "import-trtexec", "-o", "specs", "--calibration", "s.npz",
        f"trtexec --onnx=net.onnx {SHAPES} --int8 --fp16",
    )  # fmt: skip
    assert done.code == 0, done.err
    built = empty.build()
    assert built.outcomes() == {"int8@rtx-cuda13": "built"}, built.err


def test_int8_without_samples_says_so_when_it_is_built(empty: Forge) -> None:
    empty.run("import-trtexec", "-o", "specs", f"trtexec --onnx=net.onnx {SHAPES} --int8")
    built = empty.build()
    assert built.code != 0
    assert "calibration.npz" in built.err


def test_a_command_that_builds_nothing_is_refused_with_what_does_the_same(empty: Forge) -> None:
    done = empty.run("import-trtexec", "trtexec --loadEngine=e.plan --duration=5")
    assert done.code == 2
    assert "hint: to measure it: engineforge bench e.plan --duration 5" in done.err


def test_of_several_commands_those_that_can_be_are_translated(
    empty: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("trtexec --onnx=a.onnx\ntrtexec --uff=b\n"))
    done = empty.run("import-trtexec", "--json")
    assert done.code == 2
    found = json.loads(done.out)
    assert [each["name"] for each in found["specs"]] == ["a"]
    assert found["refused"][0]["reasons"][0]["flag"] == "uff"


@pytest.mark.parametrize("text", ["ls", "trtexec --onnx='m", "trtexec"])
def test_text_without_a_command_is_a_usage_error(empty: Forge, text: str) -> None:
    assert empty.run("import-trtexec", text).code == 2


_BUILT = [line for line in LINES if line.build]


@pytest.mark.slow
@pytest.mark.parametrize("line", _BUILT, ids=[line.source for line in _BUILT])
def test_what_people_wrote_builds(empty: Forge, line: Line) -> None:
    draft = empty.run("import-trtexec", "--json", line.text)
    (spec,) = json.loads(draft.out)["specs"]
    path = (empty.specs / spec["spec"]["model"]["source"]["path"]).resolve()
    model(path, spec["spec"].get("inputs", {}), integers="int32:chw" in line.text)
    file = Path("specs/made.yaml")
    done = empty.run("import-trtexec", "-o", file, line.text)
    assert done.code == 0, done.err
    built = empty.build()
    assert built.code == 0, built.err
    assert set(built.outcomes().values()) == {"built"}


def test_more_than_ten_of_them_are_built() -> None:
    assert len(_BUILT) > 10
