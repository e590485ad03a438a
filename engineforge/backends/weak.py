"""Types on TensorRT 8, which knows weak typing only: the flags that a graph's types imply, and each
layer held to the types that its tensors have.

What TensorRT chose all the same is in the engine's layer information.
"""

from __future__ import annotations

from typing import Any

from engineforge.backends import BuildError
from engineforge.backends.network_settings import inputs_of, layers_of, made_by

# Layers that move, describe or convert values: their types follow from their neighbours'.
_UNTYPED = (
    "ASSERTION",
    "CAST",
    "CONDITION",
    "CONDITIONAL_INPUT",
    "CONDITIONAL_OUTPUT",
    "CONSTANT",
    "DEQUANTIZE",
    "IDENTITY",
    "ITERATOR",
    "LOOP_OUTPUT",
    "NON_ZERO",
    "PLUGIN",
    "PLUGIN_V2",
    "QUANTIZE",
    "RECURRENCE",
    "SHAPE",
    "TRIP_LIMIT",
)


def _inputs_of(layer: Any) -> list[Any]:  # noqa: ANN401
    found = [layer.get_input(i) for i in range(layer.num_inputs)]
    return [tensor for tensor in found if tensor is not None]


def enforce_types(trt: Any, config: Any, network: Any) -> dict[str, Any]:  # noqa: ANN401
    """Let TensorRT compute in the types that the tensors of the network have, and in no other.

    A layer between DequantizeLinear and QuantizeLinear is left free: that is how TensorRT fuses it
    to INT8. Says which flags were set, and how many layers are held to which type; BuildError where
    TensorRT keeps something else.
    """
    types: Any = trt.DataType
    kinds: Any = trt.LayerType
    flags: Any = trt.BuilderFlag
    layers = layers_of(network)
    tensors = [tensor for layer in layers for tensor in made_by(layer)]
    tensors += inputs_of(network)
    quantized = any(layer.type in (kinds.QUANTIZE, kinds.DEQUANTIZE) for layer in layers)
    half = any(tensor.dtype == types.HALF for tensor in tensors)
    asked = []
    if half:
        asked.append("FP16")
    if quantized:
        asked.append("INT8")
    untyped = [getattr(kinds, name) for name in _UNTYPED]
    # With FP32 alone there is nothing that TensorRT could choose instead.
    held = {"FLOAT": 0, "HALF": 0}
    if half:
        chosen = config.get_flag(flags.PREFER_PRECISION_CONSTRAINTS)
        asked += [] if chosen else ["OBEY_PRECISION_CONSTRAINTS"]
        free = _fused_to_int8(layers, kinds)
        free |= {layer.name for layer in layers if layer.type in untyped}
        for layer in layers:
            if layer.name not in free and (name := _hold(layer, types)) is not None:
                held[name] += 1
    for name in asked:
        config.set_flag(getattr(flags, name))
        if not config.get_flag(getattr(flags, name)):
            raise BuildError(f"flag '{name}' was set, and TensorRT did not keep it")
    return {"flags": asked, "layers_held": {name: n for name, n in held.items() if n}}


def _fused_to_int8(layers: list[Any], kinds: Any) -> set[str]:  # noqa: ANN401
    dequantized = {
        tensor.name
        for layer in layers
        if layer.type == kinds.DEQUANTIZE
        for tensor in made_by(layer)
    }
    return {
        layer.name
        for layer in layers
        if any(tensor.name in dequantized for tensor in _inputs_of(layer))
    }


def _hold(layer: Any, types: Any) -> str | None:  # noqa: ANN401
    """Hold a layer to the type of its floating-point outputs; None where it has none, or several,
    or was held by an option of the spec."""
    floats = {"FLOAT": types.FLOAT, "HALF": types.HALF}
    outputs = [
        (index, tensor)
        for index in range(layer.num_outputs)
        if (tensor := layer.get_output(index)) is not None
    ]
    if any(tensor.is_shape_tensor for _, tensor in outputs) or layer.precision_is_set:
        return None
    found = {name for _, tensor in outputs for name, t in floats.items() if tensor.dtype == t}
    if len(found) != 1:
        return None
    (name,) = found
    layer.precision = floats[name]
    for index, tensor in outputs:
        if tensor.dtype == floats[name] and not layer.output_type_is_set(index):
            layer.set_output_type(index, floats[name])
    if layer.precision != floats[name]:
        raise BuildError(
            f"layer '{layer.name}': precision {name} was set, and TensorRT kept "
            f"{layer.precision.name}"
        )
    return name
