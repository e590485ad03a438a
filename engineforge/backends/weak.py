"""Types on TensorRT 8, which knows weak typing only: the flags that a graph's types imply, and each
layer held to the types that its tensors have.

What TensorRT chose all the same is in the engine's layer information.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def enforce_types(
    trt: Any,  # noqa: ANN401 - TensorRT has no types
    config: Any,  # noqa: ANN401
    network: Any,  # noqa: ANN401
    known: Mapping[str, str],
) -> dict[str, Any]:
    """Let TensorRT compute in the types that the tensors of the model have, and in no other.

    `known` are the types of the model's floating-point tensors, HALF or FLOAT, by name: the parser
    of TensorRT 8 forgets them, and says FLOAT of all that a layer makes. What layers were told
    already, by an option or by the function that defined the network, counts as much, and stays.
    What stands between DequantizeLinear and QuantizeLinear is left free: that is how TensorRT fuses
    it to INT8. Says
    which flags were set, and how many layers are held to which type; BuildError where TensorRT
    keeps something else.
    """
    types: Any = trt.DataType
    kinds: Any = trt.LayerType
    flags: Any = trt.BuilderFlag
    layers = layers_of(network)
    found = _found_types(network, types, kinds, known)
    quantized = any(layer.type in (kinds.QUANTIZE, kinds.DEQUANTIZE) for layer in layers)
    told = _told_types(layers)
    half = "HALF" in found.values() or types.HALF in told
    asked = []
    if half:
        asked.append("FP16")
    if quantized or types.INT8 in told:
        asked.append("INT8")
    # What a layer was told is a wish that TensorRT drops without a word, unless it has to obey.
    if half or (asked and told):
        chosen = config.get_flag(flags.PREFER_PRECISION_CONSTRAINTS)
        asked += [] if chosen else ["OBEY_PRECISION_CONSTRAINTS"]
    untyped = [getattr(kinds, name) for name in _UNTYPED]
    # With FP32 alone there is nothing that TensorRT could choose instead.
    held = {"FLOAT": 0, "HALF": 0}
    if half:
        free = _fused_to_int8(layers, kinds)
        free |= {layer.name for layer in layers if layer.type in untyped}
        for layer in layers:
            if layer.name not in free and (name := _hold(layer, types, found)) is not None:
                held[name] += 1
    for name in asked:
        config.set_flag(getattr(flags, name))
        if not config.get_flag(getattr(flags, name)):
            raise BuildError(f"flag '{name}' was set, and TensorRT did not keep it")
    return {"flags": asked, "layers_held": {name: n for name, n in held.items() if n}}


def _told_types(layers: list[Any]) -> set[Any]:
    """The types that layers were told to compute in, or to make."""
    found = {layer.precision for layer in layers if layer.precision_is_set}
    for layer in layers:
        for index in range(layer.num_outputs):
            if layer.output_type_is_set(index):
                found.add(layer.get_output_type(index))
    return found


def _found_types(
    network: Any,  # noqa: ANN401
    types: Any,  # noqa: ANN401
    kinds: Any,  # noqa: ANN401
    known: Mapping[str, str],
) -> dict[str, str]:
    """HALF or FLOAT for each floating-point tensor by name. One that the model does not know, as a
    node may become several layers, has the type of what it is made from."""
    found: dict[str, str] = {}

    def say(tensor: Any, otherwise: str) -> None:  # noqa: ANN401
        if tensor.dtype == types.HALF:
            found[tensor.name] = "HALF"
        elif tensor.dtype == types.FLOAT:
            found[tensor.name] = known.get(tensor.name, otherwise)

    for tensor in inputs_of(network):
        say(tensor, "FLOAT")
    for layer in layers_of(network):
        low = layer.type != kinds.CAST and any(
            found.get(tensor.name) == "HALF" for tensor in _inputs_of(layer)
        )
        for tensor in made_by(layer):
            say(tensor, "HALF" if low else "FLOAT")
    return found


def _fused_to_int8(layers: list[Any], kinds: Any) -> set[str]:  # noqa: ANN401
    """The layers that compute on dequantized tensors, and what stands between them and the next
    QuantizeLinear: a sum, an activation, or the one and the other."""
    makers = {tensor.name: layer for layer in layers for tensor in made_by(layer)}
    dequantized = {name for name, layer in makers.items() if layer.type == kinds.DEQUANTIZE}
    fused = {
        layer.name
        for layer in layers
        if any(tensor.name in dequantized for tensor in _inputs_of(layer))
    }

    def back_to_fused(layer: Any, *between: Any) -> set[str] | None:  # noqa: ANN401
        """What stands between, none of them twice; None where something else does."""
        if layer.name in fused:
            return set()
        for index, kind in enumerate(between):
            for tensor in _inputs_of(layer) if layer.type == kind else ():
                if (before := makers.get(tensor.name)) is not None:
                    found = back_to_fused(before, *between[index + 1 :])
                    if found is not None:
                        return {layer.name, *found}
        return None

    free = set(fused)
    for layer in layers:
        for tensor in _inputs_of(layer) if layer.type == kinds.QUANTIZE else ():
            if (before := makers.get(tensor.name)) is not None:
                free |= back_to_fused(before, kinds.ACTIVATION, kinds.ELEMENTWISE) or set()
    return free


def _hold(layer: Any, types: Any, found: Mapping[str, str]) -> str | None:  # noqa: ANN401
    """Hold a layer to the type of its floating-point outputs; None where it has none, or several,
    or was held by an option of the spec."""
    outputs = [
        (index, tensor)
        for index in range(layer.num_outputs)
        if (tensor := layer.get_output(index)) is not None
    ]
    if any(tensor.is_shape_tensor for _, tensor in outputs) or layer.precision_is_set:
        return None
    low = {index: found[tensor.name] for index, tensor in outputs if tensor.name in found}
    if len(set(low.values())) != 1:
        return None
    name = next(iter(low.values()))
    wanted = types.HALF if name == "HALF" else types.FLOAT
    layer.precision = wanted
    for index in low:
        if not layer.output_type_is_set(index):
            layer.set_output_type(index, wanted)
    if layer.precision != wanted:
        raise BuildError(
            f"layer '{layer.name}': precision {name} was set, and TensorRT kept "
            f"{layer.precision.name}"
        )
    return name
