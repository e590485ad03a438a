"""Calibration: the library's ranges, without what it holds and what it lets depend on order."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'")
from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

from engineforge.stages.precision import ranges
from engineforge.stages.precision.graph import skeleton
from engineforge.stages.precision.prepare import prepare
from engineforge.stages.sources.onnx import bind
from tests.stages.precision.nets import Feed, noise, residual

_TENSORS = ("x", "f")
_METHODS = {
    "max": (CalibrationMethod.MinMax, {}),
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 2048, "symmetric": True}),
    "percentile": (CalibrationMethod.Percentile, {"percentile": 99.9, "symmetric": True}),
}
each_method = pytest.mark.parametrize("method", list(_METHODS))


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    for name in ("bound", "prepared"):
        (tmp_path / name).mkdir()
    bound = bind(residual(tmp_path / "m.onnx"), tmp_path / "bound")
    return prepare(bound, opset=0, out=tmp_path / "prepared")


def _found(prepared: Path, samples: list[Feed], method: str, scratch: Path) -> dict[str, Any]:
    found = ranges.find(
        skeleton(prepared),
        prepared,
        _TENSORS,
        method=method,
        percentile=99.9 if method == "percentile" else None,
        feeds=lambda: iter(samples),
        scratch=scratch,
    )
    return {
        name: tuple(float(np.asarray(each).max()) for each in data.range_value)
        for name, data in found.items()
    }


class _Reader:
    def __init__(self, samples: list[Feed]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        feed = next(self._samples, None)
        return None if feed is None else dict(feed)


@each_method
def test_ranges_are_those_of_the_library_given_all_samples_at_once(
    prepared: Path, tmp_path: Path, method: str
) -> None:
    samples = noise(1, 8, 8, 8, count=6)
    kind, options = _METHODS[method]
    library = create_calibrator(
        prepared,
        ["Gemm"],
        augmented_model_path=str(tmp_path / "augmented.onnx"),
        calibrate_method=kind,
        extra_options=options,
    )
    library.collect_data(_Reader(samples))
    expected = {name: data.range_value for name, data in library.compute_data().items()}
    # Where its bins end depends on the data, where ours end on the next power of two.
    assert _found(prepared, samples, method, tmp_path)["f"] == pytest.approx(
        tuple(float(np.asarray(each).max()) for each in expected["f"]),
        rel={"max": 1e-6, "percentile": 2e-3, "entropy": 0.05}[method],
    )


@each_method
def test_the_order_of_samples_does_not_matter(prepared: Path, tmp_path: Path, method: str) -> None:
    samples = noise(1, 8, 8, 8, count=4)
    samples[0] = {"x": samples[0]["x"] * np.float32(1e-3)}
    forward = _found(prepared, samples, method, tmp_path)
    assert forward == _found(prepared, samples[::-1], method, tmp_path)


@each_method
def test_a_first_sample_that_is_tiny_costs_no_more_bins(
    prepared: Path, tmp_path: Path, method: str
) -> None:
    samples = noise(1, 8, 8, 8, count=2)
    samples[0] = {"x": samples[0]["x"] * np.float32(1e-9)}
    assert _found(prepared, samples, method, tmp_path)["x"][1] > 1


@pytest.mark.parametrize("method", ["max", "percentile"])
def test_memory_does_not_grow_with_the_number_of_samples(
    prepared: Path, tmp_path: Path, method: str
) -> None:
    def peak(count: int) -> int:
        def feeds() -> Iterator[Mapping[str, NDArray[Any]]]:
            random = np.random.default_rng(0)
            for _ in range(count):
                yield {"x": random.standard_normal((1, 8, 128, 128), np.float32)}

        tracemalloc.start()
        ranges.find(
            skeleton(prepared),
            prepared,
            _TENSORS,
            method=method,
            percentile=99.9,
            feeds=feeds,
            scratch=tmp_path,
        )
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    # One sample's activations are 1.5 MB.
    assert peak(64) < peak(4) + 1_000_000


def test_what_is_always_zero_has_a_range_of_zero(prepared: Path, tmp_path: Path) -> None:
    samples: list[Feed] = [{"x": np.zeros((1, 8, 8, 8), np.float32)}]
    for method in _METHODS:
        assert _found(prepared, samples, method, tmp_path)["x"] == (0, 0)
