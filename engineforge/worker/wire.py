"""Values of the spec as plain JSON for the child process, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engineforge.digest import document
from engineforge.spec.model import (
    ArrayFiles,
    Calibration,
    DataSet,
    ImageFolder,
    InputRange,
    ModelInterface,
    Precision,
    Profile,
    PythonFunction,
    ShapeRange,
    TensorInterface,
)
from engineforge.spec.sources import InputAxes
from engineforge.target import Gpu, Target, Toolchain


def write_profiles(profiles: Sequence[Profile]) -> list[dict[str, object]]:
    return [document(profile) for profile in profiles]


def read_profiles(raw: Sequence[Mapping[str, Any]]) -> tuple[Profile, ...]:
    return tuple({name: _input(given) for name, given in profile.items()} for profile in raw)


def _input(raw: Mapping[str, Any]) -> InputRange:
    return InputRange(**{kind: _range(bounds) for kind, bounds in raw.items() if bounds})


def _range(raw: Mapping[str, Any]) -> ShapeRange:
    return ShapeRange(**{bound: tuple(dims) for bound, dims in raw.items()})


_DATA_SETS: Mapping[str, type[DataSet]] = {
    each.__name__: each for each in (ArrayFiles, ImageFolder, PythonFunction)
}


def write_data(data: DataSet) -> dict[str, object]:
    return {"kind": type(data).__name__, **document(data)}


def read_data(raw: Mapping[str, Any]) -> DataSet:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in raw.items()
        if name != "kind"
    }
    return _DATA_SETS[raw["kind"]](**values)


def read_axes(raw: Mapping[str, Any]) -> dict[str, InputAxes]:
    return {
        name: InputAxes(
            type=each["type"],
            dims=tuple(each["dims"]),
            example=tuple(each["example"]),
            batch=each["batch"],
        )
        for name, each in raw.items()
    }


def read_precision(raw: Mapping[str, Any], data: Mapping[str, Any] | None) -> Precision:
    """`data` is that of the calibration, as `write_data` wrote it."""
    calibration = raw["calibration"]
    if calibration is not None and data is not None:
        calibration = Calibration(**{**calibration, "data": read_data(data)})
    return Precision(**{**raw, "keep_fp32": tuple(raw["keep_fp32"]), "calibration": calibration})


def read_tensors(raw: Sequence[Mapping[str, Any]]) -> tuple[TensorInterface, ...]:
    return tuple(_tensor(each) for each in raw)


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
            "inputs": read_tensors(raw["inputs"]),
            "outputs": read_tensors(raw["outputs"]),
            "external": tuple(raw["external"]),
        }
    )


def _tensor(raw: Mapping[str, Any]) -> TensorInterface:
    return TensorInterface(**{**raw, "dims": tuple(raw["dims"])})
