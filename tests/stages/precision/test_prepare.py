"""Models made ready for tools."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engineforge.stages.precision.graph import (
    NotConvertible,
    array_of,
    nodes,
    opset_of,
    skeleton,
    write,
)
from engineforge.stages.precision.prepare import prepare
from engineforge.stages.sources.onnx import bind
from tests.models import branches, convnet

pytest.importorskip("onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'")
from tests.stages.precision.nets import (
    branched,
    constant,
    floats,
    graph,
    node,
    noise,
    paddle,
    residual,
    run,
    saved,
    weights,
)


def _prepared(path: Path, opset: int = 0) -> Path:
    for name in ("bound", "prepared"):
        (path.parent / name).mkdir()
    bound = bind(path, path.parent / "bound")
    return prepare(bound, opset=opset, out=path.parent / "prepared")


def test_constants_become_initializers_and_copies_of_them_vanish(tmp_path: Path) -> None:
    model = skeleton(_prepared(paddle(tmp_path / "m.onnx")))
    operators = Counter(node.op_type for node in nodes(model))
    assert "Constant" not in operators
    assert "Identity" not in operators
    assert "w2" in next(n for n in nodes(model) if n.op_type == "MatMul").input


@pytest.mark.parametrize("opset", [0, 13, 19, 21])
def test_a_prepared_model_computes_the_same(tmp_path: Path, opset: int) -> None:
    path = paddle(tmp_path / "m.onnx")
    (feed, *_) = noise(1, 3, 16, 16)
    expected = run(path, feed)[0]
    prepared = _prepared(path, opset)
    assert opset_of(skeleton(prepared)) == max(opset, 11)
    np.testing.assert_allclose(run(prepared, feed)[0], expected, rtol=1e-6)


def test_large_weights_are_in_one_file_at_pages(tmp_path: Path) -> None:
    prepared = _prepared(convnet(tmp_path / "m.onnx", external="w.bin"))
    held = {t.name: t for t in skeleton(prepared).graph.initializer}
    conv = held["conv.weight"]
    entries = {each.key: each.value for each in conv.external_data}
    assert entries["location"] == "weights"
    assert int(entries["offset"]) % 4096 == 0
    assert sorted(p.name for p in prepared.parent.iterdir()) == ["model.onnx", "weights"]
    expected = onnx.numpy_helper.to_array(onnx.load(tmp_path / "m.onnx").graph.initializer[0])
    assert array_of(conv, prepared).tobytes() == expected.tobytes()


def test_what_an_old_model_lists_as_inputs_too_is_an_initializer(tmp_path: Path) -> None:
    tensor = weights("w", 16, 16)
    made = graph([node("y = MatMul x w", "m")], [floats("x", 2, 16), floats("w", 16, 16)], [], [])
    made.output.append(floats("y", 2, 16))
    made.initializer.append(tensor)
    model = skeleton(_prepared(saved(made, tmp_path / "m.onnx", opset=8, ir_version=3)))
    assert [value.name for value in model.graph.input] == ["x"]
    assert model.ir_version >= 4


def test_what_a_graph_gives_out_stays_a_node(tmp_path: Path) -> None:
    prepared = _prepared(branches(tmp_path / "m.onnx", constant("", [1.0, 2.0])))
    assert Counter(n.op_type for n in nodes(skeleton(prepared)))["Constant"] == 2


def test_functions_are_inlined(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [node("b = Add a a", "add")], opsets[:1]
    )
    made = graph([node("y = Twice x", "twice", domain="own")], [floats("x", 2)], [floats("y", 2)])
    model = helper.make_model(made, opset_imports=opsets, functions=[function], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    assert [n.op_type for n in nodes(skeleton(_prepared(tmp_path / "m.onnx")))] == ["Add"]


def test_the_opset_of_graphs_inside_is_raised_too(tmp_path: Path) -> None:
    # Squeeze got its axes as an input in 13.
    inner = graph([node("o = Squeeze x", "squeeze", axes=[0])], [], [floats("o", 4)])
    made = graph(
        [node("y = If c", "if", then_branch=inner, else_branch=inner)],
        [floats("x", 1, 4), helper.make_tensor_value_info("c", TensorProto.BOOL, [])],
        [floats("y", 4)],
    )
    model = skeleton(_prepared(saved(made, tmp_path / "m.onnx", opset=11), 13))
    assert {len(n.input) for n in nodes(model) if n.op_type == "Squeeze"} == {2}


def test_an_opset_that_cannot_be_raised_is_told(tmp_path: Path) -> None:
    made = graph([node("y = Unheard x", "plugin")], [floats("x", 4)], [floats("y", 4)])
    with pytest.raises(NotConvertible, match="has opset 11, this precision needs 13") as error:
        _prepared(saved(made, tmp_path / "m.onnx", opset=11), 13)
    assert error.value.hint == "export the model with opset 13"


@pytest.mark.parametrize("make", [residual, paddle, branched])
def test_a_model_that_was_written_is_written_the_same(tmp_path: Path, make: object) -> None:
    assert callable(make)
    prepared = _prepared(make(tmp_path / "m.onnx"), 17)
    for name in ("once", "twice"):
        (tmp_path / name).mkdir()
    once = write(skeleton(prepared), tmp_path / "once", prepared)
    twice = write(onnx.load(once), tmp_path / "twice", once)
    assert once.read_bytes() == twice.read_bytes()
    assert [each.name for each in once.parent.iterdir()] == ["model.onnx"]
