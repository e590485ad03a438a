"""Values of the spec as plain JSON for the child process, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engineforge.digest import document
from engineforge.spec.model import (
    InputRange,
    ModelInterface,
    Profile,
    ShapeRange,
    TensorInterface,
)
from engineforge.target import Gpu, Target, Toolchain


def write_profiles(profiles: Sequence[Profile]) -> list[dict[str, object]]:
    return [document(profile) for profile in profiles]


def read_profiles(raw: Sequence[Mapping[str, Any]]) -> tuple[Profile, ...]:
    return tuple({name: _input(given) for name, given in profile.items()} for profile in raw)


def _input(raw: Mapping[str, Any]) -> InputRange:
    return InputRange(**{kind: _range(bounds) for kind, bounds in raw.items() if bounds})


def _range(raw: Mapping[str, Any]) -> ShapeRange:
    return ShapeRange(**{bound: tuple(dims) for bound, dims in raw.items()})


def read_target(raw: Mapping[str, Any]) -> Target:
    return Target(
        **{
            **raw,
            "toolchain": Toolchain(**raw["toolchain"]),
            "compute_capabilities": tuple(raw["compute_capabilities"]),
            "gpu": Gpu(**raw["gpu"]) if raw["gpu"] else None,
        }
    )


def read_interface(raw: Mapping[str, Any]) -> ModelInterface:
    return ModelInterface(
        **{
            **raw,
            "inputs": tuple(_tensor(each) for each in raw["inputs"]),
            "outputs": tuple(_tensor(each) for each in raw["outputs"]),
            "external": tuple(raw["external"]),
        }
    )


def _tensor(raw: Mapping[str, Any]) -> TensorInterface:
    return TensorInterface(**{**raw, "dims": tuple(raw["dims"])})
