"""What running an engine costs over the bare calls, and what is measured of it."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import TensorProto, helper, numpy_helper

from engineforge.runtime.engine import Engine
from engineforge.runtime.latency import measure
from tests.gpu.conftest import Bench, tell
from tests.models import save

pytestmark = pytest.mark.gpu

_ROUNDS, _RUNS = 40, 100
_MOST = 1.03


@pytest.fixture(scope="module")
def entry(bench: Bench) -> Path:
    """Sixteen convolutions of an image, about as long as ResNet-50 takes for one."""
    random = np.random.default_rng(0)
    nodes, weights, source, channels = [], [], "image", 3
    for i in range(16):
        weight = random.standard_normal((96, channels, 3, 3)).astype(np.float32)
        weight *= (2 / (9 * channels)) ** 0.5
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        stride = 1 if i else 2
        nodes.append(
            helper.make_node(
                "Conv",
                [source, f"w{i}"],
                [f"c{i}"],
                name=f"c{i}",
                kernel_shape=[3, 3],
                pads=[1, 1, 1, 1],
                strides=[stride, stride],
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"r{i}"))
        source, channels = f"r{i}", 96
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["pool"], name="pool"))
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 224, 224])],
        [helper.make_tensor_value_info("pool", TensorProto.FLOAT, ["n", 96, 1, 1])],
        weights,
    )
    save(graph, bench.model("stack"))
    dims = "{min: [1, 3, 224, 224], opt: [1, 3, 224, 224], max: [2, 3, 224, 224]}"
    return bench.build("stack", f"inputs: {{image: {dims}}}\n")


def bare_loop(engine: Engine, image: npt.NDArray[np.float32]) -> Callable[[], Any]:
    """The same CUDA and TensorRT calls, with everything prepared by hand."""
    from cuda.bindings import runtime as cudart

    cuda_engine = engine.loaded.cuda_engine
    context = cuda_engine.create_execution_context()
    _, stream = cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking)
    kinds = cudart.cudaMemcpyKind
    copies, staging = {}, {}
    for name, shape in (("image", image.shape), ("pool", (1, 96, 1, 1))):
        size = int(np.prod(shape)) * 4
        _, device = cudart.cudaMalloc(size)
        _, host = cudart.cudaHostAlloc(size, 0)
        raw = (ctypes.c_char * size).from_address(int(host))
        staging[name] = np.ndarray(shape, np.float32, buffer=memoryview(raw))
        to_gpu = (device, host, size, kinds.cudaMemcpyHostToDevice, stream)
        from_gpu = (host, device, size, kinds.cudaMemcpyDeviceToHost, stream)
        copies[name] = to_gpu if name == "image" else from_gpu
        if name == "image":
            assert context.set_input_shape(name, shape)
        assert context.set_tensor_address(name, int(device))
    handle = int(stream)

    def run() -> Any:  # noqa: ANN401
        np.copyto(staging["image"], image)
        cudart.cudaMemcpyAsync(*copies["image"])
        context.execute_async_v3(handle)
        cudart.cudaMemcpyAsync(*copies["pool"])
        cudart.cudaStreamSynchronize(stream)
        return staging["pool"].copy()

    return run


def seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    for _ in range(_RUNS):
        run()
    return (time.perf_counter() - started) / _RUNS


def test_a_run_costs_at_most_3_percent_over_the_bare_calls(entry: Path) -> None:
    image = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
    # Two engines: on TensorRT 8 two contexts do not share a profile.
    with Engine.load(entry) as other, Engine.load(entry) as engine:
        runs: dict[str, Callable[[], Any]] = {
            "bare": bare_loop(other, image),
            "ours": lambda: engine.run({"image": image}),
        }
        assert np.allclose(runs["bare"](), runs["ours"]()["pool"], rtol=1e-3)
        for run in runs.values():
            seconds(run)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for at in range(_ROUNDS):
            for name in sorted(runs, reverse=bool(at % 2)):
                times[name].append(seconds(runs[name]))
        del runs
    median = {name: statistics.median(each) for name, each in times.items()}
    ratio = statistics.median(
        ours / bare for ours, bare in zip(times["ours"], times["bare"], strict=True)
    )
    tell(f"bare {median['bare'] * 1e6:.1f} us, ours {median['ours'] * 1e6:.1f} us: {ratio:.4f}")
    assert ratio <= _MOST


def test_a_measurement_is_consistent(entry: Path) -> None:
    with Engine.load(entry) as engine:
        found = measure(engine, duration_s=0.5, layers=True)
        graph = measure(engine, duration_s=0.3, cuda_graph=True)
    parts = ("h2d_ms", "compute_ms", "d2h_ms")
    total = sum(found[part]["mean"] for part in parts)
    assert found["latency_ms"]["mean"] == pytest.approx(total)
    assert found["throughput_qps"] <= 1050 / found["latency_ms"]["min"]
    told = {each["name"]: each["ms"] for each in found["layers"]}
    for part in ("compute_ms", "enqueue_ms"):
        tell(f"{part} {found[part]['median']:.4f}, with a graph {graph[part]['median']:.4f}")
    tell(f"layers {sum(told.values()):.4f} ms in {len(told)}")
    assert 0.5 < sum(told.values()) / found["compute_ms"]["median"] < 3


def test_without_transfers_only_computing_is_latency(entry: Path) -> None:
    with Engine.load(entry) as engine:
        found = measure(engine, duration_s=0.2, transfers=False)
    assert found["h2d_ms"]["max"] == 0
    assert found["latency_ms"]["mean"] == found["compute_ms"]["mean"]
