"""Golden pairs: each file of `bad/` ends in exactly what `engineforge check` says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.conftest import CLASSIC, SPEC, TARGETS, Forge
from tests.models import convnet, elementwise, save

BAD = Path(__file__).parent / "bad"
MORE_TARGETS = """\
turing:
  backend: tensorrt_rtx
  version: 1.7.1.116
  compute_capabilities: [7.5]
hopper:
  backend: tensorrt_rtx
  version: 1.7.1.116
  compute_capabilities: [9.0]
tuned:
  backend: tensorrt_rtx
  version: 1.7.1.116
  compute_capabilities: [8.9]
  builder: {optimization_level: 3}
"""


@pytest.fixture
def project(forge: Forge) -> Forge:
    """The models that the bad specs name, and a target of every kind."""
    models = forge.specs / "models"
    forge.spec("targets", TARGETS + MORE_TARGETS + CLASSIC)
    elementwise(models / "pair.onnx", inputs=[("left", ("batch", 8)), ("right", ("batch", 8))])
    elementwise(models / "unnamed.onnx", inputs=[("x", ("?", 3, "?", "?"))])
    elementwise(models / "line.onnx", inputs=[("x", ("batch", 3, 48, "width"))])
    elementwise(models / "square.onnx", inputs=[("x", ("n", "n"))])
    _half(models / "half.onnx")
    _shape_tensor(models / "reshape.onnx")
    (models / "text.onnx").write_text("no model")
    np.savez(forge.specs / "data.npz", image=np.zeros((8, 3, 16, 16), np.float32))
    convnet(models / "orphan.onnx", external="weights.bin")
    (models / "weights.bin").unlink()
    return forge


def _half(path: Path) -> None:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [4])]
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="/relu")]
    save(helper.make_graph(nodes, "half", inputs, outputs), path)


def _shape_tensor(path: Path) -> None:
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["h", "w"])]
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"], name="/reshape")]
    save(helper.make_graph(nodes, "reshape", inputs, outputs), path)


def _expected(text: str) -> str:
    """The comment block after `# expect:`, without its comment signs."""
    _, block = text.split("# expect:\n")
    return "".join(line.removeprefix("# ") for line in block.splitlines(keepends=True))


@pytest.mark.parametrize("name", sorted(path.stem for path in BAD.glob("*.yaml")))
def test_a_bad_spec_is_told_exactly_what_is_wrong(project: Forge, name: str) -> None:
    text = (BAD / f"{name}.yaml").read_text()
    result = project.run("check", project.spec(name, text).relative_to(project.root))
    *said, _ = result.err.splitlines(keepends=True)
    assert "".join(said) == _expected(text)
    assert result.code == 2


@pytest.mark.parametrize("name", sorted(path.stem for path in (BAD / "targets").glob("*.yaml")))
def test_a_bad_targets_file_is_told_exactly_what_is_wrong(forge: Forge, name: str) -> None:
    text = (BAD / "targets" / f"{name}.yaml").read_text()
    forge.spec("targets", text)
    result = forge.run("check")
    *said, _ = result.err.splitlines(keepends=True)
    assert "".join(said) == _expected(text)
    assert result.code == 2


GOOD = {
    "options under another backend's name": """\
model: {source: {path: models/pair.onnx}}
inputs: {left: [1, 8], right: [1, 8]}
builder: {tensorrt: {optimization_level: 4}}
targets: [ada]
""",
    "height and width that are both unnamed are two sizes": """\
model: {source: {path: models/unnamed.onnx}}
inputs: {x: {min: [1, 3, 16, 32], opt: [2, 3, 16, 64], max: [4, 3, 32, 64]}}
targets: [ada]
""",
    "one dimension of one name in two inputs": """\
model: {source: {path: models/pair.onnx}}
inputs: {left: &same {min: [1, 8], opt: [2, 8], max: [4, 8]}, right: *same}
targets: [ada]
""",
    "a model without dynamic inputs needs no profile": """\
model: {source: {path: models/half.onnx}}
targets: [ada, h200]
""",
    "values for a shape tensor": """\
model: {source: {path: models/reshape.onnx}}
inputs:
  x: {min: [4], opt: [4], max: [16]}
  shape: {values: {min: [1, 1], opt: [2, 2], max: [4, 4]}}
targets: [h200]
""",
    "an option of each backend, each under its name": """\
model: {source: {path: models/pair.onnx}}
inputs: {left: [1, 8], right: [1, 8]}
builder: {tensorrt: {refit: true}, tensorrt_rtx: {require_user_allocation: true}}
targets: [ada, h200]
""",
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD.keys())
def test_what_is_allowed_is_not_complained_of(project: Forge, text: str) -> None:
    result = project.run("check", project.spec("good", text))
    assert (result.code, result.err) == (0, "")


def test_all_problems_of_all_files_are_reported_in_the_order_of_their_places(forge: Forge) -> None:
    forge.spec("b", SPEC.replace("[ada]", "[adda, ampere]").replace("image:", "imgae:"))
    forge.spec("a", "model: {source: {path: models/nett.onnx}}\ntargets: [ada]\nbulder: {}\n")
    forge.spec("folder/c", "model: {source: {path: ../models/nett.onnx}}\ntargets: [no]\n")
    result = forge.run("check")
    assert (
        result.err
        == """\
specs/a.yaml:1:18: model.source.path: 'models/nett.onnx' does not exist
hint: did you mean 'models/net.onnx'?
specs/a.yaml:3:1: bulder: unknown key
hint: did you mean 'builder'?
specs/b.yaml:4:3: inputs.imgae: the model has no input 'imgae'
hint: did you mean 'image'?
specs/b.yaml:5:11: targets[0]: unknown target 'adda': specs/targets.yaml has no such name
hint: did you mean 'ada'?
specs/folder/c.yaml:2:11: targets[0]: found the bare word no, which YAML 1.1 reads as false
hint: write false, or 'no' in quotes for the word
5 problems
"""
    )
    assert result.code == 2


def test_problems_are_data_too(forge: Forge) -> None:
    forge.edit("net", "image:", "imgae:")
    result = forge.run("check", "--json")
    (problem,) = result.json["problems"]
    assert (problem["file"], problem["line"], problem["column"]) == ("specs/net.yaml", 4, 3)
    assert problem["hint"] == "did you mean 'image'?"
    assert result.code == 2


def test_a_problem_that_two_variants_share_is_said_once(forge: Forge) -> None:
    forge.edit("net", "  fp32: {precision: fp32}", "  a: {}\n  b: {}\n  c: {}")
    forge.edit("net", "max: [8, 3, 16, 16]", "max: [8, 3, 16, 32]")
    assert forge.run("check").err.endswith("1 problem\n")
