"""What is asked of every sample before a model sees it."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from engineforge.samples.read import Samples
from engineforge.spec.model import ArrayFiles
from tests.samples.data import Array, feeds, function, noise, places, problem, stream, tensor

GOOD = noise(20, 3, 4, 4)


def with_value(value: float) -> Array:
    spoilt = GOOD.copy()
    spoilt[17, 2, 0, 3] = value
    return spoilt


def test_an_input_that_is_missing(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", GOOD, xs=GOOD)
    assert problem(stream(tmp_path, "x.npz", tensor("image", 1, 3, 4, 4))) == (
        "'x.npz': expected an array 'image', found 'arr_0', 'xs'\n"
        "hint: call the array what the model, or 'labels', calls it: numpy.savez(file, image=...)"
    )


def test_an_input_that_is_nearly_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=GOOD)
    said = problem(stream(tmp_path, "x.npz", tensor("image", 1, 3, 4, 4)))
    assert said.endswith("numpy.savez(file, image=...)")


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity")])
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_values_that_are_not_finite(tmp_path: Path, value: float, name: str, dtype: str) -> None:
    np.savez(tmp_path / "x.npz", x=with_value(value).astype(dtype))
    said = problem(stream(tmp_path, "x.npz", tensor("x", "b", 3, 4, 4, type=dtype)))
    assert said == f"'x.npz', sample 17, input 'x': {name} at [0, 2, 0, 3]"


def test_values_that_are_not_finite_in_bfloat16(tmp_path: Path) -> None:
    data = function(
        tmp_path,
        "import ml_dtypes\nreturn [{'x': np.array([[1, np.nan]], ml_dtypes.bfloat16)}]",
    )
    said = problem(stream(tmp_path, data, tensor("x", None, 2, type="bfloat16")))
    assert said == "'given:samples', sample 0, input 'x': NaN at [0, 1]"


def test_bfloat16_comes_from_a_function(tmp_path: Path) -> None:
    data = function(tmp_path, "import ml_dtypes\nreturn {'x': np.ones((2, 2), ml_dtypes.bfloat16)}")
    found = feeds(stream(tmp_path, data, tensor("x", None, 2, type="bfloat16")))
    assert [each.dtype for each in found] == [ml_dtypes.bfloat16] * 2


@pytest.mark.parametrize("dtype", ["float64", "uint8", "float16", "int32"])
def test_nothing_is_cast(tmp_path: Path, dtype: str) -> None:
    np.savez(tmp_path / "x.npz", x=(GOOD * 10).astype(dtype))
    assert problem(stream(tmp_path)) == (
        f"'x.npz', sample 0, input 'x': expected float32, found {dtype}\n"
        "hint: .astype(numpy.float32)"
    )


def test_booleans_are_booleans(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=GOOD > 0)
    assert len(feeds(stream(tmp_path, "x.npz", tensor("x", None, 3, 4, 4, type="bool")))) == 20


def test_integers_may_have_any_values(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((9, 32), np.int64))
    tokens = tensor("x", None, "length", type="int64")
    other = tensor("y", None, 1)
    np.savez(tmp_path / "x.npz", x=np.zeros((9, 32), np.int64), y=noise(9, 1))
    assert len(feeds(stream(tmp_path, "x.npz", tokens, other, calibrating=True))) == 9


def test_a_shape_that_the_model_does_not_take(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=noise(4, 4, 4, 3))
    said = problem(stream(tmp_path, "x.npz", tensor("x", "batch", 3, None, None)))
    assert said == (
        "'x.npz', sample 0, input 'x': expected [batch, 3, any, any], found [1, 4, 4, 3]"
    )


def test_a_rank_that_the_model_does_not_take(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=noise(4, 4, 3))
    assert problem(stream(tmp_path)) == (
        "'x.npz', input 'x': expected [samples, 3, 4, 4] or [samples, batch, 3, 4, 4], "
        "found [4, 4, 3]"
    )


def test_dimensions_of_one_name_are_equal(tmp_path: Path) -> None:
    inputs = tensor("a", "batch", "length"), tensor("b", "batch", "length")
    np.savez(tmp_path / "x.npz", a=noise(4, 1, 8), b=noise(4, 1, 9))
    said = problem(stream(tmp_path, "x.npz", *inputs))
    assert said == ("'x.npz', sample 0, input 'b': expected 'length' to be 8, as in 'a', found 9")


def test_dimensions_of_one_name_may_differ_between_samples(tmp_path: Path) -> None:
    data = function(tmp_path, "return [{'x': np.ones((1, n), np.float32)} for n in (3, 5)]")
    assert [x.shape for x in feeds(stream(tmp_path, data, tensor("x", None, "n")))] == [
        (1, 3),
        (1, 5),
    ]


class TestCalibrating:
    @pytest.mark.parametrize("value", [0, 0.5, -1])
    def test_a_sample_of_one_number_tells_no_range(self, tmp_path: Path, value: float) -> None:
        spoilt = GOOD.copy()
        spoilt[3] = value
        np.savez(tmp_path / "x.npz", x=spoilt)
        said = problem(stream(tmp_path, calibrating=True))
        assert f"'x.npz', sample 3, input 'x': all 48 values are {value:.1f}\nhint: " in said

    def test_else_such_a_sample_is_one_like_any(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=np.zeros_like(GOOD))
        assert len(feeds(stream(tmp_path))) == 20

    def test_a_few_equal_numbers_are_sizes(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=GOOD, scale=np.ones((20, 2), np.float32))
        inputs = tensor("x", None, 3, 4, 4), tensor("scale", None, 2)
        assert len(feeds(stream(tmp_path, "x.npz", *inputs, calibrating=True))) == 20

    def test_samples_that_are_all_the_same(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=np.repeat(GOOD[:1], 9, axis=0))
        said = problem(stream(tmp_path, calibrating=True))
        assert said.startswith("'x.npz': all 9 samples are the same\nhint: ")

    def test_one_other_sample_is_enough(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=np.concatenate([GOOD[:1]] * 5 + [GOOD[1:2]]))
        assert len(places(stream(tmp_path, calibrating=True))) == 6

    def test_else_samples_may_all_be_the_same(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", x=np.repeat(GOOD[:1], 9, axis=0))
        assert len(places(stream(tmp_path))) == 9


def test_a_model_without_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=GOOD)
    samples = Samples(ArrayFiles(path="x.npz"), tmp_path, (), samples=None, seed=None)
    assert "the model has no inputs" in problem(samples)
