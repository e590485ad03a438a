"""`engineforge init`: what it writes is planned and built as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from tests.conftest import Forge
from tests.models import Dim, convnet, elementwise, save


@pytest.fixture
def empty(forge: Forge) -> Forge:
    """A folder without any specs."""
    for path in (*forge.specs.glob("*.yaml"), forge.model):
        path.unlink()
    return forge


def _value(name: str, kind: int, dims: Sequence[Dim]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def _shaped(path: Path, operator: str) -> Path:
    """`x` and `shape`, which says what `x` becomes."""
    graph = helper.make_graph(
        [
            helper.make_node(operator, ["x", "shape"], ["r"], name="op"),
            helper.make_node("Relu", ["r"], ["y"], name="relu"),
        ],
        "g",
        [_value("x", TensorProto.FLOAT, ["n", 4, 6]), _value("shape", TensorProto.INT64, [3])],
        [_value("y", TensorProto.FLOAT, [None, None, None])],
    )
    return save(graph, path)


def _top(path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("TopK", ["x", "k"], ["v", "i"], name="top")],
        "g",
        [_value("x", TensorProto.FLOAT, ["n", 100]), _value("k", TensorProto.INT64, [1])],
        [
            _value("v", TensorProto.FLOAT, [None, None]),
            _value("i", TensorProto.INT64, [None, None]),
        ],
    )
    return save(graph, path)


def _half(path: Path) -> Path:
    values = [_value(name, TensorProto.FLOAT16, ["n", 8]) for name in "xy"]
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    return save(helper.make_graph([node], "g", values[:1], values[1:]), path)


def _old(path: Path) -> Path:
    values = [_value(name, TensorProto.FLOAT, ["n", 8]) for name in "xy"]
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    save(graph, path)
    made = onnx.load(path)
    made.opset_import[0].version = 9
    onnx.save(made, path)
    return path


MODELS: dict[str, Callable[[Path], Path]] = {
    "dynamic": convnet,
    "static": lambda path: convnet(path, dims=(1, 3, 16, 16)),
    "images": lambda path: convnet(path, dims=("N", 3, "H", "W")),
    "unnamed": lambda path: convnet(path, dims=(None, 3, None, None)),
    "external": lambda path: convnet(path, external="weights.bin"),
    "several": lambda path: elementwise(path, inputs=[(n, ["batch", "seq"]) for n in "abc"]),
    "reshape": lambda path: _shaped(path, "Reshape"),
    "expand": lambda path: _shaped(path, "Expand"),
    "topk": _top,
    "half": _half,
    "old": _old,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_what_is_written_builds_as_it_is(empty: Forge, kind: str) -> None:
    MODELS[kind](empty.root / "models" / "net.onnx")
    done = empty.run("init", "models/net.onnx")
    assert done.code == 0, done.err
    built = empty.build()
    assert built.code == 0, built.err
    variants = {"source"} if kind == "half" else {"fp32", "fp16"}
    assert built.outcomes() == {f"{each}@rtx-cuda13": "built" for each in variants}


def test_a_model_and_nothing_else_is_enough(empty: Forge) -> None:
    convnet(empty.root / "net.onnx")
    done = empty.run("init", "net.onnx")
    assert done.code == 0, done.err
    assert "wrote specs/targets.yaml, with the targets of this host" in done.err
    assert "next: engineforge build specs/net.yaml" in done.err
    assert empty.plan()


_THREE = ("min", "opt", "max")


@pytest.mark.parametrize(
    ("dims", "ranges"),
    [
        (("batch", 3, 16, 16), ([1, 3, 16, 16], [4, 3, 16, 16], [8, 3, 16, 16])),
        ((1, 3, "height", "width"), ([1, 3, 64, 64], [1, 3, 256, 256], [1, 3, 1024, 1024])),
        ((None, None, None), ([1, 1, 1], [4, 128, 128], [8, 512, 512])),
        (("n", "h", "w", 3), ([1, 64, 64, 3], [4, 256, 256, 3], [8, 1024, 1024, 3])),
        ((1, None, 8, 8, 8), ([1, 3, 8, 8, 8],) * 3),
        (("seq_len", "batch", 7), ([1, 1, 7], [128, 4, 7], [512, 8, 7])),
    ],
)
def test_ranges_are_guessed_by_name_and_position(
    empty: Forge, dims: Sequence[Dim], ranges: Sequence[list[int]]
) -> None:
    elementwise(empty.root / "net.onnx", inputs=[("x", dims)])
    assert empty.run("init", "net.onnx").code == 0
    assert yaml.safe_load((empty.specs / "net.yaml").read_text())["inputs"] == {
        "x": dict(zip(_THREE, ranges, strict=True))
    }


def test_dimensions_of_one_name_get_one_range(empty: Forge) -> None:
    elementwise(empty.root / "net.onnx", inputs=[("a", ["n", "s"]), ("b", ["s", "n"])])
    done = empty.run("init", "net.onnx")
    assert done.code == 0, done.err


def test_nothing_is_overwritten(empty: Forge) -> None:
    convnet(empty.root / "net.onnx")
    file = empty.spec("net", "mine: true\n")
    done = empty.run("init", "net.onnx")
    assert done.code == 2
    assert file.read_text() == "mine: true\n"
    assert not (empty.specs / "targets.yaml").exists()


def test_targets_that_are_there_are_used(empty: Forge) -> None:
    targets = "mine: {backend: tensorrt_rtx, version: 1.7.1.116, compute_capabilities: [8.9]}\n"
    empty.spec("targets", targets)
    convnet(empty.root / "net.onnx")
    assert empty.run("init", "net.onnx", "-o", "specs/below/other.yaml").code == 0
    spec = yaml.safe_load((empty.specs / "below" / "other.yaml").read_text())
    assert spec["targets"] == ["mine"]
    assert spec["model"]["source"]["path"] == "../../net.onnx"
    assert (empty.specs / "targets.yaml").read_text() == targets


def test_a_model_that_cannot_be_built_is_said_at_once(empty: Forge) -> None:
    values = [_value(name, TensorProto.STRING, [4]) for name in "xy"]
    node = helper.make_node("Identity", ["x"], ["y"], name="i")
    save(helper.make_graph([node], "g", values[:1], values[1:]), empty.root / "net.onnx")
    done = empty.run("init", "net.onnx")
    assert done.code == 2
    assert "TensorRT has no inputs or outputs of the type of 'x' string [4]" in done.err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.onnx", b"\x08\x08\x3a\xff\x01", "no readable ONNX model"),
        ("text.onnx", b"hello", "no readable ONNX model"),
        ("empty.onnx", b"", "the file is empty"),
        ("net.pt", b"PK", "source: {pytorch: {torchscript: FILE.pt}}"),
        ("net.engine", b"ftrt", "engineforge show"),
    ],
)
def test_what_is_no_model_is_said_and_nothing_written(
    empty: Forge, name: str, content: bytes, said: str
) -> None:
    (empty.root / name).write_bytes(content)
    done = empty.run("init", name)
    assert done.code == 2
    assert said in done.err
    assert not list(empty.specs.glob("*.yaml"))


def test_a_folder_is_no_model(empty: Forge) -> None:
    (empty.root / "saved").mkdir()
    (empty.root / "saved" / "saved_model.pb").touch()
    assert "saved_model: saved" in empty.run("init", "saved").err
    assert empty.run("init", "none.onnx").code == 2


@pytest.mark.parametrize(
    ("output", "code"), [("net.onnx/net.yaml", 2), ("net.onnx/below/net.yaml", 5)]
)
def test_a_place_that_cannot_be_written_is_said(empty: Forge, output: str, code: int) -> None:
    convnet(empty.root / "net.onnx")
    done = empty.run("init", "net.onnx", "-o", output)
    assert done.code == code
    assert "with -o" in done.err


def test_the_next_command_is_one_that_a_shell_takes(empty: Forge) -> None:
    convnet(empty.root / "a net;.onnx")
    done = empty.run("init", "a net;.onnx")
    assert "next: engineforge build 'specs/a net;.yaml'" in done.err
