"""The shapes of a command of trtexec as optimization profiles of a spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from engineforge.drafting.draft import Findings
from engineforge.drafting.values import Shape, shapes
from engineforge.spec.model import ModelInterface, ShapeRange, TensorInterface

Given = Sequence[tuple[str, str | None]]
"""Flags and their values, in the order of the command."""

_SELECTORS = {"minShapes": "min", "optShapes": "opt", "maxShapes": "max"}
_Bounds = dict[str, dict[str, Shape]]  # by input, then min, opt and max


def profiles(
    given: Given, interface: ModelInterface | None, found: Findings
) -> list[dict[str, Any]]:
    """The profiles as a spec has them; none where the command names no shapes, and none are needed
    or the model is not at hand.

    As in trtexec, an input that may vary and has no shape is 1 wherever it may vary, `--shapes`
    fixes an input that the profile does not mention, and is what is run with for one that it does;
    what is missing of min, opt and max is taken from the others.
    """
    bounds = _written(given, found)
    used = next((value for name, value in given if name == "useProfile"), None)
    index = int(used) if used and used.isdecimal() and int(used) < len(bounds) else 0
    for name, value in given:
        if name != "shapes":
            continue
        try:
            at = shapes(value or "")
        except ValueError as error:
            found.refuse(name, str(error))
            continue
        running = []
        for tensor, shape in at.items():
            if tensor in bounds[index]:
                running.append(tensor)
            else:
                bounds[index][tensor] = {"min": shape, "opt": shape, "max": shape}
        if running:
            found.note(name, "measuring", "is what is run with, not what is built for")
    inputs = {tensor.name: tensor for tensor in interface.inputs} if interface else None
    made = []
    for each in bounds:
        profile = {}
        named = _expanded(each, inputs, found)
        for name, ranges in named.items():
            value = _input(name, ranges, inputs.get(name) if inputs else None, found)
            if value is not None:
                profile[name] = value
        profile |= {
            name: _ones(tensor, found)
            for name, tensor in (inputs or {}).items()
            if name not in named and not all(isinstance(dim, int) for dim in tensor.dims)
        }
        if profile:
            made.append(profile)
    return made


def _ones(tensor: TensorInterface, found: Findings) -> list[int]:
    """What trtexec says that it is "automatically overriding" such a shape to."""
    shape = [dim if isinstance(dim, int) else 1 for dim in tensor.dims]
    found.note(
        "shapes",
        "differs",
        f"names no shape of '{tensor.name}', which is {'x'.join(map(str, shape))} then, as trtexec "
        "has it; a spec can have {min, opt, max} as well",
    )
    return shape


def _written(given: Given, found: Findings) -> list[_Bounds]:
    bounds: list[_Bounds] = [{}]
    seen: set[str] = set()
    begun = False
    for name, value in given:
        if name == "profile":
            if begun:
                bounds.append({})
            begun = True
            seen.clear()
        elif name in _SELECTORS:
            if name in seen:
                found.refuse(name, "stands here twice, and no --profile=N before it")
                continue
            seen.add(name)
            try:
                at = shapes(value or "")
            except ValueError as error:
                found.refuse(name, str(error))
                continue
            for tensor, shape in at.items():
                bounds[-1].setdefault(tensor, {})[_SELECTORS[name]] = shape
    return bounds


def _expanded(
    bounds: _Bounds, inputs: Mapping[str, TensorInterface] | None, found: Findings
) -> _Bounds:
    """The same by full names: trtexec lets a name have one `*`."""
    named: _Bounds = {}
    for name, ranges in bounds.items():
        if "*" not in name:
            named[name] = ranges
        elif inputs is None:
            found.refuse("optShapes", f"which inputs '{name}' means is known where the model is")
        else:
            for each in inputs:
                if fnmatchcase(each, name) and each not in bounds:
                    named[each] = ranges
    return named


def _input(
    name: str, ranges: Mapping[str, Shape], tensor: TensorInterface | None, found: Findings
) -> Any:  # noqa: ANN401 - as YAML has it
    opt = ranges.get("opt", ranges.get("max", ranges.get("min", ())))
    low = ranges.get("min", opt if "opt" in ranges else ranges.get("max", opt))
    high = ranges.get("max", opt)
    if any(size == 0 for size in (*low, *opt, *high)):
        found.refuse(
            "minShapes", f"'{name}' has a dimension of 0, and profiles here begin at 1: write 1"
        )
        return None
    try:
        ShapeRange(min=low, opt=opt, max=high)
    except ValueError as error:
        found.refuse("optShapes", f"'{name}': {error}")
        return None
    three = {"min": list(low), "opt": list(opt), "max": list(high)}
    if tensor is not None and _are_values(tensor, opt):
        return {"values": three}
    if not opt:
        return None  # a scalar has one shape only
    return list(opt) if low == opt == high else three


def _are_values(tensor: TensorInterface, dims: Shape) -> bool:
    """Of a shape tensor trtexec takes the values where others have their shape."""
    return (
        tensor.type in ("int32", "int64")
        and len(tensor.dims) <= 1
        and len(dims) != len(tensor.dims)
        and (not tensor.dims or tensor.dims[0] in (len(dims), None))
    )
