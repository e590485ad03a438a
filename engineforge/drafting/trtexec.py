"""A command of trtexec as a spec: every flag has a place in it, or a note that says why not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from engineforge.drafting import builder, measuring, precision, profiles
from engineforge.drafting.draft import Draft, Findings, Untranslated
from engineforge.drafting.flags import FLAGS, TAKES_VALUE
from engineforge.drafting.profiles import Given
from engineforge.drafting.shell import Command, flags
from engineforge.spec.model import ModelInterface
from engineforge.spec.validate import nearest
from engineforge.target import Target

_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")
_VARIABLE = re.compile(r"\$[A-Za-z_{(]|%[A-Za-z_]+%|\{\w*\}|`")
_PLACEHOLDER = re.compile(r"<[A-Za-z_][\w .:-]*>")
_DASHES = "\u2013\u2014\u2212"


def model_of(command: Command) -> str | None:
    """What the command gives as its ONNX model; None where it gives none."""
    given = flags(command.arguments, TAKES_VALUE)
    return next((value for name, value in given if name == "onnx" and value), None)


def translate(
    command: Command,
    *,
    interface: ModelInterface | None,
    targets: Mapping[str, Target],
    place: Callable[[str], str],
    calibration: str | None = None,
) -> Draft:
    """The spec that a command means; Untranslated with every flag that stands in the way.

    `interface` is of its model where that is at hand, `place` makes a path of the command one of
    the spec, `calibration` is a file of samples as the spec is to name it.
    """
    found = Findings()
    given = _without_placeholders(_known(command, found), found)
    model = next((value for name, value in given if name == "onnx"), None)
    if not model:
        _no_model(given, found)
    ranges = profiles.profiles(given, interface, found)
    variants = precision.variants(given, interface, calibration, found)
    options = builder.options(given, interface, place, found)
    arguments = measuring.measuring(given, found)
    if found.refused or not model:
        raise Untranslated(found.refused, hint=_hint(given, found))
    placed = builder.placed(options, list(targets.values()), {name for name, _ in given}, found)
    _elsewhere(given, found)
    if _VARIABLE.search(model):
        found.note("onnx", "to do", f"nothing expands '{model}' in a spec: write the path")
    if command.container is not None:
        found.note(
            "", "to do", f"paths are those inside of the container that {command.container} ran"
        )
    values: dict[str, Any] = {"model": {"source": {"path": place(model)}}}
    if len(ranges) == 1:
        values["inputs"] = ranges[0]
    elif ranges:
        values["profiles"] = ranges
    if placed:
        values["builder"] = placed
    values["targets"] = list(targets) or ["TARGET"]
    values["variants"] = variants
    measured = not any(name in ("skipInference", "buildOnly") for name, _ in given)
    return Draft(
        name=_name(given, model),
        values=values,
        of=str(command),
        notes=tuple(found.notes),
        measuring=arguments if measured else None,
    )


def _known(command: Command, found: Findings) -> Given:
    """The flags of the command that trtexec has; the others are refused."""
    given = []
    for name, value in flags(command.arguments, TAKES_VALUE):
        if name == "":
            other_dash = value is not None and value.startswith(tuple(_DASHES))
            why = "begins with no plain dash" if other_dash else "belongs to no flag"
            found.refuse("", f"'{value}' {why}")
        elif name not in FLAGS:
            meant = nearest(name, FLAGS)
            more = f": did you mean '--{meant}'?" if meant else ""
            found.refuse(name, f"no trtexec of 8.6, 10 or 11 has it{more}")
        elif FLAGS[name].takes and not value and name != "helpBuildRoute":
            found.refuse(name, "has no value")
        elif FLAGS[name].place == "none" and FLAGS[name].why.startswith("TensorRT reads no"):
            found.refuse(name, FLAGS[name].why)
        elif name in ("batch", "maxBatch"):
            found.note(name, "left out", FLAGS[name].why)
        else:
            given.append((name, value))
    return given


def _without_placeholders(given: Given, found: Findings) -> Given:
    real = []
    for name, value in given:
        if value and _PLACEHOLDER.search(value) and name != "saveEngine":
            found.refuse(name, f"'{value}' stands for something: write what it is")
        else:
            real.append((name, value))
    return real


def _no_model(given: Given, found: Findings) -> None:
    names = [name for name, _ in given]
    if "loadEngine" in names:
        found.refuse("loadEngine", "loads an engine that is built already, and builds none")
    elif not found.refused:
        found.refuse("onnx", "is missing: there is no model to build")


def _hint(given: Given, found: Findings) -> str | None:
    if any(name == "loadEngine" for name, _ in given):
        words = shlex.join(["engineforge", "bench", *measuring.loading(given, Findings())])
        return f"to measure it: {words}"
    files = [note for note in found.refused if note.flag == "model"]
    return "an ONNX model is --onnx=FILE" if files else None


def _elsewhere(given: Given, found: Findings) -> None:
    said = {note.flag for note in found.notes}
    for name in dict.fromkeys(name for name, _ in given):
        flag = FLAGS[name]
        if name in said:
            continue
        if flag.place == "measuring":
            found.note(name, "measuring", "is in the command that measures")
        elif flag.place == "here":
            found.note(name, "elsewhere", flag.why)
        elif flag.place == "nothing":
            found.note(name, "nothing", flag.why)
        elif flag.place == "none":
            found.note(name, "left out", flag.why)


def _name(given: Given, model: str) -> str:
    """The engine's name, if it has one, else the model's, as the name of a file."""
    saved = next((value for name, value in given if name == "saveEngine" and value), None)
    for path in (saved, model):
        stem = PurePosixPath((path or "").replace("\\", "/")).stem
        name = _CHARACTERS.sub("-", stem).strip("-._")
        if name and not (path and _VARIABLE.search(PurePosixPath(path).name)):
            return name
    return "model"
