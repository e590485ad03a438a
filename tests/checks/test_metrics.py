"""The measures, against their definitions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engineforge.checks.figures import figure, text_of, value_of
from engineforge.checks.metrics import Array, Distance

RANDOM = np.random.default_rng(0)


def distance(*samples: tuple[Array, Array], axis: int = -1) -> dict[str, object]:
    found = Distance(axis)
    for source, typed in samples:
        found.add(source, typed)
    return dict(found.result())


def noise(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


def test_measures_are_those_of_all_samples_together() -> None:
    x, y = noise(10, 7), noise(10, 7)
    found = distance((x[:3], y[:3]), (x[3:], y[3:]))
    x, y = x.astype(np.float64), y.astype(np.float64)
    error = np.linalg.norm(y - x) / np.linalg.norm(x)
    assert found["count"] == 70
    assert found["max_absolute_error"] == np.abs(y - x).max()
    assert found["relative_error"] == pytest.approx(error)
    assert found["sqnr_db"] == pytest.approx(-20 * np.log10(error))
    cosine = (x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)
    assert found["cosine"] == pytest.approx(cosine)
    assert found["top1_agreement"] == np.mean(x.argmax(1) == y.argmax(1))


def test_equal_outputs_have_no_error_and_infinite_sqnr() -> None:
    x = noise(4, 3)
    found = distance((x, x))
    assert found["sqnr_db"] == "inf"
    assert (found["relative_error"], found["max_absolute_error"]) == (0, 0)
    assert (found["cosine"], found["top1_agreement"]) == (pytest.approx(1), 1)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_one_value_that_is_not_finite_makes_every_error_infinite(bad: float) -> None:
    x = noise(4, 3)
    y = x.copy()
    y[2, 1] = bad
    found = distance((x, x), (x, y), (x, x))
    assert found["non_finite"] == 1
    assert (found["relative_error"], found["max_absolute_error"]) == ("inf", "inf")
    assert (found["sqnr_db"], found["cosine"]) == ("-inf", None)
    assert found["top1_agreement"] == 11 / 12


def test_infinity_at_the_right_class_is_not_agreement() -> None:
    x = np.array([[1, 2]], np.float32)
    assert distance((x, np.array([[1, np.inf]], np.float32)))["top1_agreement"] == 0


def test_a_source_of_zeros_gives_no_nan() -> None:
    zeros, ones = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)
    found = distance((zeros, ones))
    assert (found["relative_error"], found["sqnr_db"], found["cosine"]) == ("inf", "-inf", 0)
    found = distance((zeros, zeros))
    assert (found["relative_error"], found["sqnr_db"], found["cosine"]) == (0, "inf", 1)


def test_top1_of_both_graphs_is_taken_where_there_are_labels() -> None:
    found = Distance(-1)
    source = np.array([[0, 1], [1, 0], [0, 1]], np.float32)
    typed = np.array([[0, 1], [0, 1], [1, 0]], np.float32)
    found.add(source, typed, np.array([1, 1, 1]))
    result = found.result()
    assert (result["source_top1"], result["top1"]) == (2 / 3, 2 / 3)
    assert result["top1_agreement"] == 1 / 3


def test_classes_may_be_along_any_axis() -> None:
    source, typed = noise(2, 5, 4, 4), noise(2, 5, 4, 4)
    found = distance((source, typed), axis=1)
    assert found["decisions"] == 32
    assert found["top1_agreement"] == np.mean(source.argmax(1) == typed.argmax(1))


@pytest.mark.parametrize("shape", [(4,), (4, 1), ()], ids=str)
def test_there_is_no_decision_over_one_class_or_a_missing_axis(shape: tuple[int, ...]) -> None:
    x = np.asarray(noise(*shape))
    assert "top1_agreement" not in distance((x, x), axis=1)


def test_labels_of_another_number_are_for_another_output() -> None:
    found = Distance(-1)
    found.add(noise(4, 3), noise(4, 3), np.array([1, 2]))
    assert "top1" not in found.result()


def test_integers_are_counted_where_they_agree() -> None:
    found = distance((np.array([1, 2, 3, 4]), np.array([1, 2, 0, 4])))
    assert found == {"count": 4, "agreement": 0.75}


def test_results_can_be_written_as_json() -> None:
    x = noise(2, 2)
    text = json.dumps(distance((x, x * np.inf)), allow_nan=False)
    assert value_of(json.loads(text)["relative_error"]) == float("inf")


@pytest.mark.parametrize(
    ("value", "held"), [(1.5, 1.5), (np.inf, "inf"), (-np.inf, "-inf"), (np.nan, None)]
)
def test_figures_come_back_from_json(value: float, held: object) -> None:
    assert figure(value) == held
    assert value_of(held) == (None if np.isnan(value) else value)


@pytest.mark.parametrize("held", [None, True, "nan", "many", float("nan"), [1]])
def test_what_is_no_figure_has_no_value(held: object) -> None:
    assert text_of(held) == "without a value"


def test_a_tie_agrees_with_nothing_unless_all_is_equal() -> None:
    measured = Distance(-1)
    measured.add(np.array([[2.0, 1.0]], np.float32), np.zeros((1, 2), np.float32))
    measured.add(np.ones((1, 2), np.float32), np.ones((1, 2), np.float32))
    assert measured.result()["top1_agreement"] == 0.5
