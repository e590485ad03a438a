"""Patterns of `keep_fp32`."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from engineforge.stages.precision.graph import named
from engineforge.stages.precision.patterns import look_up, matches

pytest.importorskip("onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'")
from tests.stages.precision.nets import branched, paddle, residual


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("first", ["first"]),
        ("relu*", ["relu", "relu2"]),
        ("type:Conv", ["first", "second", "third"]),
        ("type:*Norm*", ["norm"]),
        ("TYPE:Conv", []),
        ("Relu", []),
        ("type:conv", []),
    ],
)
def test_a_pattern_means_names_or_types(tmp_path: Path, pattern: str, names: list[str]) -> None:
    model = named(residual(tmp_path / "m.onnx"))
    assert matches(model, [pattern]) == {pattern: names}


def test_patterns_reach_into_subgraphs(tmp_path: Path) -> None:
    model = named(branched(tmp_path / "m.onnx"))
    assert matches(model, ["type:MatMul", "conv"]) == {
        "type:MatMul": ["outer", "product"],
        "conv": ["conv"],
    }


def test_nodes_without_names_have_some_to_match(tmp_path: Path) -> None:
    model = named(paddle(tmp_path / "m.onnx"))
    assert matches(model, ["HardSigmoid_*", "Softmax_0"]) == {
        "HardSigmoid_*": ["HardSigmoid_0"],
        "Softmax_0": ["Softmax_0"],
    }


def test_names_that_exist_are_never_given_twice(tmp_path: Path) -> None:
    path = residual(tmp_path / "m.onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        node.name = "Relu_0" if node.op_type == "Conv" else ""
    onnx.save(model, path)
    names = [node.name for node in named(path).graph.node]
    assert len(set(names)) == len(names)
    assert names[:3] == ["Relu_0", "Relu_1", "Conv_0"]


def test_a_pattern_that_means_nothing_is_answered_with_what_is_near(tmp_path: Path) -> None:
    found = look_up(residual(tmp_path / "m.onnx"), ["/First", "type:Relo", "first"])
    assert dict(found.unmatched) == {
        "/First": "nodes of the model: 'first'",
        "type:Relo": "operator types of the model: 'Relu'",
    }


def test_the_first_product_that_is_kept_is_told(tmp_path: Path) -> None:
    path = residual(tmp_path / "m.onnx")
    assert look_up(path, ["first", "he*"]).product == "head"
    assert look_up(path, ["first"]).product is None
