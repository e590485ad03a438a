"""Networks that a Python function fills, on the real TensorRT-RTX."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engineforge.backends import BuildError
from engineforge.backends.definition import Weights, define, read_weights
from engineforge.backends.library import load, make_logger
from engineforge.backends.network import add_profile, interfaces, make_network
from engineforge.backends.words import Words
from engineforge.spec.model import InputRange, ShapeRange

pytest.importorskip("tensorrt_rtx", reason="python -m pip install 'engineforge[rtx]'")

Array = NDArray[Any]
_INPUTS = {"image": (None, 1, 28, 28)}


def _lenet_weights(seed: int = 0) -> dict[str, Array]:
    shapes = {
        "conv1": (6, 1, 5, 5),
        "conv2": (16, 6, 5, 5),
        "fc1": (120, 256),
        "fc2": (10, 120),
    }
    random = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes.items():
        found[f"{name}.weight"] = (random.standard_normal(shape) * 0.1).astype(np.float32)
        found[f"{name}.bias"] = random.standard_normal(shape[0]).astype(np.float32)
    return found


def _lenet(network: Any, trt: Any, weights: Mapping[str, Array], classes: int = 10) -> None:  # noqa: ANN401
    x = network.add_input("image", trt.float32, (-1, 1, 28, 28))
    for name, maps in (("conv1", 6), ("conv2", 16)):
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        conv = network.add_convolution_nd(x, maps, (5, 5), kernel, bias)
        relu = network.add_activation(conv.get_output(0), trt.ActivationType.RELU)
        pool = network.add_pooling_nd(relu.get_output(0), trt.PoolingType.MAX, (2, 2))
        pool.stride_nd = (2, 2)
        x = pool.get_output(0)
    flat = network.add_shuffle(x)
    flat.reshape_dims = (-1, 256)
    x = flat.get_output(0)
    for name, width in (("fc1", 120), ("fc2", classes)):
        # A view in the other order, and a temporary: both have to live as long as the build.
        kernel = network.add_constant(
            weights[f"{name}.weight"].T.shape, weights[f"{name}.weight"].T
        )
        bias = network.add_constant((1, width), weights[f"{name}.bias"].reshape(1, -1) * 1.0)
        none = trt.MatrixOperation.NONE
        product = network.add_matrix_multiply(x, none, kernel.get_output(0), none)
        total = network.add_elementwise(
            product.get_output(0), bias.get_output(0), trt.ElementWiseOperation.SUM
        )
        x = total.get_output(0)
    x.name = "logits"
    network.mark_output(x)


class Build:
    """One build with the real builder."""

    def __init__(self, log: io.StringIO) -> None:
        self.trt: Any = load("tensorrt_rtx")
        self.logger = make_logger(self.trt, log)
        self.words = Words(self.logger)
        self.builder = self.trt.Builder(self.logger)
        self.network = make_network(self.trt, self.builder)
        self.held: list[object] = []

    def define(
        self,
        function: Callable[..., object],
        weights: Mapping[str, Array] | None = None,
        inputs: Mapping[str, tuple[int | None, ...]] | None = None,
        **arguments: object,
    ) -> None:
        self.held = define(
            self.trt,
            self.network,
            function,
            weights=weights or {},
            inputs=_INPUTS if inputs is None else inputs,
            arguments=arguments,
            words=self.words,
            called="'nets:build'",
        )

    def engine(self) -> bytes:
        config = self.builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(self.trt.ComputeCapability.SM89, 0)
        shape = ShapeRange(min=(1, 1, 28, 28), opt=(8, 1, 28, 28), max=(32, 1, 28, 28))
        profile = {"image": InputRange(shape=shape)}
        add_profile(
            0,
            profile,
            builder=self.builder,
            config=config,
            network=self.network,
            words=self.words,
        )
        plan = self.builder.build_serialized_network(self.network, config)
        self.words.no_errors("while it built")
        return bytes(plan)


@pytest.fixture
def build() -> Build:
    return Build(io.StringIO())


def _npz(path: Path, arrays: Mapping[str, Array]) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def _safetensors(path: Path, arrays: Mapping[str, Array], pad: int = 0) -> Path:
    """By the format's description, `pad` spaces at the end of the header."""
    names = {"float32": "F32", "float16": "F16", "int64": "I64", "bfloat16": "BF16"}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in arrays.items():
        first, data = len(data), data + array.tobytes()
        kind = names[array.dtype.name]
        header[name] = {
            "dtype": kind,
            "shape": array.shape,
            "data_offsets": [first, len(data)],
        }
    text = json.dumps(header).encode() + b" " * pad
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_a_network_filled_layer_by_layer_becomes_an_engine(build: Build, tmp_path: Path) -> None:
    weights = read_weights(_npz(tmp_path / "w.npz", _lenet_weights()))
    started = time.monotonic()
    build.define(_lenet, weights)
    assert interfaces(build.network) == (
        ["'image' float [unnamed, 1, 28, 28]"],
        ["'logits' float [unnamed, 10]"],
    )
    held = sum(array.nbytes for array in _lenet_weights().values())
    assert len(build.engine()) > held
    assert time.monotonic() - started < 30


def test_the_engine_holds_the_weights_that_the_file_has(tmp_path: Path) -> None:
    def engine(weights: Mapping[str, Array]) -> bytes:
        build = Build(io.StringIO())
        build.define(_lenet, weights)
        return build.engine()

    arrays = _lenet_weights()
    from_npz = engine(read_weights(_npz(tmp_path / "w.npz", arrays)))
    from_safetensors = engine(read_weights(_safetensors(tmp_path / "w.safetensors", arrays)))
    assert from_npz == from_safetensors
    assert engine(_lenet_weights(seed=1)) != from_npz


def _sets(what: str) -> Callable[..., None]:
    """A network with one layer whose weights are set after it was made, and let go of."""

    def build_it(network: Any, trt: Any, _: object) -> None:  # noqa: ANN401
        x = network.add_input("image", trt.float32, (-1, 1, 28, 28))
        zeros = np.zeros((32, 1, 5, 5), np.float32)
        if what == "constant":
            layer = network.add_constant((1, 1, 28, 28), np.zeros((1, 1, 28, 28), np.float32))
            layer.weights = np.full((1, 1, 28, 28), 3.5, np.float32) * 2
            out = layer.get_output(0)
            out = network.add_elementwise(x, out, trt.ElementWiseOperation.SUM).get_output(0)
        elif what == "scale":
            layer = network.add_scale(x, trt.ScaleMode.UNIFORM)
            layer.shift = np.full(1, 3.5, np.float32) * 2
            out = layer.get_output(0)
        elif what == "listed":
            out = network.add_convolution_nd(x, 32, (5, 5), zeros).get_output(0)
            layer = network[0]
            layer.__class__ = trt.IConvolutionLayer
            layer.kernel = np.full((32, 1, 5, 5), 3.5, np.float32) * 2
        else:
            layer = network.add_convolution_nd(x, 32, (5, 5), zeros)
            layer.kernel = np.full((32, 1, 5, 5), 3.5, np.float32) * 2
            layer.bias = np.full(32, 3.5, np.float32) * 2
            out = layer.get_output(0)
        network.mark_output(out)

    return build_it


def _others() -> list[Array]:
    """Arrays that take what memory has become free, of the sizes that `_sets` uses."""
    sizes = [(size, count) for size in (1, 32, 784, 800) for count in (200,)]
    return [np.full(size, -99, np.float32) for size, count in sizes for _ in range(count)]


@pytest.mark.parametrize(
    ("what", "kind", "attributes"),
    [
        ("convolution", "IConvolutionLayer", ("kernel", "bias")),
        ("listed", "IConvolutionLayer", ("kernel",)),
        ("constant", "IConstantLayer", ("weights",)),
        ("scale", "IScaleLayer", ("shift",)),
    ],
)
def test_weights_set_on_a_layer_stay_as_they_were(
    what: str, kind: str, attributes: tuple[str, ...], build: Build
) -> None:
    build.define(_sets(what))
    others = _others()
    layer = build.network.get_layer(0)
    layer.__class__ = getattr(build.trt, kind)
    for attribute in attributes:
        assert set(np.ravel(getattr(layer, attribute))) == {7.0}
    assert others


def test_the_engine_has_the_weights_that_were_set_on_a_layer(build: Build) -> None:
    build.define(_sets("convolution"))
    others = _others()
    engine = np.float32(7).tobytes() * 25
    plan = build.engine()
    assert engine in plan
    assert np.float32(-99).tobytes() * 25 not in plan
    assert others


def test_arguments_reach_the_function(build: Build) -> None:
    weights = _lenet_weights()
    weights["fc2.weight"], weights["fc2.bias"] = weights["fc2.weight"][:5], weights["fc2.bias"][:5]
    build.define(_lenet, weights, classes=5)
    assert interfaces(build.network)[1] == ["'logits' float [unnamed, 5]"]


def test_what_the_function_raises_is_told_with_its_line(build: Build) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such block")

    line = broken.__code__.co_firstlineno + 1
    with pytest.raises(BuildError) as caught:
        build.define(broken)
    assert caught.value.args[0] == (
        f"'nets:build' failed at test_definition.py:{line}: RuntimeError: no such block"
    )


def test_an_exit_of_the_function_is_a_failure_of_it(build: Build) -> None:
    def leaves(*_: object) -> None:
        raise SystemExit(0)

    with pytest.raises(BuildError, match="SystemExit"):
        build.define(leaves)


def test_a_weight_that_is_missing_is_told_with_those_that_are_near(
    build: Build, tmp_path: Path
) -> None:
    arrays = _lenet_weights()
    arrays["conv2.wieght"] = arrays.pop("conv2.weight")
    with pytest.raises(BuildError, match=r"'w.npz' has no array 'conv2.weight'") as caught:
        build.define(_lenet, read_weights(_npz(tmp_path / "w.npz", arrays)))
    assert caught.value.hint
    assert caught.value.hint.startswith("did you mean: conv2.wieght")


def test_what_tensorrt_makes_nothing_of_is_told_where_it_is_asked_for(build: Build) -> None:
    def build_it(network: Any, trt: Any, _: object) -> None:  # noqa: ANN401
        x = network.add_input("image", trt.float32, (-1, 1, 28, 28))
        network.add_convolution_nd(x, -6, (5, 5), np.ones((6, 1, 5, 5), np.float32))

    line = build_it.__code__.co_firstlineno + 2
    with pytest.raises(BuildError) as caught:
        build.define(build_it)
    assert (
        f"at test_definition.py:{line}: TensorRT made nothing of network.add_convolution_nd("
        in (caught.value.args[0])
    )
    assert "Invalid number of output channels: -6" in caught.value.args[0]


def test_arguments_of_the_wrong_kind_are_told_with_what_is_taken(build: Build) -> None:
    def build_it(network: Any, trt: Any, weights: Mapping[str, Array]) -> None:  # noqa: ANN401
        x = network.add_input("image", trt.float32, (-1, 1, 28, 28))
        network.add_convolution_nd(x, 6, (5, 5), weights["conv1.weight"], "bias")

    with pytest.raises(BuildError, match=r"TypeError: add_convolution_nd\(\): incompat") as caught:
        build.define(build_it, _lenet_weights())
    assert len(caught.value.args[0]) < 200
    assert caught.value.hint
    assert "input: ITensor, num_output_maps: SupportsInt" in caught.value.hint


def test_weights_of_a_type_that_tensorrt_lacks_are_refused(build: Build) -> None:
    def build_it(network: Any, trt: Any, _: object) -> None:  # noqa: ANN401
        network.add_constant((2,), np.ones(2))

    with pytest.raises(BuildError, match="an array of float64, which TensorRT lacks") as caught:
        build.define(build_it)
    assert caught.value.hint == "convert it: array.astype(numpy.float32)"


def test_a_layer_that_does_not_fit_its_inputs_is_told_by_its_name(build: Build) -> None:
    def build_it(network: Any, trt: Any, _: object) -> None:  # noqa: ANN401
        x = network.add_input("image", trt.float32, (-1, 1, 28, 28))
        other = network.add_constant((3, 5), np.ones((3, 5), np.float32)).get_output(0)
        layer = network.add_matrix_multiply(
            x, trt.MatrixOperation.NONE, other, trt.MatrixOperation.NONE
        )
        layer.name = "head"
        network.mark_output(layer.get_output(0))

    with pytest.raises(BuildError, match=r"does not fit what it reads: 'head'"):
        build.define(build_it)


def test_a_setting_that_tensorrt_logs_and_leaves_out_fails(build: Build) -> None:
    def build_it(network: Any, trt: Any, weights: Mapping[str, Array]) -> None:  # noqa: ANN401
        x = network.add_input("image", trt.float32, (-1, 1, 28, 28))
        layer = network.add_convolution_nd(x, 6, (5, 5), weights["conv1.weight"])
        layer.stride_nd = (-1, -1)
        network.mark_output(layer.get_output(0))

    with pytest.raises(BuildError, match=r"filled the network:\n.*setStrideNd"):
        build.define(build_it, _lenet_weights())


def test_a_network_without_outputs_is_refused(build: Build) -> None:
    def forgets(network: Any, trt: Any, _: object) -> None:  # noqa: ANN401
        x = network.add_input("image", trt.float32, (-1, 1, 28, 28))
        network.add_activation(x, trt.ActivationType.RELU)

    with pytest.raises(BuildError, match="'nets:build' marked no outputs") as caught:
        build.define(forgets)
    assert caught.value.hint == "call network.mark_output(tensor)"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"picture": (None, 1, 28, 28)}, "has the inputs 'image', and the spec 'picture'"),
        ({}, "has the inputs 'image', and the spec none"),
        ({"image": (None, 3, 28, 28)}, "the shape (-1, 1, 28, 28), and the spec says (varies, 3,"),
        ({"image": (None, 1, None, 28)}, "the spec says (varies, 1, varies, 28)"),
        ({"image": (None, 28)}, "the spec says (varies, 28)"),
    ],
)
def test_inputs_that_are_not_the_specs_are_refused(
    build: Build, inputs: Mapping[str, tuple[int | None, ...]], message: str
) -> None:
    with pytest.raises(BuildError, match=re.escape(message)) as caught:
        build.define(_lenet, _lenet_weights(), inputs)
    assert caught.value.hint


def test_an_axis_that_may_vary_takes_one_size(build: Build) -> None:
    build.define(_lenet, _lenet_weights(), {"image": (4, 1, 28, 28)})


def test_the_function_sees_the_network_as_it_is(build: Build) -> None:
    def looks(network: Any, trt: Any, weights: Mapping[str, Array]) -> None:  # noqa: ANN401
        network.name = "mine"
        _lenet(network, trt, weights)
        assert network.num_layers == len(network) == len(list(network))
        assert network[0].type == trt.LayerType.CONVOLUTION

    build.define(looks, _lenet_weights())
    assert build.network.name == "mine"


def test_half_and_bfloat16_weights_reach_the_network(build: Build, tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="python -m pip install 'engineforge[gpu]'")
    values = np.arange(6).reshape(2, 3)
    path = _safetensors(
        tmp_path / "w.safetensors",
        {"low": values.astype(ml_dtypes.bfloat16), "half": values.astype(np.float16)},
    )

    def build_it(network: Any, trt: Any, weights: Mapping[str, Array]) -> None:  # noqa: ANN401
        image = network.add_input("image", trt.float32, (-1, 1, 28, 28))
        network.mark_output(network.add_identity(image).get_output(0))
        for name in ("low", "half"):
            made = network.add_constant((2, 3), weights[name]).get_output(0)
            network.mark_output(network.add_identity(made).get_output(0))

    build.define(build_it, read_weights(path))
    kinds = [build.network.get_output(at).dtype for at in (1, 2)]
    assert kinds == [build.trt.bfloat16, build.trt.float16]


@pytest.mark.parametrize("pad", range(4))
def test_safetensors_are_read_wherever_their_data_begins(pad: int, tmp_path: Path) -> None:
    arrays = _lenet_weights()
    found = read_weights(_safetensors(tmp_path / "w.safetensors", arrays, pad))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.aligned


def test_safetensors_are_read_as_the_library_writes_them(tmp_path: Path) -> None:
    library = pytest.importorskip(
        "safetensors.numpy", reason="python -m pip install 'engineforge[pytorch]'"
    )
    arrays = {**_lenet_weights(), "empty": np.zeros((0, 3), np.int64), "one": np.array(1.5)}
    library.save_file(arrays, tmp_path / "w.safetensors")
    found = read_weights(tmp_path / "w.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_pickles_among_the_weights_are_refused_and_not_run(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "ran").touch, ())

    arrays: Any = {"w": np.array([Code()], dtype=object)}
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(BuildError, match="it holds Python objects, which are code") as caught:
        read_weights(tmp_path / "w.npz")
    assert caught.value.hint
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("cut", [4, 100, -4])
def test_truncated_safetensors_are_refused(cut: int, tmp_path: Path) -> None:
    path = _safetensors(tmp_path / "w.safetensors", _lenet_weights())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BuildError, match=r"weights 'w.safetensors' are not readable: .+"):
        read_weights(path)


def test_a_header_that_lies_about_its_tensors_is_refused(tmp_path: Path) -> None:
    path = _safetensors(tmp_path / "w.safetensors", {"w": np.ones((2, 3), np.float32)})
    path.write_bytes(path.read_bytes().replace(b"[2, 3]", b"[9, 3]"))
    with pytest.raises(BuildError, match=r"'w' is F32 \[9, 3\], at the bytes 0 to 24"):
        read_weights(path)


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "w.pt"])
def test_files_that_are_something_else_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04something else")
    with pytest.raises(BuildError, match=f"weights '{name}'"):
        read_weights(tmp_path / name)


def test_weights_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"cannot be read: No such file"):
        read_weights(tmp_path / "w.safetensors")


def test_weights_are_a_mapping() -> None:
    weights = Weights({"a": np.ones(1)}, "w.npz")
    assert "b" not in weights
    assert weights.get("b") is None
    assert dict(weights) == {"a": np.ones(1)}
