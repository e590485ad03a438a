"""specs/REFERENCE.md says all that there is: made from the parser and the schema, and current."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from engineforge.cli.arguments import parser
from engineforge.cli.reference import ENVIRONMENT, page
from engineforge.errors import EngineForgeError
from engineforge.spec.environments import AccuracyGate, ApprovalGate, Retention
from engineforge.spec.model import AccuracyCheck, ImageFolder, LatencyCheck, Precision
from engineforge.spec.settings import RemoteSettings
from engineforge.spec.sources import Preparation, PytorchSource, SklearnSource, TensorflowSource
from engineforge.spec.validate import schema

ROOT = Path(__file__).parents[2]
DEFS = schema("spec")["$defs"]


def _commands(whole: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield whole
    for action in whole._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _commands(command)


def _properties(node: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401
    if isinstance(node, dict):
        for name, each in node.items():
            if name == "properties":
                yield from ((f"{at}/{key}", found) for key, found in each.items())
            yield from _properties(each, f"{at}/{name}")


def test_it_is_current() -> None:
    written = (ROOT / "specs" / "REFERENCE.md").read_text()
    assert written == page(), "python -m engineforge.cli.reference > specs/REFERENCE.md"


@pytest.mark.parametrize("command", [*_commands(parser())], ids=lambda command: command.prog)
def test_every_argument_has_a_text(command: argparse.ArgumentParser) -> None:
    dull = [
        action.option_strings or action.dest
        for action in command._actions
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    assert not dull


def test_every_key_has_a_text() -> None:
    dull = []
    for at, found in _properties(DEFS):
        node = found
        while "description" not in node and "$ref" in node:
            target: Any = DEFS
            for name in node["$ref"].split("/")[2:]:
                target = target[name]
            node = target
        if "description" not in node:
            dull.append(at)
    assert not dull


def test_every_command_is_in_it() -> None:
    named = set(re.findall(r"^### `engineforge ([\w-]+)", page(), flags=re.MULTILINE))
    actions = [each for each in parser()._actions if isinstance(each, argparse._SubParsersAction)]
    assert named == set(actions[0].choices)


def test_every_exit_code_is_in_it() -> None:
    def codes(kind: type[EngineForgeError]) -> Iterator[int]:
        yield kind.exit_code
        for each in kind.__subclasses__():
            yield from codes(each)

    table = page().partition("## Exit codes")[2].partition("## Environment")[0]
    told = set(map(int, re.findall(r"^\| (\d+) \|", table, flags=re.MULTILINE)))
    assert told == {0, 130, *codes(EngineForgeError)}


def test_every_variable_of_ours_is_in_it() -> None:
    read = set()
    for file in (ROOT / "engineforge").rglob("*.py"):
        if file.name != "reference.py":
            read.update(re.findall(r'"(ENGINEFORGE_[A-Z_]+)"', file.read_text()))
    assert read == {name for name in ENVIRONMENT if name.startswith("ENGINEFORGE_")}


_VALUES: dict[str, type] = {
    "dataset": ImageFolder,
    "typed": Precision,
    "checks/accuracy": AccuracyCheck,
    "checks/latency": LatencyCheck,
    "prepare": Preparation,
    "source/pytorch": PytorchSource,
    "source/tensorflow": TensorflowSource,
    "source/sklearn": SklearnSource,
    "settings/remote": RemoteSettings,
    "environment/retention": Retention,
    "environment/gates/accuracy": AccuracyGate,
    "environment/gates/approval": ApprovalGate,
}


@pytest.mark.parametrize("place", _VALUES)
def test_a_default_that_is_told_is_the_one_that_is_taken(place: str) -> None:
    name, *rest = place.split("/")
    node = DEFS[name]
    for each in rest:
        node = node["properties"][each]
    told = {
        key: found["default"]
        for key, found in node.get("properties", node).items()
        if isinstance(found, dict) and "default" in found
    }
    taken = {each.name: each.default for each in fields(_VALUES[place])}
    # `block_size` is for INT4 alone, and set there.
    for key in told.keys() & taken.keys() - {"block_size"}:
        value = taken[key]
        told_as = told[key]
        if isinstance(value, tuple):
            (value,) = value
        assert str(value) == str(told_as), key
    assert told
