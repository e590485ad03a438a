"""What TensorRT 8 builds an engine of that computes something else: refused before the build.

Seen with 8.6.0 on an H200: PP-OCR's angle classifier fell from 100 % to 50 %, with each of these
convolutions kept out of INT8, or the normalization folded into it, it did not.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from engineforge.backends import BuildError
from engineforge.backends.network_settings import layers_of, made_by


def refuse_misread(
    trt: Any,  # noqa: ANN401 - TensorRT has no types
    network: Any,  # noqa: ANN401
    *,
    defined: bool = False,
) -> None:
    """BuildError with what helps, where a convolution of several groups is in INT8 and the
    normalization behind it, a layer of its own, gives what is not quantized again. That is
    `keep_fp32`, and where the network is `defined` by a function, an edit of that."""
    kinds: Any = trt.LayerType
    layers = layers_of(network)
    makers = {tensor.name: layer for layer in layers for tensor in made_by(layer)}
    users: dict[str, list[Any]] = defaultdict(list)
    for layer in layers:
        for index in range(layer.num_inputs):
            if (tensor := layer.get_input(index)) is not None:
                users[tensor.name].append(layer)

    def behind(layer: Any) -> list[Any]:  # noqa: ANN401
        return [user for tensor in made_by(layer) for user in users[tensor.name]]

    def is_quantized(layer: Any) -> bool:  # noqa: ANN401
        """Whether all that is made of its output is INT8 again, an activation between or not."""
        after = behind(layer)
        return bool(after) and all(
            user.type == kinds.QUANTIZE or (user.type == kinds.ACTIVATION and is_quantized(user))
            for user in after
        )

    found = []
    for layer in layers:
        if layer.type != kinds.CONVOLUTION:
            continue
        before = makers.get(layer.get_input(0).name)
        scales = [each for each in behind(layer) if each.type == kinds.SCALE]
        low = before is not None and before.type == kinds.DEQUANTIZE
        if low and _groups(trt, layer) > 1 and not all(map(is_quantized, scales)):
            found.append(layer.name)
    if found:
        raise BuildError(
            f"TensorRT {trt.__version__} computes wrong values in INT8 for a convolution of "
            "several groups where a BatchNormalization follows and nothing quantizes what that "
            "gives: "
            f"'{found[0]}'" + (f" and {len(found) - 1} more" if found[1:] else ""),
            hint=_HINT if defined else f"keep_fp32: [{', '.join(found)}]",
        )


_HINT = (
    "in the function, leave out the quantize and dequantize layers before such a convolution, or "
    "fold the normalization into its weights"
)


def _groups(trt: Any, convolution: Any) -> int:  # noqa: ANN401
    # A network gives layers of no kind.
    convolution.__class__ = trt.IConvolutionLayer
    return int(convolution.num_groups)
