"""Parts of a twin in its source: all of them are the twin, none of them is the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")

from engineforge.checks.accuracy import rewritten
from engineforge.checks.pair import Pair
from engineforge.checks.run import Graph
from engineforge.checks.transplant import Graft
from engineforge.checks.twin import twin
from engineforge.errors import EngineForgeError
from tests.checks.digits import MODELS, NETS, converted, holdout, images
from tests.checks.graphs import F16, F32, Array, constant, model, run

node = helper.make_node
PRECISIONS: list[tuple[str, dict[str, Any]]] = [
    ("fp16", {}),
    ("fp16", {"keep_io_types": False}),
    ("fp16", {"keep_fp32": ("type:Gemm",)}),
    ("bf16", {}),
    ("int8", {}),
    ("int8", {"high_precision": "fp16"}),
    ("int8", {"tool": "modelopt", "high_precision": "bf16"}),
    ("fp8", {"high_precision": "fp16"}),
    ("int4", {"block_size": 32}),
]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(("name", "asked"), PRECISIONS, ids=str)
def test_all_low_layers_are_the_twin_and_none_is_the_source(
    net: str, name: str, asked: dict[str, Any], tmp_path: Path
) -> None:
    calibrated = name in ("int8", "fp8")
    data = images(net, "train")[0][:16] if calibrated else None
    made = converted(MODELS / f"{net}.onnx", tmp_path, name, calibrate_on=data, **asked)
    scratch = tmp_path / "checks"
    scratch.mkdir()
    pair = Pair(made.source, made.typed, scratch)
    sample = next(iter(holdout(net)))
    (_, expected), *_ = pair.expected([sample])
    alone = Graph(rewritten(made.typed, twin, tmp_path / "twin")[0], called="the twin")
    twins = alone(sample)["logits"]
    assert (pair.with_low(pair.layers())(sample)["logits"] == twins).all()
    assert (pair.with_low([])(sample)["logits"] == expected["logits"]).all()
    assert (twins != expected["logits"]).any()


X: Array = np.array([1.0001, 300.3], np.float32)


def chain(low: int) -> ModelProto:
    """Two products around a Relu."""
    return model(
        [
            node("Mul", ["x", "a"], ["p"], name="first"),
            node("Relu", ["p"], ["r"], name="relu"),
            node("Mul", ["r", "b"], ["y"], name="second"),
        ],
        [("x", low, [2])],
        [("y", low, [2])],
        [constant("a", 1000, low), constant("b", 0.001, low)],
    )


def low(array: Array) -> Array:
    with np.errstate(over="ignore"):
        return array.astype(np.float16).astype(np.float32)


def with_layers(folder: Path, *layers: str) -> list[float]:
    made = Graft(chain(F32), twin(chain(F16))).transplanted(layers)
    found: list[float] = run(made, folder, {"x": X})["y"].tolist()
    return found


def test_a_layer_alone_has_its_inputs_weights_and_outputs_rounded(tmp_path: Path) -> None:
    factor = low(np.array([0.001], np.float32))
    expected = low(low(X * np.float32(1000)) * factor)
    assert with_layers(tmp_path, "second") == expected.tolist()


def test_what_a_layer_overflows_stays_lost_in_the_others(tmp_path: Path) -> None:
    assert with_layers(tmp_path, "first")[1] == np.inf


def test_a_layer_that_reads_beyond_its_range_overflows_itself(tmp_path: Path) -> None:
    assert with_layers(tmp_path, "second")[1] == np.inf
    assert with_layers(tmp_path)[1] == pytest.approx(300.3)


def test_low_layers_are_those_with_a_cost_of_their_own() -> None:
    assert Graft(chain(F32), twin(chain(F16))).layers() == ["first", "second"]


def test_what_carries_values_between_kept_layers_is_kept_with_them() -> None:
    graft = Graft(chain(F32), twin(chain(F16)))
    assert graft.joined({"first", "second"}) == ["first", "relu", "second"]
    assert graft.joined({"first"}) == ["first"]


def quantized(low_type: int = F32) -> ModelProto:
    """The same with an INT8 input to the first product, and the second as it is."""
    made = chain(F32)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        node("DequantizeLinear", ["q", "s", "z"], ["dq"], name="dq"),
        *made.graph.node,
    ]
    nodes[2].input[0] = "dq"
    weights = [
        *made.graph.initializer,
        constant("s", 4, low_type),
        helper.make_tensor("z", TensorProto.INT8, [], [0]),
    ]
    return model(nodes, [("x", F32, [2])], [("y", F32, [2])], weights)


def test_quantizers_belong_to_the_layer_that_they_feed() -> None:
    assert Graft(chain(F32), twin(quantized())).layers() == ["first"]


def test_a_changed_weight_makes_a_layer_low(tmp_path: Path) -> None:
    pruned = chain(F32)
    pruned.graph.initializer[1].CopyFrom(constant("b", 0, F32))
    assert Graft(chain(F32), twin(pruned)).layers() == ["second"]
    made = Graft(chain(F32), twin(pruned)).transplanted(["second"])
    assert run(made, tmp_path, {"x": X})["y"].tolist() == [0, 0]


def test_a_quantized_output_belongs_to_the_layer_that_makes_it(tmp_path: Path) -> None:
    made = chain(F32)
    made.graph.node[2].output[0] = "exact"
    made.graph.node.extend(
        [
            node("QuantizeLinear", ["exact", "s", "z"], ["q"], name="q"),
            node("DequantizeLinear", ["q", "s", "z"], ["y"], name="dq"),
        ]
    )
    made.graph.initializer.extend(
        [constant("s", 4, F32), helper.make_tensor("z", TensorProto.INT8, [], [0])]
    )
    assert Graft(chain(F32), twin(made)).layers() == ["second"]
    both = [Graft(chain(F32), twin(made)).transplanted(["second"]), twin(made)]
    found = [run(each, tmp_path, {"x": X})["y"].tolist() for each in both]
    assert found == [[0, 300], [0, 300]]


def test_branches_are_one_layer_with_what_they_capture(tmp_path: Path) -> None:
    def branching(low_type: int) -> ModelProto:
        branch = helper.make_graph(
            [node("Mul", ["p", "p"], ["t"], name="inner")],
            "branch",
            [],
            [helper.make_tensor_value_info("t", low_type, [2])],
        )
        return model(
            [
                node("Mul", ["x", "a"], ["p"], name="first"),
                node("If", ["c"], ["y"], name="if", then_branch=branch, else_branch=branch),
            ],
            [("x", low_type, [2])],
            [("y", low_type, [2])],
            [constant("a", 1000, low_type), helper.make_tensor("c", TensorProto.BOOL, [], [1])],
        )

    source, typed = branching(F32), twin(branching(F16))
    assert Graft(source, typed).layers() == ["first", "if"]
    found = {}
    for layers in ((), ("first",), ("if",), ("first", "if")):
        made = Graft(source, typed).transplanted(layers)
        found[layers] = run(made, tmp_path, {"x": X})["y"].tolist()
    p = X * np.float32(1000)
    assert found[()] == (p * p).tolist()
    assert found["first",][1] == np.inf
    assert found["if",][0] == np.inf
    assert found["first", "if"] == run(typed, tmp_path, {"x": X})["y"].tolist()


def test_graphs_of_different_opsets_do_not_mix() -> None:
    older = chain(F32)
    older.opset_import[0].version = 17
    with pytest.raises(EngineForgeError, match="opset 17 and the typed graph 21"):
        Graft(older, twin(chain(F16)))


def test_weights_that_both_graphs_have_are_on_disk_once(tmp_path: Path) -> None:
    path = MODELS / "digits-convnet.onnx"
    Pair(path, path, tmp_path)
    assert (tmp_path / "weights").stat().st_size < 1.1 * path.stat().st_size


def test_unused_weights_are_left_out(tmp_path: Path) -> None:
    made = Graft(chain(F32), twin(chain(F16))).transplanted(["first"])
    assert {tensor.name for tensor in made.graph.initializer} == {"twin/a", "b"}
    onnx.checker.check_model(made)
