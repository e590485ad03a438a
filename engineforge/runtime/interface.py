"""What an engine takes and gives: its tensors and profiles, and whether arrays fit them. Plain
values; touches no GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from engineforge.errors import EngineForgeError
from engineforge.runtime import element_types, formats
from engineforge.spec.model import Profile, ShapeRange
from engineforge.spec.validate import did_you_mean

Shape = tuple[int, ...]


class WrongInput(EngineForgeError):
    """What was given does not fit the engine: every problem, each with what was expected."""


class Arraylike(Protocol):
    """What a tensor is checked by, wherever its memory is."""

    @property
    def shape(self) -> Shape: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One input or output: `dtype` is TensorRT's name, -1 in `dims` is a dimension that changes.

    `on_host` are those whose memory TensorRT reads or writes on the CPU; a `shape_tensor`'s values
    decide shapes, so a profile has a range of them.
    """

    name: str
    dtype: str
    dims: Shape
    on_host: bool = False
    shape_tensor: bool = False
    layout: str = formats.LINEAR

    @property
    def numpy_type(self) -> np.dtype[Any]:
        return element_types.numpy_type(self.dtype)

    def __str__(self) -> str:
        return f"'{self.name}' {self.numpy_type.name} {list(self.dims)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Shapes of all inputs, and values of those that are shape tensors."""

    shapes: Mapping[str, Shape]
    values: Mapping[str, Shape]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """Inputs and outputs by name, in the engine's order; each profile has every input's shape."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    profiles: Sequence[Profile]

    def opt(self, profile: int, at: str = "opt") -> Request:
        """What a profile was built for: at `min`, `opt` or `max`."""
        ranges = self.profiles[self.checked_index(profile)]
        shapes = {name: getattr(ranges[name].shape, at) for name in self.inputs}
        values = {
            name: tuple(getattr(each.values, at))
            for name, each in ranges.items()
            if each.values is not None
        }
        return Request(shapes=shapes, values=values)

    def checked_index(self, profile: int) -> int:
        if not 0 <= profile < len(self.profiles):
            count = len(self.profiles)
            raise WrongInput(f"the engine has no profile {profile}: it has {count}, from 0")
        return profile

    def check(self, arrays: Mapping[str, Arraylike]) -> None:
        """WrongInput unless these are all inputs, each of its type and rank."""
        problems: list[tuple[str, str | None]] = []
        for name in arrays:
            if name not in self.inputs:
                hint = did_you_mean(name, self.inputs)
                problems.append((f"the engine has no input '{name}'", hint))
        for name, tensor in self.inputs.items():
            if name not in arrays:
                problems.append((f"input '{name}' is missing: expected {tensor}", None))
                continue
            found = arrays[name].dtype
            if found != tensor.numpy_type:
                wanted = tensor.numpy_type.name
                problems.append(
                    (
                        f"input '{name}': expected {wanted}, found {found.name}",
                        f"cast it first, such as by {name}.astype('{wanted}'): what that may lose "
                        "is not decided here",
                    )
                )
        if problems:
            hint = next((hint for _, hint in problems if hint), None)
            raise WrongInput("\n".join(text for text, _ in problems), hint=hint)

    def profile_for(self, request: Request, asked: int | None = None) -> int:
        """The profile (the `asked` one) that takes these shapes and values: one whose opt they are,
        else the first; WrongInput with each input that fits none, and the ranges."""
        candidates = range(len(self.profiles)) if asked is None else [self.checked_index(asked)]
        fitting = [each for each in candidates if not [*self._outside(request, each)]]
        for each in fitting:
            if self.opt(each) == request:
                return each
        if fitting:
            return fitting[0]
        raise WrongInput("\n".join(self._why_not(request, candidates)))

    def _outside(self, request: Request, profile: int) -> Iterator[tuple[str, str]]:
        """Inputs that a profile does not take, and of what kind the fault is."""
        for name, ranges in self.profiles[profile].items():
            if ranges.shape is not None and not within(request.shapes[name], ranges.shape):
                yield name, "shape"
            values = request.values.get(name)
            if values and ranges.values is not None and not within(values, ranges.values):
                yield name, "values"

    def _why_not(self, request: Request, candidates: Sequence[int]) -> Iterator[str]:
        one = len(candidates) == 1 < len(self.profiles)
        where = f"not in profile {candidates[0]}" if one else "in no profile"
        faults = [set(self._outside(request, each)) for each in candidates]
        everywhere = set.intersection(*faults)
        for name, kind in sorted(everywhere):
            given = request.shapes[name] if kind == "shape" else request.values[name]
            if kind == "shape" and len(given) != len(self.inputs[name].dims):
                dims = list(self.inputs[name].dims)
                yield (
                    f"input '{name}': expected {len(dims)} dimensions, {dims}, "
                    f"found {len(given)}, {list(given)}"
                )
                continue
            ranges = [getattr(self.profiles[each][name], kind) for each in candidates]
            told = ", or ".join(dict.fromkeys(describe(each) for each in ranges))
            verb = "is" if kind == "shape" else "are"
            yield f"input '{name}': {kind} {list(given)} {verb} {where}: {told}"
        if not everywhere:
            shapes = ", ".join(f"'{n}' {list(shape)}" for n, shape in request.shapes.items())
            yield f"these shapes are each in a profile, and together in none: {shapes}"
            for each in candidates:
                told = ", ".join(
                    f"'{name}' {describe(ranges.shape)}"
                    for name, ranges in self.profiles[each].items()
                    if ranges.shape is not None
                )
                yield f"  profile {each}: {told}"


def within(found: Sequence[int], ranges: ShapeRange) -> bool:
    return len(found) == len(ranges.min) and all(
        low <= each <= high for low, each, high in zip(ranges.min, found, ranges.max, strict=True)
    )


def describe(ranges: ShapeRange) -> str:
    """A range in a few words: `[1, 3] to [8, 3]`, or the one shape that it has."""
    if ranges.min == ranges.max:
        return str(list(ranges.min))
    return f"{list(ranges.min)} to {list(ranges.max)}"
