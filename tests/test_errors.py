"""What a person sees of an error: where, what, and a hint on a line of its own."""

from __future__ import annotations

import importlib
import random
import re

import pytest

from engineforge import errors
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


def _drawn() -> list[tuple[int, str, int, str]]:
    """Each line of the tree: how deep it stands, the class, its code and its module."""
    lines = re.findall(r"^    ([ │├└─]*)(\w+) +(\d) +(.*)$", errors.__doc__ or "", re.MULTILINE)
    return [
        (len(indent) // 4, name, int(code), _module(text)) for indent, name, code, text in lines
    ]


def _module(text: str) -> str:
    where = re.search(r"\(([\w/]+)\.py\)$", text)
    return f"engineforge.{where[1].replace('/', '.')}" if where else "engineforge.errors"


def test_the_tree_of_errors_is_as_it_is_drawn() -> None:
    above: list[type] = []
    for depth, name, code, module in _drawn():
        kind = getattr(importlib.import_module(module), name)
        assert kind.exit_code == code, name
        del above[depth:]
        assert kind.__bases__ == ((above[-1],) if above else (Exception,)), name
        above.append(kind)
    assert len(_drawn()) == 15


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
