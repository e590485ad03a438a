"""What a person sees of an error: where, what, and a hint on a line of its own."""

from __future__ import annotations

import random

import pytest

from engineforge.errors import (
    EngineForgeError,
    HostUnfit,
    Problem,
    SpecError,
    StoreCorrupt,
    UsageError,
)


@pytest.mark.parametrize(
    ("kind", "code"), [(EngineForgeError, 1), (UsageError, 2), (StoreCorrupt, 4), (HostUnfit, 5)]
)
def test_each_error_has_its_exit_code(kind: type[EngineForgeError], code: int) -> None:
    assert kind("what").exit_code == code


def test_wrong_specs_are_bad_usage() -> None:
    assert SpecError([]).exit_code == UsageError.exit_code


def test_a_hint_stands_on_a_line_of_its_own() -> None:
    assert str(UsageError("no such spec", hint="there is: net")) == (
        "no such spec\nhint: there is: net"
    )


def test_without_a_hint_there_is_no_line_for_one() -> None:
    assert str(UsageError("no such spec")) == "no such spec"


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem(file="a.yaml", message="is empty"), "a.yaml: is empty"),
        (Problem(file="a.yaml", line=2, column=3, message="is"), "a.yaml:2:3: is"),
        (Problem(file="a.yaml", line=2, column=3, path="x.y", message="is"), "a.yaml:2:3: x.y: is"),
        (Problem(file="a.yaml", path="x", message="is", hint="do"), "a.yaml: x: is\nhint: do"),
    ],
)
def test_a_problem_says_where_it_is(problem: Problem, text: str) -> None:
    assert str(problem) == text


def test_problems_come_in_the_order_of_their_places() -> None:
    ordered = [
        Problem(file="a.yaml", message="of the whole file"),
        Problem(file="a.yaml", line=2, column=9, message="m", hint="h"),
        Problem(file="a.yaml", line=10, column=1, message="m"),
        Problem(file="b.yaml", line=1, column=1, path="a", message="m"),
        Problem(file="b.yaml", line=1, column=1, path="b", message="m"),
    ]
    shuffled = random.Random(0).sample(ordered, len(ordered))
    assert SpecError(shuffled).problems == tuple(ordered)


def test_all_problems_are_said_at_once() -> None:
    problems = [Problem(file=name, message="is wrong") for name in ("b", "a")]
    assert str(SpecError(problems)) == "a: is wrong\nb: is wrong"
