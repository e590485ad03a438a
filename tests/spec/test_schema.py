"""The schema is the contract: valid, complete, and what the program itself prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from engineforge.backends.options import OPTIONS, Option
from engineforge.spec.load import load
from engineforge.spec.matrix import BACKENDS
from engineforge.spec.validate import did_you_mean, nearest, schema, validate
from tests.conftest import Forge

SPECS = Path(__file__).parents[2] / "specs"
KINDS = ("spec", "targets")


def _values(path: Path) -> object:
    document, problems = load(path.name, path.read_bytes())
    assert document is not None
    assert not problems
    return document.value


def _nodes(node: object, at: str = "#") -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, dict):
        yield at, node
        for key, each in node.items():
            yield from _nodes(each, f"{at}/{key}")
    elif isinstance(node, list):
        for i, each in enumerate(node):
            yield from _nodes(each, f"{at}/{i}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_valid_draft_2020_12(kind: str) -> None:
    assert schema(kind)["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(schema(kind))


def test_every_reference_leads_somewhere() -> None:
    whole = schema("spec")
    places = {at for at, _ in _nodes(whole)}
    assert {node["$ref"] for _, node in _nodes(whole) if "$ref" in node} <= places


def test_the_schema_has_exactly_the_options_of_the_table() -> None:
    assert set(schema("spec")["$defs"]["option"]) == {option.name for option in OPTIONS}


@pytest.mark.parametrize(
    ("place", "besides"), [("options", set[str]()), ("builder", set(BACKENDS))], ids=["", "builder"]
)
def test_every_option_may_be_given_wherever_options_are(place: str, besides: set[str]) -> None:
    given = set(schema("spec")["$defs"][place]["properties"])
    assert given == {option.name for option in OPTIONS} | besides


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_a_default_is_a_value_that_the_schema_takes(option: Option) -> None:
    if option.default is not None:
        one = {**schema("spec"), "$ref": f"#/$defs/option/{option.name}"}
        Draft202012Validator(one).validate(option.default)


def test_every_option_is_described() -> None:
    for name, option in schema("spec")["$defs"]["option"].items():
        assert option.get("description"), name


def test_no_object_takes_keys_that_nobody_knows() -> None:
    for at, node in _nodes(schema("spec")):
        if "properties" in node and node.get("type") != "string" and "$schema" not in node:
            assert "additionalProperties" in node or at.endswith("properties"), at


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_what_the_command_prints_validates_the_specs_of_this_repository(
    forge: Forge, path: Path
) -> None:
    kind = "targets" if path.stem == "targets" else "spec"
    printed = json.loads(forge.run("schema", kind).out)
    Draft202012Validator(printed).validate(_values(path))


def test_without_a_name_the_command_prints_the_schema_of_specs(forge: Forge) -> None:
    assert forge.run("schema").json == schema("spec")


def test_the_command_prints_two_schemas(forge: Forge) -> None:
    printed = Draft202012Validator(forge.run("schema", "targets").json)
    assert not printed.is_valid(_values(SPECS / "ocr-angle.yaml"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["null", "text", "3", "[]", "a: 1", "a: [b]", "model: {source: 1}"]
)
def test_what_the_schema_refuses_is_always_a_problem(kind: str, text: str) -> None:
    document, _ = load("f.yaml", text.encode())
    assert document is not None
    accepted = Draft202012Validator(schema(kind)).is_valid(document.value)
    assert accepted == (not validate(kind, document))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("optimisation_level", "optimization_level"),
        ("OPTIMIZATION_LEVEL", "optimization_level"),
        ("dla_core", "DLA_core"),
        ("x", None),
        ("", None),
    ],
)
def test_the_nearest_name_is_the_one_that_was_meant(name: str, meant: str | None) -> None:
    assert nearest(name, [option.name for option in OPTIONS]) == meant


@pytest.mark.parametrize(
    ("name", "names", "hint"),
    [
        ("adda", ["ada", "ampere"], "did you mean 'ada'?"),
        ("x", ["b", "a"], "there is: a, b"),
        ("x", [], None),
        ("x", [f"name-{i}" for i in range(50)], "`engineforge schema` prints all 50 names"),
    ],
)
def test_a_wrong_name_is_told_the_right_ones(name: str, names: list[str], hint: str | None) -> None:
    assert did_you_mean(name, names) == hint
