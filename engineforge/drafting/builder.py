"""The build flags of a command of trtexec as builder options of a spec."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from engineforge.backends.options import BY_NAME, refusals
from engineforge.drafting.draft import Findings
from engineforge.drafting.flags import OPTION_FLAGS
from engineforge.drafting.profiles import Given
from engineforge.drafting.values import in_words, items, named, size, switches, whole
from engineforge.spec.model import ModelInterface, TensorInterface
from engineforge.target import Target

Options = dict[str, Any]

_PRECISION = frozenset({"layerPrecisions", "layerOutputTypes", "precisionConstraints"})
_ON = {
    name: option
    for option, names in OPTION_FLAGS.items()
    for name in names.split()
    if BY_NAME[option].kind in ("flag", "parser") or option.startswith(("mark_", "ignore_"))
}
_NUMBERS = {
    "builderOptimizationLevel": "optimization_level",
    "avgTiming": "avg_timing_iterations",
    "minTiming": "min_timing_iterations",
    "maxAuxStreams": "max_aux_streams",
    "maxTactics": "max_num_tactics",
}
_TEXTS = {
    "setBuildRoute": "build_route",
    "remoteAutoTuningConfig": "remote_auto_tuning_config",
}
_FILES = {
    "plugins": "plugins",
    "staticPlugins": "plugins",
    "dynamicPlugins": "plugins",
    "setPluginsToSerialize": "plugins_to_serialize",
    "safetyPlugins": "safety_plugins",
}
_POOLS = {
    "workspace": "workspace",
    "dlaSRAM": "dla_managed_sram",
    "dlaLocalDRAM": "dla_local_dram",
    "dlaGlobalDRAM": "dla_global_dram",
    "tacticSharedMem": "tactic_shared_memory",
}
_VERBOSITY = {"default": "layer_names_only", "verbose": "detailed"}
_HARDWARE = {
    "ampere+": "ampere_plus",
    "samecomputecapability": "same_compute_capability",
    "none": "none",
}
_PLATFORMS = {"SameAsBuild": "same_as_build", "WindowsAMD64": "windows_amd64"}
_TILING = ("none", "fast", "moderate", "full")
_SOURCES = {
    "CUBLAS": "cublas",
    "CUBLASLT": "cublas_lt",
    "CUBLAS_LT": "cublas_lt",
    "CUDNN": "cudnn",
    "EDGE_MASK_CONVOLUTIONS": "edge_mask_convolutions",
    "JIT_CONVOLUTIONS": "jit_convolutions",
}
_PREVIEWS = {
    "profileSharing0806": "profile_sharing_0806",
    "fasterDynamicShapes0805": "faster_dynamic_shapes_0805",
    "disableExternalTacticSourcesForCore0805": "disable_external_tactic_sources_for_core_0805",
    "aliasedPluginIO1003": "aliased_plugin_io_10_03",
    "runtimeActivationResize": "runtime_activation_resize_10_10",
}
_ONNX_TYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8e4m3fn": "fp8"}


def options(
    given: Given, interface: ModelInterface | None, place: Callable[[str], str], found: Findings
) -> Options:
    """Every builder option that the flags set, by EngineForge's names. `place` makes a path of the
    command one of the spec."""
    made: Options = {}
    for flag, value in given:
        if flag in _PRECISION:
            continue
        try:
            _one(flag, value or "", made, place, found)
        except ValueError as error:
            found.refuse(flag, str(error))
    formats = [(flag, value or "") for flag, value in given if flag.endswith("putIOFormats")]
    for flag, value in formats:
        _formats(flag, value, interface, made, found)
    if made.get("engine_capability") == "safety" and "DLA_core" in made:
        made["engine_capability"] = "dla_standalone"  # as trtexec has it
    return made


def _one(
    flag: str, value: str, made: Options, place: Callable[[str], str], found: Findings
) -> None:
    match flag:
        case "noTF32":
            made["tf32"] = False
        case "pluginInstanceNorm" | "pi":
            made["native_instancenorm"] = False
        case "stripAllWeights":
            made |= {"strip_plan": True, "refit": True}
        case "sparsity":
            _sparsity(value, made, found)
        case "workspace":
            made["workspace"] = in_words(size(value))
        case "memPoolSize":
            for item in items(value):
                pool, bytes_ = named(item, "POOL:SIZE, such as workspace:4096")
                made[_POOLS[_one_of(pool, _POOLS)]] = in_words(size(bytes_))
        case "useDLACore":
            made |= {"default_device_type": "dla", "DLA_core": whole(value)}
        case "safe":
            made.setdefault("engine_capability", "safety")
        case "buildDLAStandalone":
            made["engine_capability"] = "dla_standalone"
        case "profilingVerbosity" | "nvtxMode":
            wanted = _VERBOSITY.get(value, value)
            made["profiling_verbosity"] = _one_of(wanted, ("none", "layer_names_only", "detailed"))
        case "hardwareCompatibilityLevel":
            made["hardware_compatibility"] = _HARDWARE[_one_of(value.lower(), _HARDWARE)]
        case "runtimePlatform":
            made["runtime_platform"] = _PLATFORMS[_one_of(value, _PLATFORMS)]
        case "tilingOptimizationLevel":
            level = whole(value)
            made["tiling_optimization_level"] = _TILING[int(_one_of(str(level), "0123"))]
        case "l2LimitForTiling":
            if whole(value) >= 0:  # -1: TensorRT decides
                made["l2_limit_for_tiling"] = whole(value)
        case "tacticSources":
            _sources(value, made, found)
        case "preview":
            for name, on in switches(value).items():
                made.setdefault("preview_features", {})[_PREVIEWS[_one_of(name, _PREVIEWS)]] = on
        case "layerDeviceTypes":
            devices = [named(item, "LAYER:GPU or LAYER:DLA") for item in items(value)]
            made["layer_device_types"] = {
                layer: _one_of(device, ("GPU", "DLA")).lower() for layer, device in devices
            }
        case "decomposableAttentions" | "markDebug":
            option = "debug_tensors" if flag == "markDebug" else "decomposable_attentions"
            made[option] = [item.replace("'", "") for item in items(value)]
        case _ if flag in _FILES:
            _library(flag, value, made, place)
        case _ if flag in _NUMBERS:
            made[_NUMBERS[flag]] = whole(value)
        case _ if flag in _TEXTS:
            if re.search(r"://[^/@]*:[^@]*@", value):
                raise ValueError("has a password in it, which has no place in a spec")
            made[_TEXTS[flag]] = value
        case _ if flag in _ON:
            made[_ON[flag]] = True


def _one_of(value: str, known: Sequence[str] | Mapping[str, object]) -> str:
    if value not in known:
        raise ValueError(f"'{value}' is none of {', '.join(known)}")
    return value


def _sparsity(value: str, made: Options, found: Findings) -> None:
    if _one_of(value, ("disable", "enable", "force")) == "disable":
        return
    made["sparse_weights"] = True
    if value == "force":
        found.note(
            "sparsity",
            "differs",
            "'force' overwrites weights to see the speed; to prune: sparsity: '2:4' and an "
            "accuracy check",
        )


def _sources(value: str, made: Options, found: Findings) -> None:
    """trtexec's are changes to what TensorRT has by default; a spec names all that are on."""
    on = set(_SOURCES.values())
    for name, wanted in switches(value).items():
        source = _SOURCES[_one_of(name.upper(), _SOURCES)]
        on = on | {source} if wanted else on - {source}
    made["tactic_sources"] = sorted(on)
    found.note("tacticSources", "differs", "all sources but those taken away: look at the list")


def _library(flag: str, value: str, made: Options, place: Callable[[str], str]) -> None:
    path, _, _ = value.partition("[")  # --safetyPlugins=lib.so[namespace::plugin]
    if not path:
        raise ValueError("names no library")
    libraries = made.setdefault(_FILES[flag], [])
    if place(path) not in libraries:
        libraries.append(place(path))
    if flag == "setPluginsToSerialize" and place(path) not in made.setdefault("plugins", []):
        made["plugins"].append(place(path))  # those that are serialized are loaded


def _formats(
    flag: str, value: str, interface: ModelInterface | None, made: Options, found: Findings
) -> None:
    """Types and formats stand in the order of the model's inputs or outputs, and one is for all."""
    parts = [_format(item) for item in items(value)]
    plain = all(formats == ["linear"] for _, formats in parts)
    if interface is None:
        if not plain or any(kind not in (None, "fp32", "int32") for kind, _ in parts):
            found.note(flag, "left out", "is by the model's order: say it where the model is")
        return
    tensors = interface.inputs if flag.startswith("input") else interface.outputs
    if len(parts) == 1:
        parts = parts * len(tensors)
    if len(parts) != len(tensors):
        found.refuse(flag, f"has {len(parts)} formats, and the model {len(tensors)} tensors")
        return
    for tensor, (kind, formats) in zip(tensors, parts, strict=True):
        if formats != ["linear"]:
            made.setdefault("io_formats", {})[tensor.name] = {"formats": formats}
        if kind is not None and kind != _trtexec_type(tensor):
            found.note(
                flag,
                "left out",
                f"{tensor} as {kind}: inputs and outputs have the types of the model; "
                "'keep_io_types: false' lowers them with it",
            )


def _format(item: str) -> tuple[str | None, list[str]]:
    kind, colon, layout = item.rpartition(":")
    return (kind if colon else None), [
        "linear" if each == "chw" else each for each in layout.split("+")
    ]


def _trtexec_type(tensor: TensorInterface) -> str:
    return _ONNX_TYPES.get(tensor.type, tensor.type)


def placed(
    made: Options, targets: Sequence[Target], said: Collection[str], found: Findings
) -> Options:
    """The options as a spec's `builder`: those that TensorRT-RTX has not, or ignores, under
    `tensorrt`; without those that a target would refuse. `said` are the flags of the command."""
    if made.get("hardware_compatibility", "none") != "none" and "workspace" not in made:
        made["workspace"] = "4GiB"
        found.note(
            "hardwareCompatibilityLevel",
            "differs",
            "an engine for several GPUs needs a workspace of its own: 4GiB is a guess",
        )
    for target in targets:
        here = {name: value for name, value in made.items() if _applies(name, target)}
        for refusal in refusals(here, target):
            if made.pop(refusal.option, None) is not None:
                flag = _flag(refusal.option, said)
                found.note(flag, "left out", f"{refusal.message} ({refusal.hint})")
    shared = {n: v for n, v in made.items() if BY_NAME[n].tensorrt_rtx is not None}
    classic = {n: v for n, v in made.items() if n not in shared}
    if not any(target.toolchain.backend == "tensorrt" for target in targets):
        for flag in dict.fromkeys(_flag(name, said) for name in classic):
            names = [name for name in classic if _flag(name, said) == flag]
            listed = " and ".join(f"'{name}'" for name in names)
            found.note(
                flag,
                "differs",
                f"{listed} {'are' if len(names) > 1 else 'is'} for targets of classic TensorRT: "
                f"TensorRT-RTX {BY_NAME[names[0]].why_not_rtx}",
            )
    return {**shared, **({"tensorrt": classic} if classic else {})}


def _flag(option: str, said: Collection[str]) -> str:
    """Which flag of the command set an option."""
    names = OPTION_FLAGS[option].split()
    return next((name for name in names if name in said), names[0])


def _applies(name: str, target: Target) -> bool:
    backend = target.toolchain.backend
    return backend == "tensorrt" or BY_NAME[name].tensorrt_rtx is not None
