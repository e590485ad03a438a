"""A document against schema.json: every violation as a problem that says what was expected, what
was found, and the nearest valid name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from engineforge.errors import Problem
from engineforge.spec.load import Document, Path

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

_MAX_NAMES = 20
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")
_SIZE = re.compile(r"([0-9]+) ?([KMGTkmgt])[Bb]?")


@cache
def schema_bytes() -> bytes:
    return resources.files("engineforge.spec").joinpath("schema.json").read_bytes()


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema 2020-12 of one kind of file: `spec`, `targets`, `settings` or
    `environments`."""
    whole: dict[str, Any] = json.loads(schema_bytes())
    return {**whole, "$ref": f"#/$defs/{kind}"}


@cache
def schema_of(name: str) -> Mapping[str, Any]:
    """The keys that the schema has for one part of a file, by its name there."""
    found: Mapping[str, Any] = schema("spec")["$defs"][name]["properties"]
    return found


@cache
def validator(kind: str) -> Draft202012Validator:
    """The validator of one kind of file."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema(kind))


def validate(kind: str, document: Document) -> list[Problem]:
    """All problems of a document, in no particular order; none means that the values fit."""
    # One problem may break several rules: 'min' needs 'opt', and so does 'max'.
    return list(
        dict.fromkeys(
            problem
            for error in validator(kind).iter_errors(document.value)
            for problem in _problems(document, error)
        )
    )


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The valid name that was probably meant, if one is close."""
    close = difflib.get_close_matches(name.lower(), {n.lower(): n for n in names}, n=1, cutoff=0.6)
    return next((n for n in names if close and n.lower() == close[0]), None)


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    """A hint that names the nearest valid name, or all of them where none is near and they fit."""
    names = sorted(names)
    if close := nearest(name, names):
        return f"did you mean '{close}'?"
    if len(names) > _MAX_NAMES:
        return f"`engineforge schema` prints all {len(names)} names"
    return f"there is: {', '.join(names)}" if names else None


def describe(value: object) -> str:
    """A found value in a few words."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"'{value}'"
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case Mapping():
            return "a mapping" if value else "an empty mapping"
    return repr(value)


# What people who know trtexec will write, and what they mean.
_FLAGS = {each: f"precision: {each}" for each in ("fp16", "bf16", "int8", "fp8", "int4")} | {
    "best": "precision: int8, with high_precision: fp16",
    "stronglytyped": "precision: source",
    "strongly_typed": "precision: source",
}

# What other tools call them.
_PRECISIONS = {
    "float": "fp32",
    "float32": "fp32",
    "single": "fp32",
    "half": "fp16",
    "float16": "fp16",
    "bfloat16": "bf16",
    "best": "int8",
}

_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "nothing",
}


def _problems(document: Document, error: ValidationError) -> Iterator[Problem]:
    path: Path = tuple(error.absolute_path)
    limit: Any = error.validator_value
    instance: Any = error.instance
    found = describe(instance)
    secret = False
    expected: str | None = None
    hint: str | None = None
    if isinstance(error.schema, Mapping):
        secret = error.schema.get("x-secret", False)
        expected = error.schema.get("x-expected")
        hint = error.schema.get("x-hint")
    if "propertyNames" in error.absolute_schema_path:
        message = f"expected {expected or error.message} as a name, found {found}"
        yield document.problem((*path, str(instance)), message)
        return
    match error.validator:
        case "additionalProperties":
            names = list(error.schema.get("properties", {}))  # type: ignore[union-attr]
            for key in instance:
                if key not in names:
                    hint = did_you_mean(key, names)
                    if meant := _FLAGS.get(key.lower()):
                        hint = f"precision is in the graph, and no builder option: write {meant}"
                    elif path == ("model",) and key in schema_of("source"):
                        hint = f"it belongs under 'source': source: {{{key}: …}}"
                    yield document.problem((*path, key), "unknown key", hint)
            return
        case "required":
            for key in limit:
                if key not in instance:
                    yield document.problem(path, f"expected the key '{key}', found none", hint)
            return
        case "enum":
            expected = expected or "one of " + ", ".join(f"'{each}'" for each in limit)
            if isinstance(instance, str):
                close = nearest(instance, limit) or _PRECISIONS.get(instance.lower())
                hint = f"did you mean '{close}'?" if close in limit else hint
        case "type":
            kinds = [limit] if isinstance(limit, str) else list(limit)
            expected = expected or " or ".join(_TYPES[kind] for kind in kinds)
            number = isinstance(instance, int | float) and not isinstance(instance, bool)
            if "string" in kinds and number and not (hint or secret):
                # 12.10 was read as 12.1: only its author knows the digits.
                as_written = isinstance(instance, int)
                hint = "write it in quotes" + (f": '{instance}'" if as_written else "")
            elif "array" in kinds and isinstance(instance, str) and _PLAIN.fullmatch(instance):
                hint = f"write [{instance}]"
        case "minimum":
            expected = expected or f"{limit} or more"
        case "exclusiveMinimum":
            expected = expected or f"more than {limit}"
        case "maximum":
            expected = expected or f"{limit} or less"
        case "minLength":
            expected = expected or "some text"
        case "minItems":
            expected = f"at least {limit} item{'s' if limit > 1 else ''}"
        case "minProperties":
            expected = expected or f"at least {limit} entr{'ies' if limit > 1 else 'y'}"
        case "maxProperties":
            expected = expected or f"at most {limit} entr{'ies' if limit > 1 else 'y'}"
        case "oneOf" if not isinstance(instance, Mapping):
            return  # whose type is the problem
        case "oneOf":
            choices = [each["required"][0] for each in limit]
            expected = f"one of {', '.join(choices)}"
            given = [f"'{each}'" for each in choices if each in instance]
            found, hint = " and ".join(given) or "none", hint if not given else None
        case "uniqueItems":
            expected = "no item twice"
            found = " and ".join(sorted({describe(x) for x in instance if instance.count(x) > 1}))
        case "dependentRequired":
            missing = {each for keys in limit.values() for each in keys} - set(instance)
            expected, found = "min, opt and max together", "no " + " and no ".join(sorted(missing))
            hint = "they may be equal; where nothing varies, write one list alone"
        case "anyOf" if isinstance(instance, str) and (size := _SIZE.fullmatch(instance)):
            hint = f"with an i, in powers of 1024: {size[1]}{size[2].upper()}iB"
    if secret:  # jsonschema's own message would repeat the value too
        yield document.problem(path, f"expected {expected or 'another value'}", hint)
        return
    yield document.problem(path, f"expected {expected or error.message}, found {found}", hint)
