"""What preparation makes of models, compared with their sources on ONNX Runtime."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from engineforge.spec.sources import Preparation
from engineforge.stages.precision.graph import named
from engineforge.stages.sources import SourceFailed
from engineforge.stages.sources.onnx import inspect
from engineforge.stages.sources.preparation import prepare
from tests.models import branches, convnet, save

_INSTALL = "python -m pip install 'engineforge[prepare]'"
_ocr = pytest.mark.skipif(
    find_spec("rapidocr") is None, reason="python -m pip install 'engineforge[examples]'"
)
_OCR = {
    "PP-OCRv6_det_small": (2, 3, 64, 96),
    "PP-OCRv6_rec_small": (2, 3, 48, 96),
    "ch_ppocr_mobile_v2.0_cls_mobile": (2, 3, 48, 192),
}
_DIGITS = {"digits-convnet": (3, 3, 32, 32), "digits-transformer": (3, 1, 8, 8)}
_ALL = [*(pytest.param(name, marks=_ocr) for name in _OCR), *_DIGITS]
_SPECS = Path(__file__).parents[3] / "specs" / "models"
Array = NDArray[Any]


def _file(name: str) -> Path:
    if name in _DIGITS:
        return _SPECS / f"{name}.onnx"
    spec = find_spec("rapidocr")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / "models" / f"{name}.onnx"


def _feed(name: str) -> dict[str, Array]:
    shape = {**_OCR, **_DIGITS}[name]
    (value,) = inspect(_file(name)).inputs
    return {value.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


def _run(model: Path, feed: dict[str, Array], outputs: Sequence[str] | None = None) -> list[Array]:
    ort = pytest.importorskip("onnxruntime", reason=_INSTALL)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # What it fuses differs between two forms of a model, and with it how numbers are rounded.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(outputs, feed)
    return found


def _prepared(model: Path, asked: Preparation, tmp_path: Path) -> Path:
    if asked.simplify:
        pytest.importorskip("onnxslim", reason=_INSTALL)
    out = tmp_path / "out"
    out.mkdir()
    prepare(model, asked, out=out)
    onnx.checker.check_model(str(out / "model.onnx"), full_check=True)
    return out / "model.onnx"


def _same(prepared: Path, source: Path, feed: dict[str, Array]) -> None:
    for found, expected in zip(_run(prepared, feed), _run(source, feed), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def _names(model: ModelProto) -> dict[str, str]:
    return {node.name: node.op_type for node in model.graph.node}


def _graph(
    path: Path,
    nodes: Sequence[NodeProto],
    *,
    inputs: Sequence[tuple[str, int, Sequence[int | str | None] | None]] = (
        ("x", TensorProto.FLOAT, ["n", 4]),
    ),
    outputs: Sequence[tuple[str, int, Sequence[int | str | None] | None]] = (
        ("y", TensorProto.FLOAT, [None, None]),
    ),
    weights: dict[str, Array] | None = None,
    tensors: Sequence[TensorProto] = (),
    opset: int = 17,
    external: str | None = None,
) -> Path:
    held = [numpy_helper.from_array(each, name) for name, each in (weights or {}).items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [*held, *tensors],
    )
    return save(graph, path, domains={"": opset}, external=external)


_node = helper.make_node


@pytest.mark.parametrize("name", _ALL)
@pytest.mark.parametrize(
    "asked",
    [
        Preparation(simplify=True),
        Preparation(infer_shapes=True),
        Preparation(opset=18),
        Preparation(opset=18, simplify=True, infer_shapes=True),
    ],
    ids=["simplify", "infer_shapes", "opset", "all"],
)
def test_a_prepared_model_computes_what_its_source_does(
    name: str, asked: Preparation, tmp_path: Path
) -> None:
    path = _prepared(_file(name), asked, tmp_path)
    _same(path, _file(name), _feed(name))
    assert inspect(path).inputs == inspect(_file(name)).inputs


@pytest.mark.parametrize("name", _ALL)
def test_simplifying_keeps_the_name_and_the_work_of_every_node_that_is_left(
    name: str, tmp_path: Path
) -> None:
    source = _names(named(_file(name)))
    left = _names(onnx.load(_prepared(_file(name), Preparation(simplify=True), tmp_path)))
    assert left.items() <= source.items()


@_ocr
@pytest.mark.parametrize("name", _OCR)
def test_simplifying_removes_constants_and_nodes_that_do_nothing(name: str, tmp_path: Path) -> None:
    left = _names(onnx.load(_prepared(_file(name), Preparation(simplify=True), tmp_path)))
    assert len(left) < 0.75 * len(named(_file(name)).graph.node)
    assert "Constant" not in left.values()


def test_a_model_is_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    pytest.importorskip("onnxslim", reason=_INSTALL)
    asked = "Preparation(simplify=True, infer_shapes=True, opset=18)"
    program = (
        "import sys; from pathlib import Path\n"
        "from engineforge.spec.sources import Preparation\n"
        "from engineforge.stages.sources.preparation import prepare\n"
        f"prepare(Path(sys.argv[1]), {asked}, out=Path(sys.argv[2]))\n"
    )
    found = set()
    model = _file("digits-transformer")
    for seed in ("1", "2"):
        out = tmp_path / seed
        out.mkdir()
        env = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program, str(model), str(out)]
        subprocess.run(command, check=True, env=env, cwd=Path(__file__).parents[3])
        found.add(hashlib.sha256((out / "model.onnx").read_bytes()).hexdigest())
    assert len(found) == 1


@pytest.mark.parametrize(
    "asked",
    [Preparation(simplify=True), Preparation(opset=18), Preparation(outputs={"z": "y"})],
    ids=["simplify", "opset", "outputs"],
)
def test_weights_beside_a_model_are_beside_the_prepared_one(
    asked: Preparation, tmp_path: Path
) -> None:
    weight = np.random.default_rng(1).standard_normal((4, 512)).astype(np.float32)
    other = np.random.default_rng(2).standard_normal((512, 512)).astype(np.float32)
    source = _graph(
        tmp_path / "net.onnx",
        [
            _node("Transpose", ["w"], ["t"], name="fold", perm=[1, 0]),
            _node("Transpose", ["t"], ["t2"], name="fold2", perm=[1, 0]),
            _node("MatMul", ["x", "t2"], ["m"], name="first"),
            _node("MatMul", ["m", "v"], ["m2"], name="second"),
            _node("Relu", ["m2"], ["y"], name="relu"),
        ],
        weights={"w": weight, "v": other},
        external="net.weights",
    )
    path = _prepared(source, asked, tmp_path)
    assert path.with_name("model.onnx.data").stat().st_size > other.nbytes
    assert path.stat().st_size < 2000
    _same(path, source, {"x": np.ones((2, 4), np.float32)})
    assert ("fold" in _names(onnx.load(path))) == (not asked.simplify)


@pytest.mark.slow
def test_a_model_of_more_than_two_gigabytes_is_prepared_without_its_weights_in_memory(
    tmp_path: Path,
) -> None:
    pytest.importorskip("onnxslim", reason=_INSTALL)
    side, tensors = 16384, []
    for at in range(3):
        tensor = TensorProto(name=f"w{at}", data_type=TensorProto.FLOAT, dims=[side, side])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="zeros")
        tensor.external_data.add(key="length", value=str(side * side * 4))
        tensors.append(tensor)
    with (tmp_path / "zeros").open("wb") as zeros:
        zeros.truncate(side * side * 4)
    chain = [_node("MatMul", [f"y{at}", f"w{at}"], [f"y{at + 1}"]) for at in range(3)]
    source = _graph(
        tmp_path / "net.onnx",
        [
            _node("Constant", [], ["one"], value_float=1.0),
            _node("Mul", ["x", "one"], ["y0"]),
            *chain,
        ],
        inputs=[("x", TensorProto.FLOAT, ["n", side])],
        outputs=[("y3", TensorProto.FLOAT, ["n", side])],
        tensors=tensors,
    )
    (tmp_path / "out").mkdir()
    program = (
        "import sys; from pathlib import Path\n"
        "from engineforge.spec.sources import Preparation\n"
        "from engineforge.stages.sources.preparation import prepare\n"
        "from engineforge.worker.making import peak_memory\n"
        "asked = Preparation(simplify=True, infer_shapes=True, opset=18, dimensions={'n': 2})\n"
        "prepare(Path(sys.argv[1]), asked, out=Path(sys.argv[2]))\n"
        "print(peak_memory())\n"
    )
    command = [sys.executable, "-c", program, str(source), str(tmp_path / "out")]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert int(done.stdout.split()[-1]) < 400_000_000
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size >= 3 * side * side * 4
    made = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    assert [node.op_type for node in made.graph.node] == ["MatMul"] * 3


def _loop(path: Path) -> Path:
    """Adds x to itself as often as its constant trip count says, the sum's name from outside."""
    body = helper.make_graph(
        [
            _node("Identity", ["going"], ["still"], name="inner/still"),
            _node("Add", ["one", "one"], ["two"], name="inner/two"),
            _node("Mul", ["x", "two"], ["step"], name="inner/step"),
            _node("Add", ["sum", "step"], ["next"], name="inner/add"),
        ],
        "body",
        [
            helper.make_tensor_value_info("at", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["n", 4]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, ["n", 4]),
        ],
    )
    return _graph(
        path,
        [
            _node("Constant", [], ["trips"], value=numpy_helper.from_array(np.array(3))),
            _node("Identity", ["x"], ["start"], name="start"),
            _node("Loop", ["trips", "", "start"], ["total"], name="loop", body=body),
            _node("Relu", ["total"], ["y"], name="relu"),
        ],
        weights={"one": np.array(1, np.float32)},
    )


@pytest.mark.parametrize(
    "asked",
    [
        Preparation(simplify=True),
        Preparation(opset=21),
        Preparation(dimensions={"n": 2}),
        Preparation(outputs={"x_2": "y", "next": "start"}),
    ],
    ids=["simplify", "opset", "dimensions", "outputs"],
)
def test_graphs_inside_a_graph_are_prepared_soundly(asked: Preparation, tmp_path: Path) -> None:
    source = _loop(tmp_path / "loop.onnx")
    feed = {"x": np.array([[1, -2, 3, 0], [0, 1, 1, 5]], np.float32)}
    path = _prepared(source, asked, tmp_path)
    (expected,) = _run(source, feed)
    np.testing.assert_allclose(_run(path, feed)[0], expected)


def test_large_constants_of_branches_stay_in_the_model(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    source = branches(tmp_path / "if.onnx", numpy_helper.from_array(values))
    asked = Preparation(simplify=True, opset=18, infer_shapes=True)
    path = _prepared(source, asked, tmp_path)
    _same(path, source, {"c": np.array(True)})
    assert not path.with_name("model.onnx.data").exists()


def _quantized(path: Path) -> Path:
    pairs = []
    for name, into in (("x", "xq"), ("w", "wq")):
        pairs += [
            _node("QuantizeLinear", [name, "s"], [f"{into}8"], name=f"q/{name}"),
            _node("DequantizeLinear", [f"{into}8", "s"], [into], name=f"dq/{name}"),
        ]
    return _graph(
        path,
        [*pairs, _node("MatMul", ["xq", "wq"], ["y"], name="mm")],
        weights={
            "w": np.random.default_rng(0).standard_normal((4, 300)).astype(np.float32),
            "s": np.array(0.05, np.float32),
        },
    )


def test_quantization_is_not_folded_away(tmp_path: Path) -> None:
    source = _quantized(tmp_path / "q.onnx")
    path = _prepared(source, Preparation(simplify=True, opset=19), tmp_path)
    _same(path, source, {"x": np.ones((2, 4), np.float32)})
    assert _names(onnx.load(path)) == _names(onnx.load(source))


@pytest.mark.parametrize("kind", ["BFLOAT16", "FLOAT8E4M3FN", "INT4"])
def test_weights_of_types_that_numpy_lacks_are_kept_as_they_are(kind: str, tmp_path: Path) -> None:
    number = TensorProto.DataType.Value(kind)
    size = {"BFLOAT16": 2.0, "INT4": 0.5}.get(kind, 1.0)
    data = bytes(range(256)) * int(16 * size)
    weights = [
        TensorProto(name="w", data_type=number, dims=[64, 64], raw_data=data),
        TensorProto(name="small", data_type=number, dims=[1, 64], raw_data=data[: int(64 * size)]),
    ]
    wide = "Cast" if kind == "BFLOAT16" else "DequantizeLinear"
    more: dict[str, Any] = {"to": TensorProto.FLOAT} if wide == "Cast" else {}
    scale = [] if wide == "Cast" else ["s"]
    source = _graph(
        tmp_path / "net.onnx",
        [
            _node(wide, ["w", *scale], ["d"], name="d", **more),
            _node(wide, ["small", *scale], ["e"], name="e", **more),
            _node("MatMul", ["x", "d"], ["m"], name="mm"),
            _node("Add", ["m", "e"], ["y"], name="add"),
        ],
        inputs=[("x", TensorProto.FLOAT, ["n", 64])],
        weights={"s": np.array(0.5, np.float32)},
        tensors=weights,
        opset=21,
    )
    path = _prepared(source, Preparation(simplify=True, opset=22), tmp_path)
    _same(path, source, {"x": np.ones((2, 64), np.float32)})
    if kind != "BFLOAT16":  # whose Cast is folded
        held = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
        assert held["w"].raw_data == data


def test_nodes_alike_stay_two_since_a_library_takes_bounds_for_one_another(tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [
            _node("Clip", ["x", "c", ""], ["low"], name="low"),
            _node("Clip", ["x", "", "c"], ["high"], name="high"),
            _node("Sub", ["low", "high"], ["y"], name="sub"),
        ],
        weights={"c": np.array(0.5, np.float32)},
    )
    path = _prepared(source, Preparation(simplify=True), tmp_path)
    _same(path, source, {"x": np.array([[0, 1, 2, 3]], np.float32)})


@pytest.mark.parametrize("name", [None, "?", "None", -1])
def test_axes_of_unknown_size_are_not_held_equal(name: str | int | None, tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [
            _node("Shape", ["like"], ["shape"], name="shape"),
            _node("Reshape", ["x", "shape"], ["r"], name="reshape"),
            _node("Relu", ["r"], ["y"], name="relu"),
        ],
        inputs=[("x", TensorProto.FLOAT, [name, name]), ("like", TensorProto.FLOAT, [name, name])],
        outputs=[("y", TensorProto.FLOAT, [None, None])],
    )
    path = _prepared(source, Preparation(simplify=True), tmp_path)
    feed = {"x": np.ones((2, 6), np.float32), "like": np.ones((3, 4), np.float32)}
    assert _run(path, feed)[0].shape == (3, 4)
    assert inspect(path).inputs == inspect(source).inputs


def test_an_output_shape_that_the_exporter_made_up_is_not_relied_on(tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [
            _node("Shape", ["x"], ["shape"], name="shape"),
            _node("Reshape", ["x", "shape"], ["y"], name="reshape"),
        ],
        outputs=[("y", TensorProto.FLOAT, [1, 4])],
    )
    path = _prepared(source, Preparation(simplify=True), tmp_path)
    feed = {"x": np.ones((3, 4), np.float32)}
    assert _run(path, feed)[0].shape == (3, 4)


def test_names_that_inference_makes_up_for_unknown_sizes_are_left_out(tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [_node("NonZero", ["x"], ["i"]), _node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)],
    )
    (value,) = onnx.load(
        _prepared(source, Preparation(infer_shapes=True), tmp_path)
    ).graph.value_info
    known, unknown = value.type.tensor_type.shape.dim
    assert known.dim_value == 2
    assert not unknown.HasField("dim_param")


def test_what_is_folded_need_not_be_lowered(tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [
            # The converter cannot take this one from opset 20 to 19.
            _node("ConstantOfShape", ["shape"], ["zeros"], name="zeros"),
            _node("Sub", ["x", "zeros"], ["y"], name="sub"),
        ],
        weights={"shape": np.array([3, 4])},
        opset=20,
    )
    path = _prepared(source, Preparation(opset=17, simplify=True), tmp_path)
    assert inspect(path).opsets[""] == 17
    _same(path, source, {"x": np.ones((1, 4), np.float32)})


def test_an_input_that_nothing_reads_stays(tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [_node("Relu", ["x"], ["y"])],
        inputs=[("x", TensorProto.FLOAT, ["n", 4]), ("unread", TensorProto.FLOAT, ["n"])],
    )
    path = _prepared(source, Preparation(simplify=True), tmp_path)
    assert [each.name for each in inspect(path).inputs] == ["x", "unread"]


def test_random_numbers_are_not_frozen(tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [
            _node("RandomNormal", [], ["r"], name="noise", shape=[1, 4]),
            _node("Add", ["x", "r"], ["y"]),
        ],
    )
    with pytest.raises(SourceFailed, match="'noise'") as caught:
        _prepared(source, Preparation(simplify=True), tmp_path)
    assert caught.value.hint
    assert "simplify" in caught.value.hint


def test_what_onnxslim_says_of_a_model_it_fails_on_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxslim = pytest.importorskip("onnxslim", reason=_INSTALL)

    def broken(*_: object, **__: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(onnxslim, "slim", broken)
    with pytest.raises(SourceFailed, match=r"onnxslim.*IndexError: list index out of range"):
        _prepared(convnet(tmp_path / "net.onnx"), Preparation(simplify=True), tmp_path)


@pytest.mark.parametrize("to", [13, 17])
def test_axes_that_are_an_input_become_an_attribute_again(to: int, tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [
            _node(
                "ReduceMean", ["x", "axes"], ["m"], name="mean", keepdims=0, noop_with_empty_axes=0
            ),
            _node("Constant", [], ["more"], value_ints=[0]),
            _node("ReduceL2", ["m", "more"], ["y"], name="norm"),
        ],
        outputs=[("y", TensorProto.FLOAT, [1])],
        weights={"axes": np.array([1])},
        opset=18,
    )
    path = _prepared(source, Preparation(opset=to), tmp_path)
    assert inspect(path).opsets[""] == to
    _same(path, source, {"x": np.arange(8, dtype=np.float32).reshape(2, 4)})
    assert {node.name for node in onnx.load(path).graph.node} >= {"mean", "norm"}


def test_raising_the_opset_of_branches_raises_what_is_inside_them(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [_node("ReduceMean", ["x"], ["o"], name="inner", axes=[1])],
        "branch",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, ["n", 1])],
    )
    source = _graph(
        tmp_path / "net.onnx",
        [_node("If", ["c"], ["y"], name="if", then_branch=branch, else_branch=branch)],
        inputs=[("x", TensorProto.FLOAT, ["n", 4]), ("c", TensorProto.BOOL, [])],
    )
    path = _prepared(source, Preparation(opset=18), tmp_path)
    _same(path, source, {"x": np.ones((2, 4), np.float32), "c": np.array(True)})


@pytest.mark.parametrize("to", [16, 99])
def test_an_opset_that_onnx_cannot_make_is_told_with_its_words(to: int, tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [_node("LayerNormalization", ["x", "s"], ["y"], name="norm")],
        weights={"s": np.ones(4, np.float32)},
    )
    with pytest.raises(SourceFailed, match=f"from opset 17 to {to}: .+") as caught:
        _prepared(source, Preparation(opset=to), tmp_path)
    assert caught.value.hint is not None
    assert caught.value.hint.endswith(f"let the exporter write {to}")


def test_operators_that_onnx_does_not_know_are_left_as_they_are(tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [
            _node("Odd", ["x"], ["o"], name="odd", domain="my.plugins"),
            _node("Constant", [], ["one"], value_float=1.0),
            _node("Mul", ["o", "one"], ["y"], name="mul"),
        ],
    )
    model = onnx.load(source)
    model.opset_import.add(domain="my.plugins", version=1)
    onnx.save(model, source)
    asked = Preparation(simplify=True, opset=18, infer_shapes=True)
    path = _prepared(source, asked, tmp_path)
    assert onnx.load(path).graph.node[0].domain == "my.plugins"


@_ocr
def test_intermediate_tensors_become_outputs_and_what_they_do_not_need_goes(tmp_path: Path) -> None:
    source, feed = _file("PP-OCRv6_rec_small"), _feed("PP-OCRv6_rec_small")
    model = onnx.load(source)
    middle, last = model.graph.node[240].output[0], model.graph.output[0].name
    path = _prepared(source, Preparation(outputs={"features": middle}), tmp_path)
    made = onnx.load(path)
    assert [value.name for value in made.graph.output] == ["features"]
    assert len(made.graph.node) < len(model.graph.node) - 150
    assert path.stat().st_size < source.stat().st_size / 2
    model.graph.output.add(name=middle)
    onnx.save(model, tmp_path / "both.onnx")
    (found,) = _run(path, feed)
    expected, final = _run(tmp_path / "both.onnx", feed, [middle, last])
    np.testing.assert_array_equal(found, expected)
    assert final.shape != found.shape


def test_outputs_take_names_that_other_tensors_had(tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [
            _node("Relu", ["x"], ["a"], name="relu"),
            _node("Add", ["a", "w"], ["w_1"], name="add"),
            _node("Neg", ["w_1"], ["y"], name="neg"),
        ],
        weights={"w": np.ones(4, np.float32)},
    )
    outputs = {"w": "y", "y": "a", "again": "a", "a": "w", "copy": "x"}
    path = _prepared(source, Preparation(outputs=outputs), tmp_path)
    x = np.array([[-1, 2, 3, 4]], np.float32)
    relu = np.maximum(x, 0)
    expected = {"w": -(relu + 1), "y": relu, "again": relu, "a": np.ones(4), "copy": x}
    found = dict(zip(outputs, _run(path, {"x": x}, list(outputs)), strict=True))
    assert list(found) == [value.name for value in onnx.load(path).graph.output]
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_new_outputs_have_types_and_shapes(tmp_path: Path) -> None:
    source = convnet(tmp_path / "net.onnx")
    path = _prepared(source, Preparation(outputs={"features": "flat"}), tmp_path)
    (output,) = inspect(path).outputs
    assert (output.name, output.type, output.dims) == ("features", "float32", ("batch", 16))


def test_an_input_that_just_the_old_outputs_needed_goes(tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [_node("Relu", ["x"], ["r"]), _node("Add", ["r", "mask"], ["y"])],
        inputs=[("x", TensorProto.FLOAT, ["n", 4]), ("mask", TensorProto.FLOAT, ["n", 4])],
    )
    path = _prepared(source, Preparation(outputs={"r": "r"}), tmp_path)
    assert [each.name for each in inspect(path).inputs] == ["x"]


@pytest.mark.parametrize(
    ("tensor", "hint"),
    [
        ("rel", "did you mean 'relu'?"),
        ("/pool/Pool", "that is a node, and gives: pool"),
        ("zzz", "the last ones are: logits, flat, pool, relu, conv"),
    ],
)
def test_a_tensor_that_is_not_there_is_told_with_what_is(
    tensor: str, hint: str, tmp_path: Path
) -> None:
    source = convnet(tmp_path / "net.onnx")
    with pytest.raises(SourceFailed, match=f"no tensor '{tensor}'") as caught:
        _prepared(source, Preparation(outputs={"out": tensor}), tmp_path)
    assert caught.value.hint == hint


def test_an_output_may_not_have_the_name_of_an_input(tmp_path: Path) -> None:
    source = convnet(tmp_path / "net.onnx")
    with pytest.raises(SourceFailed, match="the output 'image' has the name of an input"):
        _prepared(source, Preparation(outputs={"image": "relu"}), tmp_path)


def test_an_output_whose_type_nobody_knows_is_refused(tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [_node("Odd", ["x"], ["o"], domain="my.plugins"), _node("Relu", ["x"], ["y"])],
    )
    model = onnx.load(source)
    model.opset_import.add(domain="my.plugins", version=1)
    onnx.save(model, source)
    with pytest.raises(SourceFailed, match="'o' has a type that ONNX cannot infer"):
        _prepared(source, Preparation(outputs={"out": "o"}), tmp_path)


def test_an_output_of_unknown_rank_is_refused(tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [_node("Reshape", ["x", "shape"], ["r"]), _node("Relu", ["r"], ["y"])],
        inputs=[("x", TensorProto.FLOAT, ["n", 4]), ("shape", TensorProto.INT64, ["rank"])],
    )
    with pytest.raises(SourceFailed, match="how many dimensions 'r' has"):
        _prepared(source, Preparation(outputs={"out": "r"}), tmp_path)


@_ocr
def test_fixed_dimensions_reach_the_outputs(tmp_path: Path) -> None:
    source, feed = _file("PP-OCRv6_rec_small"), _feed("PP-OCRv6_rec_small")
    sizes = {"DynamicDimension.0": 2, "DynamicDimension.1": 96}
    path = _prepared(source, Preparation(dimensions=sizes), tmp_path)
    found = inspect(path)
    assert found.inputs[0].dims == (2, 3, 48, 96)
    assert found.outputs[0].dims == (2, 12, 18710)
    _same(path, source, feed)


def test_a_dimension_that_no_input_has_is_told_with_those_there_are(tmp_path: Path) -> None:
    source = convnet(tmp_path / "net.onnx", dims=("batch", 3, "height", "width"))
    with pytest.raises(SourceFailed, match="no input has a dimension 'n'") as caught:
        _prepared(source, Preparation(dimensions={"n": 1}), tmp_path)
    assert caught.value.hint == "there is: batch, height, width"


def test_a_size_that_the_model_contradicts_is_refused(tmp_path: Path) -> None:
    source = _graph(
        tmp_path / "net.onnx",
        [_node("Add", ["x", "w"], ["y"], name="add")],
        weights={"w": np.ones((3, 4), np.float32)},
    )
    with pytest.raises(SourceFailed, match=r"contradicts the dimensions \{n: 5\}: .*add") as caught:
        _prepared(source, Preparation(dimensions={"n": 5}), tmp_path)
    assert caught.value.hint


def test_a_model_that_is_prepared_already_stays_as_it_is(tmp_path: Path) -> None:
    pytest.importorskip("onnxslim", reason=_INSTALL)
    asked = Preparation(simplify=True, infer_shapes=True, opset=18)
    once = _prepared(_file("digits-transformer"), asked, tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    prepare(once, asked, out=again)
    assert (again / "model.onnx").read_bytes() == once.read_bytes()
