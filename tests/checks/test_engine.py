"""An engine against its source: the source in ONNX Runtime, the engine on a pretended GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")

from engineforge.checks.engine import fitted, measure_engine
from engineforge.checks.run import CheckError
from engineforge.checks.thresholds import failures, order_failures
from engineforge.runtime import cuda as cuda_room
from engineforge.runtime.engine import Engine
from engineforge.runtime.interface import Interface, Tensor
from engineforge.samples.sample import Sample
from engineforge.spec.model import InputRange, ShapeRange
from tests.models import elementwise
from tests.runtime import installed
from tests.runtime.pretend import PretendCuda, PretendLoaded, pretend_engine

_LIMITS = {"max_relative_error": 1e-6}


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> PretendCuda:
    pretended = PretendCuda()
    monkeypatch.setattr(cuda_room, "_bindings", lambda: pretended)
    return pretended


def engine(cuda: PretendCuda, outputs: Sequence[str] = ("y",)) -> Engine:
    """It computes `x + relu(x)` into 'y', for up to 8 rows."""
    tensors = {name: Tensor(name=name, dtype="FLOAT", dims=(-1, 4)) for name in ("x", *outputs)}
    shape = ShapeRange(min=(1, 4), opt=(2, 4), max=(8, 4))
    interface = Interface(
        inputs={"x": tensors["x"]},
        outputs={name: tensors[name] for name in outputs},
        profiles=[{"x": InputRange(shape=shape)}],
    )
    return pretend_engine(PretendLoaded(cuda, interface))


def samples(*rows: int) -> Iterator[Sample]:
    random = np.random.default_rng(0)
    for at, count in enumerate(rows):
        x = random.standard_normal((count, 4)).astype(np.float32)
        yield Sample({"x": x}, None, f"sample {at}")


def measured(source: Path, found: Engine, *rows: int) -> dict[str, Any]:
    folder = source.parent / "scratch"
    folder.mkdir()
    with found:
        return measure_engine(source, found, samples(*rows), class_axis=-1, scratch=folder)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return installed.model(tmp_path / "model.onnx")


def test_an_engine_that_computes_the_same_has_no_error(cuda: PretendCuda, source: Path) -> None:
    found = measured(source, engine(cuda), 1, 3, 8, 1)
    assert found["samples"] == 4
    assert found["outputs"]["y"]["count"] == 52
    assert failures(found, _LIMITS) == []
    assert order_failures(found) == []


def test_an_engine_that_computes_otherwise_fails_by_output(cuda: PretendCuda, source: Path) -> None:
    model = onnx.load(source)
    model.graph.node[0].op_type = "LeakyRelu"
    onnx.save(model, source)
    (line,) = failures(measured(source, engine(cuda), 2), _LIMITS)
    assert line.startswith("relative_error of 'y' is ")


def test_an_output_that_the_engine_lacks_is_named(cuda: PretendCuda, tmp_path: Path) -> None:
    source = elementwise(tmp_path / "other.onnx", inputs=[("x", ("n", 4))])
    with pytest.raises(CheckError, match="output 'y0' of the source is not among those of the en"):
        measured(source, engine(cuda), 2)


def test_an_output_that_the_source_lacks_is_named(cuda: PretendCuda, source: Path) -> None:
    with pytest.raises(CheckError, match="output 'more' of the engine is not among those of the s"):
        measured(source, engine(cuda, ("y", "more")), 2)


def test_outputs_in_another_order_are_named() -> None:
    order = {"source": ["a", "b", "c"], "engine": ["b", "a", "c"]}
    assert order_failures({"order": order}) == [
        "output 0 of the engine is 'b', expected 'a', as in the source",
        "output 1 of the engine is 'a', expected 'b', as in the source",
    ]
    assert order_failures({"outputs": {}}) == []


def test_a_sample_that_no_profile_takes_is_named(cuda: PretendCuda, source: Path) -> None:
    with pytest.raises(CheckError, match="sample 1: input 'x': shape") as error:
        measured(source, engine(cuda), 2, 9)
    assert "widen the profile" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("array", "takes", "wanted"),
    [
        (np.array([1, -2], np.int64), "INT32", np.int32),
        (np.array([1.5], np.float64), "FLOAT", np.float32),
        (np.array([0.1], np.float32), "HALF", np.float16),
        (np.array([], np.int64), "INT32", np.int32),
        (np.array([True]), "BOOL", np.bool_),
    ],
)
def test_inputs_are_cast_to_what_the_engine_takes(array: Any, takes: str, wanted: type) -> None:  # noqa: ANN401
    made = fitted(array, Tensor(name="x", dtype=takes, dims=(-1,)), "sample 0")
    assert made.dtype == wanted
    assert np.allclose(made, array, rtol=1e-3)


@pytest.mark.parametrize(
    ("array", "takes", "said"),
    [
        (np.array([1 << 31]), "INT32", "sample 0, input 'x' holds 2147483648, and .* int32"),
        (np.array([-(1 << 31) - 1]), "INT32", "holds -2147483649, and the engine takes int32"),
        (np.array([1e300]), "FLOAT", "holds 1e.300, and the engine takes float32"),
        (np.array([-70000], np.float32), "HALF", "holds 70000, and the engine takes float16"),
        (np.array([1.5]), "INT32", "is float64, and the engine takes int32"),
        (np.array([1]), "FLOAT", "is int64, and the engine takes float32"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(array: Any, takes: str, said: str) -> None:  # noqa: ANN401
    with pytest.raises(CheckError, match=said):
        fitted(array, Tensor(name="x", dtype=takes, dims=(-1,)), "sample 0")
