"""How fast an engine is: what `trtexec` measures, on contexts of this room.

A query is copies in, the engine, copies out, in one stream, timed by events on the GPU; each stream
has the next query enqueued before it waits for the last. Unlike trtexec, copies of one query
overlap with another's computing only with several streams.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engineforge.runtime.context import Context
from engineforge.runtime.cuda import Event
from engineforge.runtime.engine import Engine
from engineforge.runtime.interface import Request, Shape
from engineforge.runtime.statistics import HOW, bound_by, by_layer, summary

Sampler = Callable[[], Mapping[str, Any]]
_PARTS = ("h2d", "compute", "d2h", "latency", "enqueue")
_LAYER_RUNS = 50


def measure(
    engine: Engine,
    shapes: Mapping[str, Shape] | None = None,
    *,
    profile: int | None = None,
    at: str = "opt",
    values: Mapping[str, Shape] | None = None,
    warm_up_ms: float = 200,
    duration_s: float = 3,
    iterations: int = 10,
    streams: int = 1,
    cuda_graph: bool = False,
    transfers: bool = True,
    seed: int = 0,
    layers: bool = False,
    sampler: Sampler | None = None,
) -> dict[str, Any]:
    """Throughput in queries per second and times in ms, over at least `duration_s` seconds and
    `iterations` queries for each stream, on seeded random inputs.

    Inputs without a shape take that of the profile `at` its min, opt or max; values of shape
    tensors likewise. `latency` is the sum of copies in, computing and copies out, `enqueue` the
    host's time of enqueuing the engine. `layers` adds a second run with TensorRT's own times of
    each layer; `sampler` tells what the GPU is doing, before, and at both ends under load.
    WrongInput for shapes that no profile takes, RunError where it fails.
    """
    base = engine.interface.opt(profile or 0, at)
    request = Request(
        shapes={**base.shapes, **(shapes or {})}, values={**base.values, **(values or {})}
    )
    index = engine.interface.profile_for(request, profile)
    arrays = random_inputs(engine, request, seed)
    gpu = {} if sampler is None else {"idle": dict(sampler())}
    with contextlib.ExitStack() as stack:
        runs = []
        for _ in range(streams):
            made = stack.enter_context(engine.context(index, cuda_graph=cuda_graph))
            made.prepare(request, arrays)
            runs.append(stack.enter_context(_Stream(made, transfers=transfers)))
        stack.enter_context(engine.loaded.device)
        warm = _query(runs, warm_up_ms / 1000, 1)
        if sampler is not None:
            gpu["start"] = _sample_loaded(runs, sampler)
        _finish(runs)
        started = time.monotonic()
        queries = _query(runs, duration_s, iterations, keep=True)
        _finish(runs)
        seconds = time.monotonic() - started
        if sampler is not None:
            gpu["end"] = _sample_loaded(runs, sampler)
            _finish(runs)
        times = {p: summary([t for run in runs for t in run.times[p]]) for p in _PARTS}
        skipped = runs[0].made.data_dependent
    found: dict[str, Any] = {
        "profile": index,
        "shapes": {name: list(shape) for name, shape in request.shapes.items()},
        "values": {name: list(each) for name, each in request.values.items()},
        "streams": streams,
        "cuda_graph": cuda_graph,
        "transfers": transfers,
        "seed": seed,
        "warm_up": {"ms": warm_up_ms, "queries": warm},
        "queries": queries,
        "seconds": seconds,
        "throughput_qps": queries / seconds,
        **{f"{part}_ms": times[part] for part in _PARTS},
        "percentiles": HOW,
        "notes": bound_by(times),
        "gpu": gpu,
    }
    if skipped and transfers:
        found["notes"].append(f"not copied out, as their shapes are not known before: {skipped}")
    if layers:
        found["layers"] = _layers(engine, index, request, arrays)
    return found


def random_inputs(engine: Engine, request: Request, seed: int) -> dict[str, npt.NDArray[Any]]:
    """Inputs by name: fractions from -1 to 1, whole numbers 0 or 1, as indices must be in range;
    shape tensors have their values."""
    random = np.random.default_rng(seed)
    found: dict[str, npt.NDArray[Any]] = {}
    for name, tensor in engine.interface.inputs.items():
        shape, dtype = request.shapes[name], tensor.numpy_type
        if name in request.values:
            found[name] = np.array(request.values[name], dtype).reshape(shape)
        elif dtype.kind in "iub":
            found[name] = random.integers(0, 2, shape).astype(dtype)
        else:
            found[name] = random.uniform(-1, 1, shape).astype(np.float32).astype(dtype)
    return found


@dataclass(slots=True)
class _Query:
    """The events of a query under way, and when it was enqueued."""

    events: tuple[Event, Event, Event, Event]
    enqueue_ms: float = 0.0
    kept: bool = False
    running: bool = False


@dataclass(slots=True)
class _Stream:
    """A context that is kept busy: one query runs while the next is enqueued."""

    made: Context
    transfers: bool
    times: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in _PARTS})
    _queries: list[_Query] = field(default_factory=list)
    _next: int = 0

    def __enter__(self) -> _Stream:
        for _ in range(2):
            self._queries.append(_Query((Event(), Event(), Event(), Event())))
        return self

    def __exit__(self, *error: object) -> None:
        # Events may still be in the stream: CUDA frees those when they have happened.
        for query in self._queries:
            for event in query.events:
                event.close()

    def enqueue(self, *, keep: bool) -> None:
        """One more query, once the last but one is done."""
        query = self._queries[self._next % 2]
        self._next += 1
        self._collect(query)
        made, (begin, sent, computed, fetched) = self.made, query.events
        begin.record(made.stream)
        if self.transfers:
            made.send()
        sent.record(made.stream)
        started = time.perf_counter()
        made.launch()
        query.enqueue_ms = (time.perf_counter() - started) * 1000
        computed.record(made.stream)
        if self.transfers:
            made.fetch()
        fetched.record(made.stream)
        query.kept, query.running = keep, True

    def finish(self) -> None:
        for at in (0, 1):
            self._collect(self._queries[(self._next + at) % 2])

    def _collect(self, query: _Query) -> None:
        if not query.running:
            return
        begin, sent, computed, fetched = query.events
        fetched.synchronize()
        query.running = False
        if not query.kept:
            return
        parts = (sent.since(begin), computed.since(sent), fetched.since(computed))
        if not self.transfers:
            parts = (0.0, parts[1], 0.0)
        for name, ms in zip(_PARTS, (*parts, sum(parts), query.enqueue_ms), strict=True):
            self.times[name].append(ms)


def _query(runs: list[_Stream], seconds: float, least: int, *, keep: bool = False) -> int:
    """Enqueue queries on all streams in turn for that long, and at least `least` each."""
    count, end = 0, time.monotonic() + seconds
    while count < least or time.monotonic() < end:
        for run in runs:
            run.enqueue(keep=keep)
        count += 1
    return count * len(runs)


def _finish(runs: list[_Stream]) -> None:
    for run in runs:
        run.finish()


def _sample_loaded(runs: list[_Stream], sampler: Sampler) -> dict[str, Any]:
    """What the GPU does while it is kept busy: reading that takes longer than its clocks last."""
    with ThreadPoolExecutor(1) as beside:
        sample = beside.submit(sampler)
        while not sample.done():
            _query(runs, 0, 1)
    return dict(sample.result())


def _layers(
    engine: Engine, profile: int, request: Request, arrays: Mapping[str, npt.NDArray[Any]]
) -> list[dict[str, float | str]]:
    """TensorRT's own times of each layer, in runs apart: it waits after each layer for them."""
    trt = engine.loaded.trt
    reported: list[tuple[str, float]] = []

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            reported.append((layer_name, ms))

    profiler = Profiler()
    with engine.context(profile) as made, engine.loaded.device:
        made.prepare(request, arrays)
        made.launch()  # not the first one, which does work of its own
        made.stream.synchronize()
        made.profile_layers(profiler)
        for _ in range(_LAYER_RUNS):
            made.launch()
            made.stream.synchronize()
    return by_layer(reported)
