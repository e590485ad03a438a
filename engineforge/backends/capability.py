"""What a graph needs of a GPU, and which compute capabilities have it: said before a build.

Seen with TensorRT-RTX 1.7.1.116, one single-operator network per cell, for each capability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engineforge.spec.model import ModelInterface
from engineforge.target import Target

RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""What TensorRT-RTX 1.x builds for; it has no 9.0."""

_FROM_80 = RTX_CAPABILITIES[1:]
_FROM_89 = RTX_CAPABILITIES[3:]
_FROM_120 = RTX_CAPABILITIES[4:]

# Feature of the graph -> (what people call it, capabilities that have it).
_RTX: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "fp32-gemm": ("FP32 matrix products", _FROM_80),
    "bf16": ("BF16", _FROM_80),
    "int4": ("INT4 weights", _FROM_80),
    "fp8-e4m3": ("FP8 (E4M3)", _FROM_89),
    "fp8-e5m2": ("FP8 (E5M2)", ()),
    "fp4": ("FP4 weights", _FROM_120),
}


@dataclass(frozen=True, slots=True)
class Lack:
    """What no engine for the target could be built with."""

    message: str
    hint: str


def unknown_capabilities(target: Target) -> list[Lack]:
    """Compute capabilities that the target's backend does not build for."""
    if target.gpu is not None:
        return []
    return [
        Lack(
            f"{target.toolchain.backend} does not build for compute capability {capability}",
            f"it builds for {', '.join(RTX_CAPABILITIES)}",
        )
        for capability in target.compute_capabilities
        if capability not in RTX_CAPABILITIES
    ]


def lacks(interface: ModelInterface, target: Target) -> list[Lack]:
    """What the model has that some GPU of the target has not; the weakest member decides."""
    if target.gpu is not None:
        return []
    found = []
    for feature, (words, capabilities) in _RTX.items():
        where = interface.features.get(feature)
        asked = [c for c in target.compute_capabilities if c in RTX_CAPABILITIES]
        missing = [c for c in asked if c not in capabilities]
        if where is None or not missing:
            continue
        have = ", ".join(capabilities) or "none"
        found.append(
            Lack(
                f"target '{target.name}' is for compute capability {', '.join(missing)}, where "
                f"{target.toolchain.backend} has no {words}; the model has them at '{where}'",
                f"capabilities with {words}: {have}",
            )
        )
    return found
