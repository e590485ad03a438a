"""Objects of TensorRT 8.6 without a library: a network that is weakly typed, and the config that it
is built with. Names are those of the real one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

from tests.backends.test_options import API

_NAMES = API["tensorrt 8.6.0"]


def _enum(name: str) -> Any:  # noqa: ANN401 - made of names that are not known before
    return IntEnum(name, _NAMES[name], start=0)


DataType = _enum("DataType")
LayerType = _enum("LayerType")
BuilderFlag = _enum("BuilderFlag")
FLOAT, HALF, INT8, INT32 = DataType.FLOAT, DataType.HALF, DataType.INT8, DataType.INT32


@dataclass
class Tensor:
    name: str
    dtype: Any = FLOAT
    is_shape_tensor: bool = False


@dataclass
class Layer:
    """Its precision is FP32 until it is set; `keeps` is what it has whatever is set."""

    name: str
    type: Any
    inputs: Sequence[Tensor | None] = ()
    outputs: Sequence[Tensor] = ()
    keeps: Any = None
    output_types: dict[int, Any] = field(default_factory=dict)
    precision_is_set: bool = False
    groups: int = 1
    _precision: Any = FLOAT

    @property
    def precision(self) -> Any:  # noqa: ANN401
        return self._precision

    @precision.setter
    def precision(self, wanted: Any) -> None:  # noqa: ANN401
        self.precision_is_set = True
        self._precision = wanted if self.keeps is None else self.keeps

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> Tensor | None:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]

    def set_output_type(self, index: int, dtype: Any) -> None:  # noqa: ANN401
        self.output_types[index] = dtype

    def get_output_type(self, index: int) -> Any:  # noqa: ANN401
        return self.output_types.get(index, self.outputs[index].dtype)

    def output_type_is_set(self, index: int) -> bool:
        return index in self.output_types

    @property
    def held(self) -> Any:  # noqa: ANN401
        """The type that it was told to compute in; None where it was told none."""
        return self._precision if self.precision_is_set else None


class Convolution(Layer):
    """What a layer is to be seen as, to have groups."""

    @property
    def num_groups(self) -> int:
        return self.groups


trt: Any = SimpleNamespace(
    __name__="tensorrt",
    __version__="8.6.0",
    DataType=DataType,
    LayerType=LayerType,
    BuilderFlag=BuilderFlag,
    IConvolutionLayer=Convolution,
)


class Network:
    """Layers are added in their order, each with one output, which `add` returns."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.layers: dict[str, Layer] = {}

    def input(self, name: str, dtype: Any = FLOAT) -> Tensor:  # noqa: ANN401
        self.inputs.append(Tensor(name, dtype))
        return self.inputs[-1]

    def add(
        self,
        name: str,
        kind: str,
        *inputs: Tensor | None,
        dtype: Any = FLOAT,  # noqa: ANN401
        groups: int = 1,
        **more: Any,  # noqa: ANN401 - fields of the tensor
    ) -> Tensor:
        output = Tensor(f"{name}:0", dtype, **more)
        self.layers[name] = Layer(name, LayerType[kind], inputs, [output], groups=groups)
        return output

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_layer(self, index: int) -> Layer:
        return list(self.layers.values())[index]

    def held(self) -> dict[str, Any]:
        """The layers that were told what to compute in, each with that."""
        return {name: layer.held for name, layer in self.layers.items() if layer.precision_is_set}


class Config:
    """Flags of an IBuilderConfig; those in `refused` are not kept."""

    def __init__(self, *flags: str, refused: Sequence[str] = ()) -> None:
        self.flags = {BuilderFlag[each] for each in flags}
        self._refused = {BuilderFlag[each] for each in refused}

    def set_flag(self, flag: Any) -> None:  # noqa: ANN401
        self.flags |= {flag} - self._refused

    def get_flag(self, flag: Any) -> bool:  # noqa: ANN401
        return flag in self.flags

    @property
    def names(self) -> set[str]:
        return {flag.name for flag in self.flags}
