"""Engines of classic TensorRT loaded and run on this host's GPU, against ONNX Runtime."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper

from engineforge.errors import StoreCorrupt
from engineforge.runtime import dlpack
from engineforge.runtime.cuda import Copy, DeviceMemory, Stream
from engineforge.runtime.device_tensor import DeviceTensor
from engineforge.runtime.engine import Engine
from engineforge.runtime.interface import WrongInput
from engineforge.runtime.layers import layer_information
from engineforge.runtime.load_test import load_test
from engineforge.runtime.loaded import RunError
from tests.gpu.conftest import Bench, tell
from tests.models import convnet, save

pytestmark = pytest.mark.gpu

Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def entry(bench: Bench) -> Path:
    """A small network with a dynamic batch."""
    convnet(bench.model("net"))
    dims = "{min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}"
    return bench.build("net", f"inputs: {{image: {dims}}}\n")


@pytest.fixture(scope="module")
def two(bench: Bench) -> Path:
    """The same network with two profiles, which contexts do not share on TensorRT 8."""
    convnet(bench.model("two"))
    return bench.build(
        "two",
        "profiles:\n"
        "  - {image: {min: [1, 3, 16, 16], opt: [1, 3, 16, 16], max: [2, 3, 16, 16]}}\n"
        "  - {image: {min: [4, 3, 16, 16], opt: [8, 3, 16, 16], max: [8, 3, 16, 16]}}\n",
    )


def images(batch: int, seed: int = 0) -> Arrays:
    random = np.random.default_rng(seed)
    return {"image": random.standard_normal((batch, 3, 16, 16)).astype(np.float32)}


def expected(model: Path, inputs: Arrays) -> Arrays:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def close(found: Any, wanted: Any) -> bool:  # noqa: ANN401
    return found.shape == wanted.shape and np.allclose(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_outputs_are_those_of_onnx_runtime(bench: Bench, entry: Path, batch: int) -> None:
    inputs = images(batch)
    wanted = expected(bench.model("net"), inputs)["logits"]
    with Engine.load(entry) as engine:
        assert close(engine.run(inputs)["logits"], wanted)
        strided = np.asfortranarray(inputs["image"])
        assert close(engine.run({"image": strided})["logits"], wanted)


def test_shapes_may_change_from_run_to_run(bench: Bench, entry: Path) -> None:
    with Engine.load(entry) as engine:
        for seed, batch in enumerate([8, 1, 5, 5, 8, 2]):
            inputs = images(batch, seed)
            wanted = expected(bench.model("net"), inputs)["logits"]
            assert close(engine.run(inputs)["logits"], wanted)


def test_outputs_are_the_callers_own(entry: Path) -> None:
    with Engine.load(entry) as engine:
        first = engine.run(images(2, 1))["logits"]
        kept = np.array(first)
        engine.run(images(2, 2))
        assert np.array_equal(first, kept)


def test_a_shape_in_no_profile_is_told(entry: Path) -> None:
    with Engine.load(entry) as engine, pytest.raises(WrongInput) as error:
        engine.run(images(9))
    assert str(error.value) == (
        "input 'image': shape [9, 3, 16, 16] is in no profile: [1, 3, 16, 16] to [8, 3, 16, 16]"
    )


def test_each_shape_runs_in_the_profile_that_takes_it(bench: Bench, two: Path) -> None:
    with Engine.load(two) as engine:
        assert [p["image"].shape.opt[0] for p in engine.interface.profiles] == [1, 8]  # type: ignore[union-attr]
        for batch in (2, 4, 1, 8):
            inputs = images(batch, batch)
            wanted = expected(bench.model("two"), inputs)["logits"]
            assert close(engine.run(inputs)["logits"], wanted)
        with pytest.raises(WrongInput, match="is in no profile"):
            engine.run(images(3))
        with pytest.raises(WrongInput, match="is not in profile 1"):
            engine.run(images(1), 1)


def test_a_context_of_ones_own_takes_an_idle_profile(two: Path) -> None:
    with Engine.load(two) as engine:
        wanted = engine.run(images(8))["logits"]
        with engine.context(1) as context:
            assert close(context.run(images(8))["logits"], wanted)


def test_threads_run_one_engine_at_once(bench: Bench, entry: Path) -> None:
    inputs = [images(1 + seed % 8, seed) for seed in range(16)]
    wanted = [expected(bench.model("net"), each)["logits"] for each in inputs]
    start = threading.Barrier(8)
    with Engine.load(entry) as engine, ThreadPoolExecutor(8) as threads:

        def run(thread: int) -> bool:
            start.wait()
            order = [(thread + i) % 16 for i in range(40)]
            return all(close(engine.run(inputs[at])["logits"], wanted[at]) for at in order)

        assert all(threads.map(run, range(8)))


def test_a_cuda_graph_computes_the_same(two: Path) -> None:
    batches = [8, 8, 4, 8]
    with Engine.load(two) as engine:
        plain = {(b, seed): engine.run(images(b, seed))["logits"] for seed, b in enumerate(batches)}
    with Engine.load(two) as engine, engine.context(1, cuda_graph=True) as context:
        for seed, batch in enumerate(batches):
            inputs = images(batch, seed)
            graph = context.run(inputs)["logits"]
            given_out = context.run(inputs, device=True)["logits"]
            assert isinstance(given_out, DeviceTensor)
            assert np.array_equal(given_out.numpy(), graph)
            assert np.array_equal(plain[batch, seed], graph)


def test_a_graph_can_be_made_before_the_first_run(two: Path) -> None:
    with Engine.load(two) as engine:
        wanted = engine.run(images(8))["logits"]
        with engine.context(1) as context:
            context.capture({"image": (8, 3, 16, 16)})
            assert np.array_equal(context.run(images(8))["logits"], wanted)


def test_outputs_on_the_gpu_are_inputs_through_dlpack(bench: Bench) -> None:
    dims: list[int | str | None] = ["n", 4]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Add", ["r", "x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
    )
    save(graph, bench.model("add"))
    built = bench.build("add", "inputs: {x: {min: [1, 4], opt: [2, 4], max: [8, 4]}}\n")
    x = np.array([[1, -2, 3, -4], [5, 6, -7, -8]], np.float32)
    once = np.maximum(x, 0) + x
    with Engine.load(built) as engine:
        first = engine.run({"x": x}, device=True)["y"]
        assert isinstance(first, DeviceTensor)
        assert np.array_equal(first.numpy(), once)
        assert first.__cuda_array_interface__["shape"] == (2, 4)
        second = engine.run({"x": first}, device=True)["y"]
        again = engine.run({"x": x})["y"]  # from the host after in place
        assert np.array_equal(again, once)
        assert isinstance(second, DeviceTensor)
        assert np.array_equal(second.numpy(), np.maximum(once, 0) + once)
        assert np.array_equal(first.numpy(), once)
        assert np.array_equal(engine.run({"x": _Unaligned(engine, x)})["y"], once)
        assert np.array_equal(engine.run({"x": x})["y"], once)
    # What was given out outlives the engine.
    assert np.array_equal(first.numpy(), once)


class _Unaligned:
    """CUDA memory that begins at no multiple of 256, so it cannot be used in place."""

    def __init__(self, engine: Engine, array: npt.NDArray[np.float32]) -> None:
        self._memory = DeviceMemory(array.nbytes + 16)
        self._shape, self._index = array.shape, engine.loaded.device.index
        with Stream() as stream:
            to = self._memory.handle + 16
            Copy(to, array.ctypes.data, array.nbytes, "HostToDevice", stream)()
            stream.synchronize()

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self._index

    def __dlpack__(self, *, stream: int | None = None) -> Any:  # noqa: ANN401
        return dlpack.lend(
            self._memory,
            pointer=self._memory.handle + 16,
            shape=self._shape,
            dtype=np.dtype(np.float32),
            device=self.__dlpack_device__(),
        )


def test_an_output_may_have_a_shape_that_depends_on_the_data(bench: Bench) -> None:
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["where"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("where", TensorProto.INT64, [2, "found"])],
    )
    save(graph, bench.model("nonzero"))
    # With shapes that are all fixed, 8.6.0 makes an engine that it cannot run.
    spec = "inputs: {x: {min: [1, 4], opt: [3, 4], max: [8, 4]}}\n"
    with Engine.load(bench.build("nonzero", spec)) as engine:
        for count in (0, 5, 12, 1):
            x = np.zeros((3, 4), np.float32)
            x.flat[:count] = 1
            where = engine.run({"x": x})["where"]
            assert where.shape == (2, count)
            assert np.array_equal(where, np.stack(np.nonzero(x)))
        on_gpu = engine.run({"x": np.ones((3, 4), np.float32)}, device=True)["where"]
        assert on_gpu.shape == (2, 12)
    with (
        Engine.load(bench.build("nonzero", spec)) as engine,
        engine.context(cuda_graph=True) as context,
        pytest.raises(RunError, match="the shape of 'where' depends on the data"),
    ):
        context.run({"x": np.ones((3, 4), np.float32)})


def test_a_plugin_of_tensorrts_own_is_built_and_run(bench: Bench) -> None:
    """What exporters of detectors put at the end of a network."""
    sizes = {"num": [1, 1], "boxes": [1, 4, 4], "scores": [1, 4], "classes": [1, 4]}
    kinds = {"num": TensorProto.INT32, "classes": TensorProto.INT32}
    node = helper.make_node(
        "EfficientNMS_TRT",
        ["raw", "found"],
        list(sizes),
        name="/nms",
        domain="TRT",
        plugin_version="1",
        background_class=-1,
        max_output_boxes=4,
        score_threshold=0.25,
        iou_threshold=0.5,
        score_activation=0,
        box_coding=0,
    )
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("raw", TensorProto.FLOAT, [1, 6, 4]),
            helper.make_tensor_value_info("found", TensorProto.FLOAT, [1, 6, 2]),
        ],
        [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), size)
            for name, size in sizes.items()
        ],
    )
    save(graph, bench.model("nms"), domains={"TRT": 1})
    corners = [[0, 0, 1, 1], [0, 0, 1, 0.9], [2, 2, 3, 3], [5, 5, 6, 6], [5, 5, 6, 6], [8, 8, 9, 9]]
    raw = np.array([corners], np.float32)
    found = np.zeros((1, 6, 2), np.float32)
    # The second overlaps the first, the fifth the fourth in another class, the sixth is too faint.
    found[0, range(6), [0, 0, 0, 0, 1, 1]] = [0.9, 0.8, 0.7, 0.6, 0.5, 0.1]
    with Engine.load(bench.build("nms", "")) as engine:
        outputs = engine.run({"raw": raw, "found": found})
    assert outputs["num"].tolist() == [[4]]
    assert outputs["classes"].tolist() == [[0, 0, 0, 1]]
    assert np.allclose(outputs["scores"], [[0.9, 0.7, 0.6, 0.5]])
    assert np.array_equal(outputs["boxes"], raw[:, [0, 2, 3, 4]])


def test_a_shape_tensor_decides_the_shape_of_an_output(bench: Bench) -> None:
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "size"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4]),
            helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
    )
    save(graph, bench.model("expand"))
    values = "{values: {min: [1, 4], opt: [2, 4], max: [8, 4]}}"
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    with Engine.load(bench.build("expand", f"inputs: {{size: {values}}}\n")) as engine:
        dtype = engine.interface.inputs["size"].numpy_type
        for rows in (2, 2, 8, 1):
            y = engine.run({"x": x, "size": np.array([rows, 4], dtype)})["y"]
            assert np.array_equal(y, np.repeat(x, rows, axis=0))
        with pytest.raises(WrongInput, match=r"values \[9, 4\] are in no profile"):
            engine.run({"x": x, "size": np.array([9, 4], dtype)})


def test_a_tampered_engine_is_refused(entry: Path, tmp_path: Path) -> None:
    copy = tmp_path / "entry"
    shutil.copytree(entry, copy)
    copy.chmod(0o755)
    engine = copy / "model.engine"
    data = bytearray(engine.read_bytes())
    data[-100] ^= 1
    engine.chmod(0o644)
    engine.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="it was changed"):
        Engine.load(copy)


def test_the_head_of_a_plan_is_read_as_nvidia_publishes_it(entry: Path) -> None:
    from engineforge.runtime.engine_file import plan_version, read_engine

    file = read_engine(entry)
    version = plan_version(file.data)
    pinned = file.recipe["toolchain"]["version"]
    tell(f"head: {bytes(file.data[:28]).hex()} = {version}, pinned {pinned}")
    assert version is None or version.split(".")[:3] == pinned.split(".")[:3]


def test_a_load_test_runs_every_profile(two: Path) -> None:
    with Engine.load(two) as engine:
        found = load_test(engine, 0)
    assert [run["profile"] for run in found["runs"]] == [0, 1]
    assert found["runs"][1]["outputs"]["logits"] == {
        "shape": [8, 10],
        "dtype": "float32",
        "finite": True,
    }


def test_layers_have_names(entry: Path) -> None:
    with Engine.load(entry) as engine:
        found = layer_information(engine)
    assert found["layers"]
    assert all(each["name"] for each in found["layers"])


def test_the_command_line_runs_an_engine(bench: Bench, entry: Path, tmp_path: Path) -> None:
    inputs = images(3)
    np.save(tmp_path / "batch.npy", inputs["image"])
    told = json.loads(
        bench.run(
            *("run", "specs/net.yaml", "--input", f"image={tmp_path / 'batch.npy'}"),
            *("--output", f"logits={tmp_path / 'out.npy'}", "--json"),
        )
    )
    assert told["outputs"]["logits"]["shape"] == [3, 10]
    wanted = expected(bench.model("net"), inputs)["logits"]
    assert close(np.load(tmp_path / "out.npy"), wanted)


def test_the_command_line_measures_an_engine(bench: Bench, entry: Path) -> None:
    told = json.loads(bench.run("bench", str(entry), "--duration", "0.3", "--layers", "--json"))
    assert told["queries"] >= 10
    assert 0 < told["compute_ms"]["min"] <= told["compute_ms"]["p99"]
    assert told["layers"]
    assert told["gpu"]["end"]["sm_clock_mhz"]
