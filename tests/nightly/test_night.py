"""Which exit code a night comes to."""

from __future__ import annotations

import pytest

from engineforge.nightly.night import WORST_FIRST, worst
from tests.nightly.nights import failed, night, passed, skipped


def test_a_night_in_which_nothing_failed_is_0() -> None:
    assert night(passed(), skipped()).code == 0


@pytest.mark.parametrize(
    ("codes", "is_worst"),
    [({3, 1}, 1), ({1, 2}, 2), ({2, 4}, 4), ({5, 3}, 3), ({0, 5}, 5), (set(WORST_FIRST), 130)],
)
def test_the_worst_of_all_that_happened_counts(codes: set[int], is_worst: int) -> None:
    assert worst(codes) == is_worst


def test_an_interrupted_night_is_130_whatever_failed_before() -> None:
    assert night(failed(code=4), interrupted=True).code == 130


def test_what_failed_is_told_the_worst_first() -> None:
    found = night(failed(code=3), passed(), failed(code=2), failed(code=1)).failed
    assert [each.code for each in found] == [2, 1, 3]
