"""What a graph needs of a GPU, and which compute capabilities have it: said before a build.

Seen with TensorRT-RTX 1.7.1.116, one single-operator network per cell, for each capability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engineforge.spec.model import AS_IT_IS, ModelInterface, Precision
from engineforge.target import Target

RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""What TensorRT-RTX 1.x builds for; it has no 9.0."""

_FROM_80 = RTX_CAPABILITIES[1:]
_FROM_89 = RTX_CAPABILITIES[3:]
_FROM_120 = RTX_CAPABILITIES[4:]

# Feature of the graph -> what people call it.
_WORDS: Mapping[str, str] = {
    "fp32-gemm": "FP32 matrix products",
    "bf16": "BF16",
    "int4": "INT4 weights",
    "fp8-e4m3": "FP8 (E4M3)",
    "fp8-e5m2": "FP8 (E5M2)",
    "fp4": "FP4 weights",
    "low-scales": "FP16 and BF16 scales of quantized layers",
    "reduce-axes": "axes of Reduce operators as inputs",
}
_PLURAL = frozenset({"fp32-gemm", "int4", "fp4", "low-scales", "reduce-axes"})

# Feature -> the capabilities that TensorRT-RTX builds it for.
_RTX: Mapping[str, tuple[str, ...]] = {
    "fp32-gemm": _FROM_80,
    "bf16": _FROM_80,
    "int4": _FROM_80,
    "fp8-e4m3": _FROM_89,
    "fp8-e5m2": (),
    "fp4": _FROM_120,
}

# Feature -> the least compute capability that has it in classic TensorRT (NVIDIA's support matrix),
# and the version whose API first has the type (8.6.0 has not, 10.13 has).
_CLASSIC: Mapping[str, tuple[str, str]] = {
    "bf16": ("8.0", "10.0"),
    "int4": ("7.5", "10.0"),
    "fp8-e4m3": ("8.9", "10.0"),
    "fp4": ("10.0", "10.8"),
    # Seen with 8.6.0: scales that are not FP32 are misread, opset 18's axes are not read at all.
    "low-scales": ("5.0", "10.0"),
    "reduce-axes": ("5.0", "10.0"),
}
# What else would help than another TensorRT.
_INSTEAD: Mapping[str, str] = {
    "low-scales": "high_precision: fp32",
    "reduce-axes": "export the model with opset 17 or lower",
}

# What a converted graph is made of.
_MADE_OF: Mapping[str, tuple[str, ...]] = {
    "fp16": ("fp16",),
    "bf16": ("bf16",),
    "int8": ("quantized",),
    "fp8": ("fp8-e4m3", "quantized"),
    "int4": ("int4", "quantized"),
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


def needs(
    interface: ModelInterface, precision: Precision, kept: str | None = None
) -> dict[str, str]:
    """What the graph that is built needs, and where it has that: feature -> words. `kept` is the
    first matrix product that stays FP32 where the others are lowered."""
    features = {
        name: f"the model has {_it(name)} at '{at}'" for name, at in interface.features.items()
    }
    if precision.name in AS_IT_IS:
        return features
    found = {
        feature: f"precision '{precision.name}' needs {_it(feature)}"
        for feature in _MADE_OF[precision.name]
    }
    if "reduce-axes" in features:
        found["reduce-axes"] = features["reduce-axes"]
    if (around := precision.high_precision) != "fp32":
        found[around] = f"high_precision '{around}' needs {_it(around)}"
        if precision.quantizes:
            found["low-scales"] = f"high_precision '{around}' needs them"
    elif precision.quantizes and "fp32-gemm" in features:
        found["fp32-gemm"] = features["fp32-gemm"] + "; high_precision: fp16 lowers them"
    if kept is not None:
        found["fp32-gemm"] = f"'keep_fp32' has them at '{kept}'"
    return found


def lacks(features: Mapping[str, str], target: Target) -> list[Lack]:
    """What of these needs some GPU of the target, or its TensorRT, has not."""
    return _lacks_rtx(features, target) if target.gpu is None else _lacks_classic(features, target)


def _lacks_rtx(features: Mapping[str, str], target: Target) -> list[Lack]:
    found = []
    for feature, capabilities in _RTX.items():
        words, where = _WORDS[feature], features.get(feature)
        asked = [c for c in target.compute_capabilities if c in RTX_CAPABILITIES]
        # With several, the weakest member decides.
        missing = [c for c in asked if c not in capabilities]
        if where is None or not missing:
            continue
        have = ", ".join(capabilities) or "none"
        found.append(
            Lack(
                f"target '{target.name}' is for compute capability {', '.join(missing)}, where "
                f"{target.toolchain.backend} has no {words}; {where}",
                f"capabilities with {words}: {have}",
            )
        )
    return found


def _lacks_classic(features: Mapping[str, str], target: Target) -> list[Lack]:
    found = []
    for feature, (capability, version) in _CLASSIC.items():
        if feature not in features or target.gpu is None:
            continue
        if _number(target.toolchain.version) < _number(version):
            message = f"target '{target.name}' has TensorRT {target.toolchain.version}, without"
            hint = f"TensorRT has {_it(feature)} from {version} on"
            if feature in _INSTEAD:
                hint = f"{_INSTEAD[feature]}, or {hint}"
        elif _number(target.gpu.compute_capability) < _number(capability):
            message = (
                f"target '{target.name}' has compute capability "
                f"{target.gpu.compute_capability}, without"
            )
            hint = f"GPUs have {_it(feature)} from compute capability {capability} on"
        else:
            continue
        found.append(Lack(f"{message} {_WORDS[feature]}; {features[feature]}", hint))
    return found


def _it(feature: str) -> str:
    return "them" if feature in _PLURAL else "it"


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))
