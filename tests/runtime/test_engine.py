"""What engines and contexts make of inputs, buffers and threads, on a pretended GPU."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engineforge.errors import EngineForgeError
from engineforge.runtime import cuda as cuda_room
from engineforge.runtime import dlpack
from engineforge.runtime.context import Context, ProfileTaken
from engineforge.runtime.cuda import DeviceMemory
from engineforge.runtime.device_tensor import DeviceTensor
from engineforge.runtime.engine import Engine
from engineforge.runtime.interface import Interface, Tensor, WrongInput
from engineforge.runtime.latency import measure
from engineforge.runtime.loaded import RunError
from engineforge.spec.model import InputRange, ShapeRange
from tests.runtime.pretend import PretendCuda, PretendLoaded, pretend_engine

X = Tensor(name="x", dtype="FLOAT", dims=(-1, 4))
Y = Tensor(name="y", dtype="FLOAT", dims=(-1, 4))
WHERE = Tensor(name="where", dtype="INT32", dims=(2, -1))


def interface(*highest: int, outputs: tuple[Tensor, ...] = (Y,)) -> Interface:
    profiles = [
        {"x": InputRange(shape=ShapeRange(min=(1, 4), opt=(high, 4), max=(high, 4)))}
        for high in highest
    ]
    return Interface(
        inputs={"x": X}, outputs={each.name: each for each in outputs}, profiles=profiles
    )


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendCuda]:
    """The pretended GPU, on which nothing may be left."""
    pretended = PretendCuda()
    monkeypatch.setattr(cuda_room, "_bindings", lambda: pretended)
    yield pretended
    gc.collect()
    assert not pretended.alive


def x(rows: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)


def y(array: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return array + np.maximum(array, 0)


class OnGpu:
    """An array in the memory of the pretended GPU, as another library would have it."""

    def __init__(self, array: npt.NDArray[Any], offset: int = 0) -> None:
        self._memory = DeviceMemory(array.nbytes + offset)
        self._shape, self._offset = array.shape, offset
        raw = np.frombuffer(array.tobytes(), np.uint8)
        import ctypes

        ctypes.memmove(self._memory.handle + offset, raw.ctypes.data, array.nbytes)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, 0

    def __dlpack__(self, *, stream: int | None = None) -> Any:  # noqa: ANN401
        assert stream
        return dlpack.lend(
            self._memory,
            pointer=self._memory.handle + self._offset,
            shape=self._shape,
            dtype=np.dtype(np.float32),
            device=self.__dlpack_device__(),
        )


def test_outputs_follow_inputs_of_changing_shapes(cuda: PretendCuda) -> None:
    with pretend_engine(PretendLoaded(cuda, interface(8))) as engine:
        for seed, rows in enumerate([8, 1, 5, 5, 8]):
            assert np.array_equal(engine.run({"x": x(rows, seed)})["y"], y(x(rows, seed)))


def test_equal_shapes_are_bound_once(cuda: PretendCuda) -> None:
    loaded = PretendLoaded(cuda, interface(8))
    with pretend_engine(loaded) as engine:
        for seed in range(5):
            engine.run({"x": x(3, seed)})
        (context,) = loaded.contexts
        assert context.calls.count("set_input_shape") == 1
        assert (cuda.copies, cuda.launches, cuda.waits) == (10, 5, 5)


def test_outputs_are_the_callers_own(cuda: PretendCuda) -> None:
    with pretend_engine(PretendLoaded(cuda, interface(8))) as engine:
        first = engine.run({"x": x(2, 1)})["y"]
        engine.run({"x": x(2, 2)})
        assert np.array_equal(first, y(x(2, 1)))


def test_cuda_memory_is_read_in_place_and_then_the_hosts_again(cuda: PretendCuda) -> None:
    with pretend_engine(PretendLoaded(cuda, interface(8))) as engine:
        for array in (x(2, 1), OnGpu(x(2, 2)), OnGpu(x(2, 3), offset=16), x(2, 4)):
            before = cuda.copies
            found = engine.run({"x": array})["y"]
            if isinstance(array, OnGpu):
                aligned = array._offset == 0
                assert cuda.copies - before == (1 if aligned else 2)
        assert np.array_equal(found, y(x(2, 4)))
        assert np.array_equal(engine.run({"x": OnGpu(x(2, 5), 16)})["y"], y(x(2, 5)))
        assert np.array_equal(engine.run({"x": x(2, 6)})["y"], y(x(2, 6)))


def test_outputs_on_the_gpu_are_kept_by_their_taker(cuda: PretendCuda) -> None:
    with pretend_engine(PretendLoaded(cuda, interface(8))) as engine:
        first = engine.run({"x": x(2, 1)}, device=True)["y"]
        second = engine.run({"x": first}, device=True)["y"]
        assert isinstance(first, DeviceTensor)
        assert first.__cuda_array_interface__["shape"] == (2, 4)
    assert np.array_equal(first.numpy(), y(x(2, 1)))
    assert np.array_equal(second.numpy(), y(y(x(2, 1))))


@pytest.mark.parametrize("device", [False, True])
def test_a_shape_may_depend_on_the_data(cuda: PretendCuda, device: bool) -> None:
    loaded = PretendLoaded(cuda, interface(3, outputs=(WHERE,)))
    with pretend_engine(loaded) as engine:
        for count in (0, 5, 12, 1):
            array = np.zeros((3, 4), np.float32)
            array.flat[:count] = 1
            found = engine.run({"x": array}, device=device)["where"]
            found = found.numpy() if device else found
            assert np.array_equal(found, np.stack(np.nonzero(array)))


def test_a_graph_is_made_once_for_each_shape(cuda: PretendCuda) -> None:
    loaded = PretendLoaded(cuda, interface(8))
    with pretend_engine(loaded) as engine, engine.context(cuda_graph=True) as context:
        for seed in range(4):
            assert np.array_equal(context.run({"x": x(8, seed)})["y"], y(x(8, seed)))
        assert cuda.launches == 5  # once before it was captured
        assert np.array_equal(context.run({"x": x(2)})["y"], y(x(2)))
        kept = context.run({"x": OnGpu(x(2, 7))}, device=True)["y"]
        context.run({"x": x(2, 8)})
        assert np.array_equal(kept.numpy(), y(x(2, 7)))


def test_a_graph_may_be_made_before_the_first_run(cuda: PretendCuda) -> None:
    loaded = PretendLoaded(cuda, interface(8))
    with pretend_engine(loaded) as engine, engine.context() as context:
        context.capture({"x": (8, 4)})
        assert np.array_equal(context.run({"x": x(8)})["y"], y(x(8)))
        assert cuda.launches == 2


def test_no_graph_of_shapes_that_depend_on_the_data(cuda: PretendCuda) -> None:
    loaded = PretendLoaded(cuda, interface(3, outputs=(WHERE,)))
    with (
        pretend_engine(loaded) as engine,
        engine.context(cuda_graph=True) as context,
        pytest.raises(RunError, match="the shape of 'where' depends on the data"),
    ):
        context.run({"x": x(3)})


@pytest.mark.parametrize(("shared", "most"), [(True, 4), (False, 2)])
def test_threads_have_contexts_of_their_own(cuda: PretendCuda, shared: bool, most: int) -> None:
    loaded = PretendLoaded(cuda, interface(2, 8), shared=shared)
    start = threading.Barrier(8)
    with pretend_engine(loaded) as engine, ThreadPoolExecutor(8) as threads:

        def run(thread: int) -> bool:
            start.wait()
            seeds = [thread * 100 + i for i in range(50)]
            return all(
                np.array_equal(engine.run({"x": x(1 + s % 8, s)})["y"], y(x(1 + s % 8, s)))
                for s in seeds
            )

        assert all(threads.map(run, range(8)))
        assert len(engine._made) <= most


def test_closing_waits_for_a_run_that_is_under_way(
    cuda: PretendCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = PretendLoaded(cuda, interface(8))
    running, go_on = threading.Event(), threading.Event()
    launch = Context.launch

    def slowly(context: Context) -> None:
        running.set()
        go_on.wait()
        launch(context)

    monkeypatch.setattr(Context, "launch", slowly)
    with ThreadPoolExecutor(2) as threads:
        engine: Engine = pretend_engine(loaded)
        run = threads.submit(engine.run, {"x": x(2)})
        assert running.wait(30)
        closing = threads.submit(engine.close)
        with pytest.raises(NotYet):
            closing.result(0.05)
        assert not loaded.closed
        go_on.set()
        assert np.array_equal(run.result(30)["y"], y(x(2)))
        closing.result(30)
    assert loaded.closed


def test_a_profile_that_is_not_shared_is_said(cuda: PretendCuda) -> None:
    with pretend_engine(PretendLoaded(cuda, interface(8), shared=False)) as engine:
        engine.context()
        with pytest.raises(ProfileTaken, match="profile 0 is in use") as error:
            engine.run({"x": x(1)})
        assert "profile_sharing_0806" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"x": [1.0]}, "expected a NumPy array or something with '__dlpack__', found list"),
        ({"z": x(1)}, "the engine has no input 'z'"),
        ({"x": x(9)}, r"shape \[9, 4\] is in no profile: \[1, 4\] to \[8, 4\]"),
        ({"x": x(2).astype(np.float64)}, "expected float32, found float64"),
    ],
)
def test_wrong_inputs_are_told_and_do_no_harm(
    cuda: PretendCuda, inputs: dict[str, Any], said: str
) -> None:
    with pretend_engine(PretendLoaded(cuda, interface(8))) as engine:
        for _ in range(2):
            with pytest.raises(WrongInput, match=said):
                engine.run(inputs)
            assert np.array_equal(engine.run({"x": x(2)})["y"], y(x(2)))


def test_a_closed_engine_says_so(cuda: PretendCuda) -> None:
    loaded = PretendLoaded(cuda, interface(8))
    engine: Engine = pretend_engine(loaded)
    engine.run({"x": x(1)})
    engine.close()
    engine.close()
    assert loaded.closed
    with pytest.raises(EngineForgeError, match=r"'pretend\.engine' is closed"):
        engine.run({"x": x(1)})


@pytest.mark.parametrize("graph", [False, True])
def test_a_measurement_has_all_that_trtexec_tells(cuda: PretendCuda, graph: bool) -> None:
    sampled: list[int] = []

    def sampler() -> dict[str, int]:
        sampled.append(1)
        return {"sm_clock_mhz": 1980}

    with pretend_engine(PretendLoaded(cuda, interface(8))) as engine:
        found = measure(
            engine,
            {"x": (3, 4)},
            duration_s=0.01,
            warm_up_ms=1,
            streams=2,
            cuda_graph=graph,
            sampler=sampler,
        )
    assert found["shapes"] == {"x": [3, 4]}
    assert found["queries"] >= 20
    assert found["compute_ms"]["p99"] == 0.25
    assert found["latency_ms"]["median"] == 0.75
    assert found["throughput_qps"] == pytest.approx(found["queries"] / found["seconds"])
    assert list(found["gpu"]) == ["idle", "start", "end"]
    assert len(sampled) == 3
