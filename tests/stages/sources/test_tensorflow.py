"""Models of TensorFlow and Keras as ONNX: what they compute, their bytes, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import onnx
import pytest

from engineforge.spec.sources import InputAxes, TensorflowSource
from engineforge.stages.sources import SourceFailed
from engineforge.stages.sources.tensorflow.export import export
from engineforge.stages.sources.tensorflow.operators import as_product

_INSTALL = "python -m pip install 'engineforge[tensorflow,precision]'"
onnxruntime = pytest.importorskip("onnxruntime", reason=_INSTALL)
pytest.importorskip("tf2onnx", reason=_INSTALL)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tf: Any = pytest.importorskip("tensorflow", reason=_INSTALL)
    keras: Any = pytest.importorskip("keras", reason=_INSTALL)

Array = np.ndarray[Any, Any]

SEQUENCE = {"ids": (None, None), "mask": (None, None)}
IMAGES = {"image": (None, 32, 32, 3)}


def _axes(dims: Mapping[str, tuple[int | None, ...]]) -> dict[str, InputAxes]:
    return {
        name: InputAxes(type="float32", dims=each, example=tuple(size or 4 for size in each))
        for name, each in dims.items()
    }


def _convnet() -> Any:  # noqa: ANN401
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((32, 32, 3), name="image"),
            layers.Conv2D(32, 3, activation="relu", bias_initializer="random_normal"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(128, activation="relu", bias_initializer="random_normal"),
            layers.Dense(10, bias_initializer="random_normal", name="scores"),
        ],
        name="convnet",
    )


def _recurrent() -> Any:  # noqa: ANN401
    keras.utils.set_random_seed(0)
    layers = [keras.Input((None, 5)), keras.layers.LSTM(4)]
    return keras.Sequential(layers, name="recurrent")


def transformer() -> Any:  # noqa: ANN401
    keras.utils.set_random_seed(0)
    layers = keras.layers
    ids = keras.Input((None,), dtype="int32", name="ids")
    mask = keras.Input((None,), name="mask")
    tokens = layers.Embedding(50, 16)(ids)
    seen = keras.ops.expand_dims(mask, 1) > 0.5
    attention = layers.MultiHeadAttention(2, 8, bias_initializer="random_normal")
    tokens = layers.LayerNormalization()(tokens + attention(tokens, tokens, attention_mask=seen))
    wide = layers.Dense(32, activation="gelu", bias_initializer="random_normal")(tokens)
    tokens = layers.LayerNormalization(name="tokens")(tokens + layers.Dense(16)(wide))
    logits = layers.Dense(4, name="logits")(layers.GlobalAveragePooling1D()(tokens))
    return keras.Model([ids, mask], [logits, tokens], name="transformer")


class _Functions(tf.Module):  # type: ignore[misc]
    """A SavedModel with two signatures that compute, and some that cannot be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = tf.Variable(np.arange(6, dtype=np.float32).reshape(3, 2))

    def double(self, x: Any) -> Any:  # noqa: ANN401
        return {f"output_{index}": x @ self.weights * float(index) for index in range(11)}

    def one(self, x: Any) -> Any:  # noqa: ANN401
        return {"y": x @ self.weights}

    def loop(self, x: Any) -> Any:  # noqa: ANN401
        def body(count: Any, y: Any) -> Any:  # noqa: ANN401
            return count + 1, y * 0.5 + tf.reduce_sum(self.weights) * x

        count = tf.cast(tf.reduce_max(x), tf.int32)
        _, y = tf.while_loop(lambda count, _: count < 7, body, [count, x])
        return {"y": tf.cond(tf.reduce_sum(x) > 3, lambda: y @ self.weights, lambda: x[:, :2])}

    def unknown(self, x: Any) -> Any:  # noqa: ANN401
        return {"y": tf.linalg.svd(x @ self.weights)[0], "z": tf.math.lgamma(x)}

    def text(self, x: Any) -> Any:  # noqa: ANN401
        return {"y": tf.strings.length(x)}

    def writing(self, x: Any) -> Any:  # noqa: ANN401
        with tf.control_dependencies([tf.io.write_file("written", "text")]):
            return {"y": x @ self.weights}


def _save(module: _Functions, folder: Path, names: Sequence[str]) -> None:
    signatures = {}
    for name in names:
        kind = tf.string if name == "text" else tf.float32
        spec = tf.TensorSpec((None,) if name == "text" else (None, 3), kind, name="x")
        function = tf.function(getattr(module, name), input_signature=[spec])
        signatures[name] = function.get_concrete_function()
    tf.saved_model.save(module, str(folder), signatures=signatures)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tensorflow")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model in (_convnet(), transformer()):
            for suffix in ("keras", "h5"):
                model.save(root / f"{model.name}.{suffix}")
            model.export(str(root / model.name), verbose=False)
        _recurrent().save(root / "recurrent.keras")
        code = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x * 2)])
        for suffix in ("keras", "h5"):
            code.save(root / f"code.{suffix}")
        module = _Functions()
        _save(module, root / "two", ["one", "double"])
        for name in ("loop", "unknown", "text", "writing"):
            _save(module, root / name, [name])
        tf.saved_model.save(module, str(root / "none"))
    return root


def _export(
    source: TensorflowSource,
    folder: Path,
    out: Path,
    dims: Mapping[str, tuple[int | None, ...]],
) -> onnx.ModelProto:
    out.mkdir(exist_ok=True)
    export(source, folder=folder, files=[], inputs=_axes(dims), out=out)
    model = onnx.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    return model


def _run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return list(session.run(None, dict(feeds)))


def _close(found: Sequence[Array], expected: Sequence[Any]) -> bool:
    """To 1e-4 of the largest value."""
    pairs = [*zip(found, map(np.asarray, expected), strict=True)]
    return all(
        a.shape == b.shape and np.abs(a - b).max() <= 1e-4 * np.abs(b).max() for a, b in pairs
    )


FROM_CONVNET = {
    "keras": TensorflowSource(keras="convnet.keras", outputs=("scores",)),
    "h5": TensorflowSource(keras="convnet.h5", outputs=("scores",)),
    "saved_model": TensorflowSource(saved_model="convnet", outputs=("scores",)),
}
FROM_TRANSFORMER = {
    "keras": TensorflowSource(keras="transformer.keras", outputs=("logits", "tokens")),
    "saved_model": TensorflowSource(saved_model="transformer", outputs=("logits", "tokens")),
}


@pytest.mark.parametrize("source", FROM_CONVNET.values(), ids=FROM_CONVNET)
def test_a_convolutional_network_computes_the_same_with_any_batch(
    source: TensorflowSource, folder: Path, tmp_path: Path
) -> None:
    model = _export(source, folder, tmp_path, {"pictures": (None, 32, 32, 3)})
    network = _convnet()
    for batch in (1, 5):
        x = np.random.default_rng(batch).random((batch, 32, 32, 3), np.float32)
        assert _close(_run(model, {"pictures": x}), [network(x)])


@pytest.mark.parametrize("source", FROM_TRANSFORMER.values(), ids=FROM_TRANSFORMER)
def test_a_transformer_computes_the_same_with_any_batch_and_length(
    source: TensorflowSource, folder: Path, tmp_path: Path
) -> None:
    model = _export(source, folder, tmp_path, SEQUENCE)
    network = transformer()
    for batch, length in ((1, 7), (3, 12)):
        random = np.random.default_rng(batch)
        ids = random.integers(0, 50, (batch, length)).astype(np.int32)
        mask = (np.arange(length)[None] < random.integers(2, length, (batch, 1))).astype(np.float32)
        found = _run(model, {"ids": ids, "mask": mask})
        assert _close(found, network([ids, mask]))


def test_attention_is_made_of_matrix_products_and_a_mask_of_where(
    folder: Path, tmp_path: Path
) -> None:
    model = _export(FROM_TRANSFORMER["keras"], folder, tmp_path, SEQUENCE)
    attention = [node for node in model.graph.node if "multi_head_attention" in node.name]
    assert {"MatMul", "Softmax", "Where"} <= {node.op_type for node in attention}
    assert not {node.op_type for node in attention} & {"Einsum", "ReduceProd", "Gather"}


def test_inputs_stand_in_the_order_of_the_spec_with_the_types_of_the_model(
    folder: Path, tmp_path: Path
) -> None:
    turned = {"mask": (None, None), "ids": (None, None)}
    model = _export(FROM_TRANSFORMER["saved_model"], folder, tmp_path, turned)
    given = {each.name: each.type.tensor_type.elem_type for each in model.graph.input}
    assert [*given.items()] == [("mask", onnx.TensorProto.FLOAT), ("ids", onnx.TensorProto.INT32)]


def test_axes_that_do_not_vary_are_fixed(folder: Path, tmp_path: Path) -> None:
    model = _export(FROM_CONVNET["keras"], folder, tmp_path, {"image": (2, 32, 32, 3)})
    (output,) = model.graph.output
    assert [dim.dim_value for dim in output.type.tensor_type.shape.dim] == [2, 10]
    assert "Shape" not in {node.op_type for node in model.graph.node}


def test_axes_that_vary_have_no_names(folder: Path, tmp_path: Path) -> None:
    model = _export(FROM_TRANSFORMER["keras"], folder, tmp_path, SEQUENCE)
    dims = [dim for each in model.graph.input for dim in each.type.tensor_type.shape.dim]
    assert [dim.WhichOneof("value") for dim in dims] == [None] * 4


def test_outputs_are_called_what_the_model_calls_them(folder: Path, tmp_path: Path) -> None:
    source = TensorflowSource(keras="transformer.keras")
    model = _export(source, folder, tmp_path, SEQUENCE)
    assert [each.name for each in model.graph.output] == ["logits", "tokens"]


@pytest.mark.parametrize("opset", [None, 13, 18])
def test_the_opset_is_the_one_asked_for(opset: int | None, folder: Path, tmp_path: Path) -> None:
    source = TensorflowSource(keras="transformer.keras", opset=opset)
    model = _export(source, folder, tmp_path, SEQUENCE)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", opset or 17)]


def test_a_signature_is_chosen_by_name_and_its_outputs_are_in_the_order_of_their_numbers(
    folder: Path, tmp_path: Path
) -> None:
    source = TensorflowSource(saved_model="two", signature="double")
    model = _export(source, folder, tmp_path, {"x": (None, 3)})
    assert [each.name for each in model.graph.output] == [f"output_{i}" for i in range(11)]
    x = np.ones((2, 3), np.float32)
    once = x @ np.arange(6, dtype=np.float32).reshape(3, 2)
    assert all(np.allclose(y, once * i) for i, y in enumerate(_run(model, {"x": x})))


@pytest.mark.parametrize("size", [0, 1, 3])
def test_loops_and_branches_compute_the_same(size: int, folder: Path, tmp_path: Path) -> None:
    model = _export(TensorflowSource(saved_model="loop"), folder, tmp_path, {"x": (None, 3)})
    assert {"Loop", "If"} <= {node.op_type for node in model.graph.node}
    x = np.full((2, 3), size, np.float32)
    assert _close(_run(model, {"x": x}), [_Functions().loop(tf.constant(x))["y"]])


def test_a_recurrent_network_is_one_operator(folder: Path, tmp_path: Path) -> None:
    source = TensorflowSource(keras="recurrent.keras")
    model = _export(source, folder, tmp_path, {"x": (None, None, 5)})
    assert "LSTM" in {node.op_type for node in model.graph.node}
    x = np.random.default_rng(0).random((2, 6, 5), np.float32)
    assert _close(_run(model, {"x": x}), [_recurrent()(x)])


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_code_in_a_file_of_keras_runs_only_if_trusted(
    suffix: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"code.{suffix}"
    with pytest.raises(SourceFailed, match=rf"^'{name}' holds Python code in a Lambda layer\n"):
        _export(TensorflowSource(keras=name), folder, tmp_path, {"x": (None, 4)})
    assert not caplog.messages
    model = _export(TensorflowSource(keras=name, trust=True), folder, tmp_path, {"x": (None, 4)})
    assert any(f"'{name}' is trusted" in each for each in caplog.messages)
    assert _run(model, {"x": np.ones((1, 4), np.float32)})[0].tolist() == [[2, 2, 2, 2]]


_PROGRAM = """
import sys
from pathlib import Path
from engineforge.stages.sources.tensorflow import export as tensorflow
from tests.stages.sources import test_tensorflow as tests

folder, out = map(Path, sys.argv[1:])
for made, sources, dims in (
    ("c", tests.FROM_CONVNET, tests.IMAGES), ("t", tests.FROM_TRANSFORMER, tests.SEQUENCE)
):
    for name, source in sources.items():
        (out / (made + name)).mkdir(parents=True)
        inputs = tests._axes(dims)
        tensorflow.export(source, folder=folder, files=[], inputs=inputs, out=out / (made + name))
"""


@pytest.mark.slow
def test_two_processes_and_two_places_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    moved = copytree(folder, tmp_path / "another" / "place")
    made = []
    for seed, place in (("1", folder), ("2", moved)):
        out = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TF_CPP_MIN_LOG_LEVEL": "2"}
        arguments = [sys.executable, "-c", _PROGRAM, str(place), str(out)]
        subprocess.run(arguments, check=True, env=environment, capture_output=True)
        made.append({path.parent.name: path.read_bytes() for path in out.glob("*/model.onnx")})
    assert len(made[0]) == len(FROM_CONVNET) + len(FROM_TRANSFORMER)
    assert made[0] == made[1]


def _damaged(folder: Path, out: Path) -> None:
    """Files cut off, each beside what it is called in the test below."""
    for name in ("convnet.keras", "convnet.h5"):
        (out / f"short-{name}").write_bytes((folder / name).read_bytes()[:5000])
    (out / "text.h5").write_text("no HDF5")
    (out / "pointer.keras").write_text("version https://git-lfs.github.com/spec/v1\noid …")
    with zipfile.ZipFile(out / "empty.keras", "w"):
        pass
    for name, part in (
        ("graph", "saved_model.pb"),
        ("weights", "variables/variables.data-00000-of-00001"),
    ):
        copytree(folder / "convnet", out / name)
        data = (folder / "convnet" / part).read_bytes()
        (out / name / part).write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"keras": "short-convnet.keras"}, "is damaged or truncated: no whole .keras file"),
        ({"keras": "short-convnet.h5"}, "cannot be loaded: OSError: .*truncated file"),
        ({"keras": "text.h5"}, "is damaged: no HDF5 file"),
        ({"keras": "pointer.keras"}, "is a Git LFS pointer, not the model\nhint: git lfs pull"),
        ({"keras": "empty.keras"}, "cannot be loaded: "),
        ({"saved_model": "graph"}, "its 'saved_model.pb' is damaged or truncated"),
        ({"saved_model": "weights"}, "cannot be loaded: IndexError: Read less bytes"),
    ],
    ids=str,
)
def test_damaged_files_are_told(
    source: dict[str, str], message: str, folder: Path, tmp_path: Path
) -> None:
    _damaged(folder, tmp_path)
    with pytest.raises(SourceFailed, match=message):
        _export(TensorflowSource(**source), tmp_path, tmp_path / "out", IMAGES)  # type: ignore[arg-type]
    assert not (tmp_path / "out" / "model.onnx").exists()


@pytest.mark.parametrize(
    ("source", "dims", "message"),
    [
        (
            {"keras": "convnet.keras"},
            {"x": (None, 3, 32, 32)},
            r"^input 'x' is \[\*, 3, 32, 32\] in the spec, and \[\*, 32, 32, 3\] in "
            r"'convnet.keras'\nhint: TensorFlow's images are NHWC, their channels last: write "
            r"\[\*, 32, 32, 3\]$",
        ),
        ({"keras": "convnet.keras"}, {"x": (None, 3072)}, r"hint: write \[\*, 32, 32, 3\]"),
        ({"saved_model": "convnet"}, {"x": (1, None, 32, 3)}, "one size cannot vary"),
        ({"keras": "transformer.keras"}, {"ids": (1, 2)}, "takes 'ids', 'mask', and the spec has"),
        ({"keras": "convnet.keras", "signature": "a"}, IMAGES, "Keras, which has no signatures"),
        ({"keras": "convnet.keras", "outputs": ("a", "b")}, IMAGES, "has 1 output .'scores'."),
        ({"keras": "convnet.keras", "outputs": ("image",)}, IMAGES, "be called 'image'"),
        ({"keras": "convnet.keras", "opset": 19}, IMAGES, "up to 18, not 19\nhint: .*prepare"),
        ({"keras": "transformer.h5"}, SEQUENCE, "is made with 'ExpandDims', which the file does"),
        (
            {"saved_model": "two", "signature": "on"},
            {"x": (1, 3)},
            "^'two' has no signature 'on'\nhint: did you mean 'one'",
        ),
        (
            {"saved_model": "two"},
            {"x": (1, 3)},
            "^'two' has no signature 'serving_default'\nhint: there is: double, one",
        ),
        ({"saved_model": "none"}, {"x": (1, 3)}, "^'none' has no signatures"),
        ({"saved_model": "."}, {"x": (1, 3)}, "^'.' is no SavedModel.*\nhint: did you mean"),
        ({"saved_model": "unknown"}, {"x": (2, 3)}, "no form in ONNX of 'Lgamma', 'Svd'"),
        ({"saved_model": "text"}, {"x": (2,)}, "input 'x' is of text"),
        (
            {"saved_model": "writing"},
            {"x": (2, 3)},
            "has the operator 'WriteFile'.*\nhint: .*trust",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_told_with_what_to_do(
    source: dict[str, Any],
    dims: dict[str, tuple[int | None, ...]],
    message: str,
    folder: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(SourceFailed, match=message):
        _export(TensorflowSource(**source), folder, tmp_path, dims)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("abc,cd->abd", [(2, 3, 4), (4, 5)]),
        ("abc,cde->abde", [(2, 3, 4), (4, 5, 6)]),
        ("abcd,cde->abe", [(2, 3, 4, 5), (4, 5, 6)]),
        ("aecd,abcd->acbe", [(2, 3, 4, 5), (2, 6, 4, 5)]),
        ("acbe,aecd->abcd", [(2, 3, 4, 5), (2, 5, 3, 6)]),
        ("abc,adc->abd", [(2, 3, 4), (2, 5, 4)]),
        ("ab,cb->ca", [(2, 3), (4, 3)]),
        ("abc,abc->ab", [(2, 3, 4), (2, 3, 4)]),
        ("ab,cd->acbd", [(2, 3), (4, 5)]),
        ("abc,abde->cade", [(2, 3, 4), (2, 3, 5, 6)]),
    ],
    ids=str,
)
def test_an_einsum_is_the_product_that_it_is_made_into(
    equation: str, shapes: list[tuple[int, ...]]
) -> None:
    product = as_product(equation, shapes)
    assert product
    tensors = [np.random.default_rng(0).random(shape) for shape in shapes]
    operands = []
    for tensor, how in zip(
        reversed(tensors) if product.swapped else tensors,
        (product.left, product.right),
        strict=True,
    ):
        operands.append(_reshaped(_transposed(tensor, how.permutation), how.shape))
    made = _transposed(_reshaped(np.matmul(*operands), product.shape), product.permutation)
    expected = np.einsum(equation, *tensors)
    assert made.shape == expected.shape
    assert np.allclose(made, expected)


def _transposed(tensor: Array, order: Sequence[int] | None) -> Array:
    return tensor if order is None else tensor.transpose(order)


def _reshaped(tensor: Array, shape: Sequence[int] | None) -> Array:
    if shape is None:
        return tensor
    return tensor.reshape([size or tensor.shape[axis] for axis, size in enumerate(shape)])


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ab->ba", [(2, 3)]),
        ("...a,ab->...b", [(2, 3), (3, 4)]),
        ("aab,bc->ac", [(2, 2, 3), (3, 4)]),
        ("ab,bc->a", [(2, 3), (3, 4)]),
        ("zabc,zcde->zabde", [(-1, -1, -1, 4), (-1, 4, 5, 6)]),
    ],
    ids=str,
)
def test_an_einsum_that_is_no_product_or_varies_too_much_is_left_alone(
    equation: str, shapes: list[tuple[int, ...]]
) -> None:
    assert as_product(equation, shapes) is None
