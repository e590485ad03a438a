"""Builder options that are set on the tensors and layers of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any

from engineforge.backends import BuildError
from engineforge.backends.options import Option

_REAL = ("FLOAT", "HALF", "BF16")


def inputs_of(network: Any) -> list[Any]:  # noqa: ANN401 - TensorRT's INetworkDefinition
    return [network.get_input(i) for i in range(network.num_inputs)]


def outputs_of(network: Any) -> list[Any]:  # noqa: ANN401
    return [network.get_output(i) for i in range(network.num_outputs)]


def layers_of(network: Any) -> list[Any]:  # noqa: ANN401
    return [network.get_layer(i) for i in range(network.num_layers)]


def made_by(layer: Any) -> list[Any]:  # noqa: ANN401 - TensorRT's ILayer
    """The output tensors that a layer has."""
    found = [layer.get_output(i) for i in range(layer.num_outputs)]
    return [tensor for tensor in found if tensor is not None]


def _is_of_integers(layer: Any) -> bool:  # noqa: ANN401
    """Whether all that it makes is integers or truths, or it only computes shapes."""
    made = made_by(layer)
    return not any(each.dtype.name in _REAL and not each.is_shape_tensor for each in made)


class NetworkSettings:
    """The network of one build, and the config that knows devices of its layers."""

    def __init__(self, trt: ModuleType, *, config: Any, network: Any) -> None:  # noqa: ANN401
        self.trt: Any = trt
        self.config, self.network = config, network

    def set(self, option: Option, value: Any) -> object:  # noqa: ANN401 - of the option's own type
        """Set an option; what TensorRT kept, in the words of the option."""
        match option.name:
            case "io_formats":
                return {name: self._set_ends(name, wanted) for name, wanted in value.items()}
            case "debug_tensors":
                return self._mark_debug(value)
            case "mark_unfused_tensors_as_debug_tensors":
                return bool(value and self.network.mark_unfused_tensors_as_debug_tensors())
            case "layer_precisions":
                return self._on_layers(option, value, self._set_precision)
            case "layer_output_types":
                return self._on_layers(option, value, self._set_output_types)
            case "layer_device_types":
                return self._on_layers(option, value, self._set_device)
            case "decomposable_attentions":
                return self._decompose(value)
        raise RuntimeError(f"option '{option.name}' is not set on a network")

    def _set_ends(self, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The type, on versions that are weakly typed, and the formats of an input or output."""
        ends = [*inputs_of(self.network), *outputs_of(self.network)]
        tensor = next((each for each in ends if each.name == name), None)
        if tensor is None:
            names = ", ".join(each.name for each in ends)
            raise BuildError(f"option 'io_formats': no input or output '{name}'; there is: {names}")
        found: dict[str, Any] = {}
        if "dtype" in wanted:
            tensor.dtype = getattr(self.trt.DataType, wanted["dtype"].upper())
            found["dtype"] = tensor.dtype.name.lower()
        if "formats" in wanted:
            formats = self.trt.TensorFormat
            bits = {each: 1 << int(getattr(formats, each.upper())) for each in wanted["formats"]}
            tensor.allowed_formats = sum(bits.values())
            found["formats"] = [f for f, bit in bits.items() if tensor.allowed_formats & bit]
        return found

    def _mark_debug(self, names: list[str]) -> list[str]:
        tensors = {
            tensor.name: tensor for layer in layers_of(self.network) for tensor in made_by(layer)
        }
        return [
            name
            for name in names
            if name in tensors
            and self.network.mark_debug(tensors[name])
            and self.network.is_debug_tensor(tensors[name])
        ]

    def _on_layers(
        self,
        option: Option,
        wanted: Mapping[str, Any],
        set_on: Callable[[Any, Any], object],
    ) -> dict[str, object]:
        """Set a value on every layer that a name or pattern means, the last pattern deciding, as
        trtexec does; BuildError for one that means none. A pattern means no layers of integers,
        as they have no other type; a name does."""
        layers, found = layers_of(self.network), {}
        typed = option.name != "layer_device_types"
        for pattern, value in wanted.items():
            meant = [
                layer
                for layer in layers
                if layer.name == pattern
                or (fnmatchcase(layer.name, pattern) and not (typed and _is_of_integers(layer)))
            ]
            if not meant:
                raise BuildError(f"option '{option.name}': no layer is called '{pattern}'")
            kept = [set_on(layer, value) for layer in meant]
            found[pattern] = next((each for each in kept if each != value), value)
        return found

    def _set_precision(self, layer: Any, name: str) -> str:  # noqa: ANN401
        layer.precision = getattr(self.trt.DataType, name.upper())
        return str(layer.precision.name).lower()

    def _set_output_types(self, layer: Any, names: list[str]) -> list[str]:  # noqa: ANN401
        """One type for each output; a single one is for all."""
        every = names * layer.num_outputs if len(names) == 1 else names
        if len(every) != layer.num_outputs:
            raise BuildError(
                f"option 'layer_output_types': layer '{layer.name}' has {layer.num_outputs} "
                f"outputs, found {len(names)} types"
            )
        for index, name in enumerate(every):
            layer.set_output_type(index, getattr(self.trt.DataType, name.upper()))
        found = [layer.get_output_type(i).name.lower() for i in range(layer.num_outputs)]
        return names if found == every else found

    def _set_device(self, layer: Any, name: str) -> str:  # noqa: ANN401
        self.config.set_device_type(layer, getattr(self.trt.DeviceType, name.upper()))
        return str(self.config.get_device_type(layer).name).lower()

    def _decompose(self, patterns: list[str]) -> list[str]:
        """By the names of attentions, as trtexec does: they are no layers, but between two."""
        attentions = []
        for boundary in layers_of(self.network):
            if boundary.type == self.trt.LayerType.ATTENTION_INPUT:
                # `get_layer` gives an ILayer, whatever it is.
                boundary.__class__ = self.trt.IAttentionInputLayer
                attentions.append(boundary.attention)
        kept = []
        for pattern in patterns:
            meant = [each for each in attentions if fnmatchcase(each.name, pattern)]
            if not meant:
                names = ", ".join(f"'{each.name}'" for each in attentions) or "none"
                raise BuildError(
                    f"option 'decomposable_attentions': no attention is called '{pattern}'",
                    hint=f"the network has {names}",
                )
            for attention in meant:
                attention.decomposable = True
            if all(attention.decomposable for attention in meant):
                kept.append(pattern)
        return kept
