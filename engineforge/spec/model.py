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
class ArrayFiles:
    """A `.npz` or `.npy` file, or a folder of them taken in the order of their names; relative to
    the folder of the spec."""

    path: str

    def __str__(self) -> str:
        return f"'{self.path}'"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """A folder of images, in the order of their paths, and how each becomes an input.

    A value is `(pixel / divide - mean) / std`, channel by channel. Numbers are kept as they were
    written: they stand in keys. `size` is (height, width), None keeps that of the image.
    """

    path: str
    size: tuple[int, int] | None = None
    fit: str = "stretch"
    channels: str = "rgb"
    layout: str = "nchw"
    divide: str = "255"
    mean: tuple[str, ...] = ("0",)
    std: tuple[str, ...] = ("1",)

    def __str__(self) -> str:
        return f"'{self.path}'"


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonFunction:
    """`module:function`, found beside the spec or installed; `files` are what it reads, relative to
    the folder of the spec."""

    function: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"'{self.function}'"


DataSet = ArrayFiles | ImageFolder | PythonFunction


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How the ranges of activations are found: on which samples (the first `samples` of them, or
    as many chosen by `seed`), by which method. `percentile` is text, as it was written."""

    data: DataSet
    method: str
    percentile: str | None = None
    samples: int | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The types that a variant's graph is to have; `source` are those that the model has.

    `keep_fp32` are patterns of node names, or `type:` and a pattern of operator types.
    `high_precision` is the type around quantized layers.
    """

    name: str
    tool: str | None = None
    keep_fp32: tuple[str, ...] = ()
    high_precision: str = "fp32"
    block_size: int | None = None
    sparsity: str | None = None
    keep_io_types: bool = True
    calibration: Calibration | None = None

    @property
    def converts(self) -> bool:
        """Whether the model is rewritten; else it is built with the types that it has."""
        return self.name not in AS_IT_IS or self.sparsity is not None

    @property
    def quantizes(self) -> bool:
        return self.name in QUANTIZED


QUANTIZED = ("int8", "fp8", "int4")
AS_IT_IS = ("source", "fp32", "tf32")
"""Precisions that an FP32 model has without being converted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyCheck:
    """What a variant's graph is compared on, and what it must reach. `labels` names the array of
    the data that holds the right classes; `class_axis` is the axis of an output that argmax is
    taken over. `thresholds` are in no key."""

    data: DataSet
    samples: int | None = None
    seed: int | None = None
    labels: str | None = None
    class_axis: int = -1
    thresholds: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxSlower:
    """How much slower than another variant of the file, on the same target, the median may be."""

    than: str
    percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyCheck:
    """What a variant's engine must reach on its GPU, at `profile` ('min', 'opt' or 'max') of its
    first optimization profile, copies in and out included. In no key."""

    profile: str = "opt"
    max_p99_ms: float | None = None
    max_median_ms: float | None = None
    max_slower: MaxSlower | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One cell of a spec's matrix. `builder` holds only what was asked for, options by name."""

    spec: str
    name: str
    precision: Precision
    profiles: tuple[Profile, ...]
    builder: Mapping[str, object]
    target: Target
    accuracy: AccuracyCheck | None = None
    latency: LatencyCheck | None = None

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
