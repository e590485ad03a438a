"""The values that a spec is made of, right by construction; where they came from is load.py's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engineforge.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeRange:
    """min <= opt <= max, elementwise: a tensor's shape, or the values of a shape tensor."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError(
                f"expected min, opt and max of one rank, found {len(self.min)}, {len(self.opt)} "
                f"and {len(self.max)} dimensions"
            )
        if any(not lo <= at <= hi for lo, at, hi in zip(self.min, self.opt, self.max, strict=True)):
            raise ValueError(
                f"expected min <= opt <= max, found {list(self.min)} <= {list(self.opt)} "
                f"<= {list(self.max)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRange:
    """One input of one optimization profile: its shape and, for a shape tensor, its values."""

    shape: ShapeRange | None = None
    values: ShapeRange | None = None


Profile = Mapping[str, InputRange]


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSource:
    """An ONNX file, relative to the folder of the spec."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSource:
    """An ONNX file inside an installed Python package, relative to the package's folder."""

    package: str
    path: str


Source = PathSource | PackageSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One cell of a spec's matrix. `builder` holds only what was asked for, options by name."""

    spec: str
    name: str
    precision: str
    profiles: tuple[Profile, ...]
    builder: Mapping[str, object]
    target: Target

    @property
    def label(self) -> str:
        """For people and for history, never for a key."""
        return f"{self.spec}/{self.name}@{self.target.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInterface:
    """An input or output of a model: ONNX element type by name, and per dimension a size, a
    symbolic name, or None where the model says nothing."""

    name: str
    type: str
    dims: tuple[int | str | None, ...]

    def __str__(self) -> str:
        dims = ", ".join("unnamed" if dim is None else str(dim) for dim in self.dims)
        return f"'{self.name}' {self.type} [{dims}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInterface:
    """What planning needs to know of an ONNX model; read without its weights.

    `external` are its external-data files, relative to the model's folder, in the order in which
    the tensors name them. `features` maps what not every GPU can run (`fp32-gemm`, `bf16`, …) to
    the name of the first node or tensor that has it. `weight_bytes` counts all tensor data.
    """

    inputs: tuple[TensorInterface, ...]
    outputs: tuple[TensorInterface, ...]
    opsets: Mapping[str, int]
    external: tuple[str, ...]
    features: Mapping[str, str]
    nodes: int
    weight_bytes: int
