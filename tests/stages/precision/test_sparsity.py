"""2:4 pruning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto

from engineforge.errors import EngineForgeError
from tests.stages.precision.rtx import build

pytest.importorskip("onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'")
from tests.stages.precision.nets import (
    Typed,
    branched,
    constant,
    convert,
    floats,
    graph,
    node,
    noise,
    residual,
    saved,
    weights,
)


def _pruned(made: GraphProto, folder: Path, **settings: Any) -> Typed:  # noqa: ANN401
    settings = {"name": "fp32", **settings}
    path = saved(made, folder / "m.onnx")
    return convert(path, settings.pop("name"), sparsity="2:4", **settings)


def _product(tensor: TensorProto, operator: str = "MatMul", **attributes: object) -> GraphProto:
    columns, rows = tensor.dims[-1], tensor.dims[-2]
    if attributes.get("transB"):
        columns, rows = rows, columns
    body = [node(f"y = {operator} x w", "product", **attributes)]
    return graph(body, [floats("x", 2, rows)], [floats("y", 2, columns)], [tensor])


def _groups(values: NDArray[Any], axis: int) -> NDArray[Any]:
    return np.moveaxis(values, axis, -1).reshape(-1, 4)


@pytest.mark.parametrize(
    ("make", "axis"),
    [
        (_product(weights("w", 16, 6)), 0),
        (_product(weights("w", 16, 6), "Gemm"), 0),
        (_product(weights("w", 6, 16), "Gemm", transB=1), 1),
        (
            graph(
                [node("y = Conv x w", "conv", group=2)],
                [floats("x", 1, 16, 4, 4)],
                [floats("y", 1, 6, 2, 2)],
                [weights("w", 6, 8, 3, 3)],
            ),
            1,
        ),
        (
            graph(
                [node("y = Conv x w", "conv")],
                [floats("x", 1, 8, 9)],
                [floats("y", 1, 6, 7)],
                [weights("w", 6, 8, 3)],
            ),
            1,
        ),
    ],
    ids=["MatMul", "Gemm", "Gemm-transB", "Conv-groups", "Conv-1d"],
)
def test_the_two_largest_of_four_stay(tmp_path: Path, make: GraphProto, axis: int) -> None:
    before = _groups(onnx.numpy_helper.to_array(make.initializer[0]), axis)
    typed = _pruned(make, tmp_path)
    after = _groups(typed.tensor("w"), axis)
    assert (np.count_nonzero(after, 1) == 2).all()
    assert np.array_equal(after[after != 0], before[after != 0])
    lost = np.where(after == 0, np.abs(before), 0).max(1)
    assert (np.where(after != 0, np.abs(after), np.inf).min(1) >= lost).all()
    assert build(typed.path) > 0


def test_of_equal_magnitudes_the_first_stay(tmp_path: Path) -> None:
    tensor = constant("w", [[1, -1, 1, 1, 2, 1, 0, 1]])
    typed = _pruned(_product(tensor, "Gemm", transB=1), tmp_path)
    assert typed.tensor("w").tolist() == [[1, -1, 0, 0, 2, 1, 0, 0]]


def test_the_report_says_what_became_of_a_layer(tmp_path: Path) -> None:
    tensor = constant("w", [[3, 0, 4, 0, 1, 2, 2, 4]])
    typed = _pruned(_product(tensor, "Gemm", transB=1), tmp_path)
    assert typed.json("sparsity.json") == {
        "format": 2,
        "pattern": "2:4",
        "layers": [
            {
                "node": "product",
                "weight": "w",
                "shape": [1, 8],
                "state": "pruned",
                "zeroed": 0.25,
                "kept_energy": 0.9,
            }
        ],
    }
    assert typed.report["pruned"] == {"pruned": 1}


def test_weights_that_are_sparse_are_left_alone(tmp_path: Path) -> None:
    tensor = constant("w", [[3, 0, 4, 0, 0, 0, 0, 4]])
    typed = _pruned(_product(tensor, "Gemm", transB=1), tmp_path)
    (layer,) = typed.json("sparsity.json")["layers"]
    assert (layer["state"], layer["zeroed"], layer["kept_energy"]) == ("already", 0, 1)
    assert typed.tensor("w").tolist() == [[3, 0, 4, 0, 0, 0, 0, 4]]


def _reasons(typed: Typed) -> dict[str, str]:
    return {each["node"]: each.get("why", "") for each in typed.json("sparsity.json")["layers"]}


def test_what_is_not_eligible_says_why(tmp_path: Path) -> None:
    body = [
        node("e = Gather shared i", "embedding"),
        node("a = MatMul e shared", "tied"),
        node("b = MatMul a odd", "odd"),
        node("c = MatMul b own", "own"),
        node("d = MatMul c c2", "two"),
        node("y = MatMul d stack", "stacked"),
    ]
    tensors = [
        weights("shared", 8, 8),
        weights("odd", 8, 6),
        weights("own", 6, 8),
        weights("stack", 1, 8, 8),
        constant("i", [1, 2], np.int64),
    ]
    body.insert(4, node("c2 = Transpose c", "turn"))
    body[5] = node("d = MatMul c2 c", "two")
    body.append(node("z = MatMul e even", "even"))
    tensors.append(weights("even", 8, 4))
    made = graph(body, [floats("x", 1)], [floats("y", 1, 8, 8), floats("z", 2, 4)], tensors)
    assert _reasons(_pruned(made, tmp_path)) == {
        "tied": "'embedding' reads its weight too",
        "odd": "",
        "own": "its inner dimension is 6, no multiple of 4",
        "two": "its weight is no constant of the main graph",
        "stacked": "its weight has 3 dimensions",
        "even": "",
    }


def test_one_weight_of_two_layers_is_pruned_once(tmp_path: Path) -> None:
    body = [node("a = MatMul x w", "one"), node("y = MatMul a w", "two")]
    made = graph(body, [floats("x", 2, 16)], [floats("y", 2, 16)], [weights("w", 16, 16)])
    typed = _pruned(made, tmp_path)
    assert typed.report["pruned"] == {"pruned": 2}
    assert [t.name for t in typed.model.graph.initializer] == ["w"]


def test_one_weight_read_both_ways_is_left_alone(tmp_path: Path) -> None:
    body = [
        node("a = MatMul x w", "one"),
        node("b = Gemm a w", "two", transB=1),
        node("y = MatMul b v", "three"),
    ]
    tensors = [weights("w", 16, 16), weights("v", 16, 16)]
    made = graph(body, [floats("x", 2, 16)], [floats("y", 2, 16)], tensors)
    assert _reasons(_pruned(made, tmp_path)) == {
        "one": "'two' reads its weight too",
        "two": "'one' reads its weight too",
        "three": "",
    }


def test_layers_that_are_kept_keep_their_weights(tmp_path: Path) -> None:
    typed = convert(residual(tmp_path / "m.onnx"), "fp16", sparsity="2:4", keep_fp32=("first",))
    assert _reasons(typed)["first"] == "keep_fp32 keeps it as it is"
    assert np.count_nonzero(typed.tensor("w0")) == typed.tensor("w0").size


def test_layers_inside_branches_are_left_alone(tmp_path: Path) -> None:
    typed = convert(branched(tmp_path / "m.onnx"), "fp32", sparsity="2:4")
    assert _reasons(typed)["conv"] == "its weight is no constant of the main graph"


def test_nothing_to_prune_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineForgeError, match="there is nothing to prune"):
        _pruned(_product(weights("w", 6, 6)), tmp_path)


def _zeros(values: NDArray[Any]) -> int:
    return int((np.count_nonzero(_groups(values, 1), 1) <= 2).all())


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_zeros_survive_what_comes_after(tmp_path: Path, name: str) -> None:
    samples: Sequence[Any] | None = noise(1, 8, 8, 8) if name == "int8" else None
    typed = convert(residual(tmp_path / "m.onnx"), name, sparsity="2:4", samples=samples)
    for weight in ("w0", "w1", "w2", "w3"):
        assert _zeros(typed.tensor(f"{weight}_quantized" if name == "int8" else weight))


def test_large_weights_are_pruned_where_they_are(tmp_path: Path) -> None:
    typed = _pruned(_product(weights("w", 256, 64)), tmp_path)
    assert typed.report["pruned"] == {"pruned": 1}
    assert np.count_nonzero(typed.tensor("w")) == 256 * 64 // 2
