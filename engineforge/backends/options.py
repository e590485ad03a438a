"""Every builder option: its TensorRT name, how it is set, and which backend honours it.

The one table in which the flavours of TensorRT differ. Imports no TensorRT, so that keys and
errors are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from engineforge.target import Target

Kind = Literal[
    "flag",  # BuilderFlag
    "value",  # an attribute of IBuilderConfig
    "enum",  # an attribute of IBuilderConfig whose values are of an enum
    "pool",  # MemoryPoolType, in bytes
    "tactic_sources",  # TacticSource, as a set
    "preview",  # PreviewFeature, by name
    "parser",  # OnnxParserFlag
    "network",  # set on tensors or layers of the network
    "plugin",  # libraries
]


@dataclass(frozen=True, slots=True)
class Option:
    """`tensorrt` and `tensorrt_rtx` say which versions have *and honour* the option; None: none.

    `api` is the attribute, enum member or enum class in TensorRT's own spelling. A default of None
    is "whatever this version of TensorRT does", which the toolchain in the key fixes.
    """

    name: str
    kind: Kind
    api: str
    default: object
    tensorrt: str | None
    tensorrt_rtx: str | None = None
    why_not_rtx: str = "ignores it"


# What TensorRT-RTX 1.7.1.116 does with each was tried option by option: read back, log, bytes.
_NO_GPU = "builds refittable and stripped engines only where a GPU is, which is not supported yet"
_OWN_RELEASE = "engines run on their own release of TensorRT-RTX only"
_NO_DLA = "has no DLA"
_NO_PLUGINS = "takes no plugins"
_ANY = ""

OPTIONS: tuple[Option, ...] = (
    Option("tf32", "flag", "TF32", True, _ANY, _ANY),
    Option("sparse_weights", "flag", "SPARSE_WEIGHTS", False, _ANY, _ANY),
    Option("refit", "flag", "REFIT", False, _ANY, None, _NO_GPU),
    Option("refit_identical", "flag", "REFIT_IDENTICAL", False, ">=10", None, _NO_GPU),
    Option("refit_individual", "flag", "REFIT_INDIVIDUAL", False, ">=10", None, _NO_GPU),
    Option("strip_plan", "flag", "STRIP_PLAN", False, ">=10", None, _NO_GPU),
    Option("weight_streaming", "flag", "WEIGHT_STREAMING", False, ">=10", _ANY),
    Option("version_compatible", "flag", "VERSION_COMPATIBLE", False, _ANY, None, _OWN_RELEASE),
    Option("exclude_lean_runtime", "flag", "EXCLUDE_LEAN_RUNTIME", False, _ANY, None, _OWN_RELEASE),
    Option("strict_nans", "flag", "STRICT_NANS", False, ">=10", _ANY),
    Option("distributive_independence", "flag", "DISTRIBUTIVE_INDEPENDENCE", False, ">=10", _ANY),
    Option("monitor_memory", "flag", "MONITOR_MEMORY", False, ">=10", _ANY),
    Option("require_user_allocation", "flag", "REQUIRE_USER_ALLOCATION", False, None, _ANY),
    Option("direct_io", "flag", "DIRECT_IO", False, _ANY, _ANY),
    Option("debug", "flag", "DEBUG", False, _ANY),
    Option("gpu_fallback", "flag", "GPU_FALLBACK", False, _ANY, None, _NO_DLA),
    Option("safety_scope", "flag", "SAFETY_SCOPE", False, _ANY),
    Option("disable_compilation_cache", "flag", "DISABLE_COMPILATION_CACHE", False, ">=10"),
    Option("editable_timing_cache", "flag", "EDITABLE_TIMING_CACHE", False, ">=10"),
    Option("error_on_timing_cache_miss", "flag", "ERROR_ON_TIMING_CACHE_MISS", False, ">=10"),
    Option("disable_timing_cache", "flag", "DISABLE_TIMING_CACHE", False, _ANY),
    Option("reject_empty_algorithms", "flag", "REJECT_EMPTY_ALGORITHMS", False, "<11"),
    Option("enable_tactic_heuristic", "flag", "ENABLE_TACTIC_HEURISTIC", False, "<10"),
    Option("obey_precision_constraints", "flag", "OBEY_PRECISION_CONSTRAINTS", False, "<11"),
    Option("prefer_precision_constraints", "flag", "PREFER_PRECISION_CONSTRAINTS", False, "<11"),
    Option("optimization_level", "value", "builder_optimization_level", 3, _ANY),
    Option("avg_timing_iterations", "value", "avg_timing_iterations", 1, _ANY),
    Option("min_timing_iterations", "value", "min_timing_iterations", 1, "<10"),
    Option("max_aux_streams", "value", "max_aux_streams", None, _ANY, _ANY),
    Option("max_num_tactics", "value", "max_num_tactics", -1, ">=10"),
    Option("l2_limit_for_tiling", "value", "l2_limit_for_tiling", None, ">=10"),
    Option("DLA_core", "value", "DLA_core", None, _ANY, None, _NO_DLA),
    Option("build_route", "value", "build_route", None, ">=11"),
    Option("remote_auto_tuning_config", "value", "remote_auto_tuning_config", None, ">=10"),
    Option("tiling_optimization_level", "enum", "TilingOptimizationLevel", "none", ">=10"),
    Option("profiling_verbosity", "enum", "ProfilingVerbosity", "layer_names_only", _ANY, _ANY),
    Option("hardware_compatibility", "enum", "HardwareCompatibilityLevel", "none", _ANY),
    Option("runtime_platform", "enum", "RuntimePlatform", "same_as_build", ">=10"),
    Option("engine_capability", "enum", "EngineCapability", "standard", _ANY),
    Option("default_device_type", "enum", "DeviceType", "gpu", _ANY, None, _NO_DLA),
    # 64 GiB and 1 GiB are what TensorRT-RTX takes without a GPU; both numbers reach the engine.
    Option("workspace", "pool", "WORKSPACE", 64 << 30, _ANY, _ANY),
    Option("tactic_dram", "pool", "TACTIC_DRAM", None, _ANY),
    Option("tactic_shared_memory", "pool", "TACTIC_SHARED_MEMORY", 1 << 30, ">=10", _ANY),
    Option("dla_managed_sram", "pool", "DLA_MANAGED_SRAM", None, _ANY, None, _NO_DLA),
    Option("dla_local_dram", "pool", "DLA_LOCAL_DRAM", None, _ANY, None, _NO_DLA),
    Option("dla_global_dram", "pool", "DLA_GLOBAL_DRAM", None, _ANY, None, _NO_DLA),
    Option("tactic_sources", "tactic_sources", "TacticSource", None, _ANY),
    Option("preview_features", "preview", "PreviewFeature", None, _ANY, _ANY),
    Option("native_instancenorm", "parser", "NATIVE_INSTANCENORM", None, ">=10"),
    Option(
        "enable_uint8_and_asymmetric_quantization_dla",
        "parser",
        "ENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA",
        False,
        ">=10",
        None,
        _NO_DLA,
    ),
    Option(
        "enable_plugin_override",
        "parser",
        "ENABLE_PLUGIN_OVERRIDE",
        False,
        ">=10.16",
        None,
        _NO_PLUGINS,
    ),
    Option("adjust_for_dla", "parser", "ADJUST_FOR_DLA", False, ">=10.16", None, _NO_DLA),
    Option(
        "report_capability_dla", "parser", "REPORT_CAPABILITY_DLA", False, ">=10.16", None, _NO_DLA
    ),
    Option("io_formats", "network", "allowed_formats", None, _ANY, _ANY),
    Option("layer_precisions", "network", "precision", None, "<11"),
    Option("layer_output_types", "network", "set_output_type", None, "<11"),
    Option("layer_device_types", "network", "set_device_type", None, _ANY, None, _NO_DLA),
    Option("decomposable_attentions", "network", "decomposable", None, ">=10.16"),
    Option("debug_tensors", "network", "mark_debug", None, ">=10", _ANY),
    Option(
        "mark_unfused_tensors_as_debug_tensors",
        "network",
        "mark_unfused_tensors_as_debug_tensors",
        False,
        ">=10.13",
        _ANY,
    ),
    Option("plugins", "plugin", "load_library", None, _ANY, None, _NO_PLUGINS),
    Option("safety_plugins", "plugin", "load_library", None, ">=10.13", None, _NO_PLUGINS),
    Option("plugins_to_serialize", "plugin", "plugins_to_serialize", None, _ANY, None, _NO_PLUGINS),
    Option(
        "ignore_parsed_plugin_libs",
        "plugin",
        "get_used_vc_plugin_libraries",
        False,
        _ANY,
        None,
        _NO_PLUGINS,
    ),
)
BY_NAME: Mapping[str, Option] = {option.name: option for option in OPTIONS}

# Preview features by the versions that have them; one that is not here is in none.
_PREVIEWS: Mapping[str, Mapping[str, str]] = {
    "tensorrt": {
        "aliased_plugin_io_10_03": ">=10",
        "disable_external_tactic_sources_for_core_0805": "<10",
        "faster_dynamic_shapes_0805": "<10",
        "multidevice_runtime_10_16": ">=10.16,<11",
        "profile_sharing_0806": "<11",
        "runtime_activation_resize_10_10": ">=10.10",
    },
    "tensorrt_rtx": {"runtime_activation_resize_10_10": _ANY},
}


# What a strongly typed network has no use for: TensorRT 10 has them, for weakly typed ones.
_WEAK = frozenset(
    [
        "layer_output_types",
        "layer_precisions",
        "obey_precision_constraints",
        "prefer_precision_constraints",
    ]
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An option that a target does not have, or ignores."""

    option: str
    message: str
    hint: str


def _has(versions: str | None, version: str) -> bool:
    from packaging.specifiers import SpecifierSet  # the child that builds needs the table alone

    return versions is not None and SpecifierSet(versions).contains(version, prereleases=True)


def _versions(option: Option, backend: str) -> str | None:
    return option.tensorrt if backend == "tensorrt" else option.tensorrt_rtx


def honoured(target: Target) -> Iterator[Option]:
    """The options that the target's backend and version have and honour."""
    chain = target.toolchain
    for option in OPTIONS:
        if _has(_versions(option, chain.backend), chain.version):
            yield option


def refusals(asked: Mapping[str, object], target: Target) -> list[Refusal]:
    """What of the options asked for the target lacks or ignores; the schema checked the values."""
    chain = target.toolchain
    found = []
    for name in asked:
        option = BY_NAME[name]
        if not _has(_versions(option, chain.backend), chain.version):
            rtx = chain.backend == "tensorrt_rtx"
            why = option.why_not_rtx if rtx and option.tensorrt_rtx is None else "does not have it"
            message = f"target '{target.name}': {chain.backend} {chain.version} {why}"
            found.append(Refusal(name, message, _who_has(option, chain.backend)))
        elif name in _WEAK and chain.backend == "tensorrt" and _has(">=10", chain.version):
            message = (
                f"target '{target.name}': networks are strongly typed on {chain.backend} "
                f"{chain.version}: the model's own types decide"
            )
            found.append(Refusal(name, message, "convert the model: precision, keep_fp32"))
    compatible = asked.get("hardware_compatibility", "none") != "none"
    if compatible and chain.backend == "tensorrt" and "workspace" not in asked:
        message = "an engine for several GPUs needs an explicit 'workspace'"
        hint = "its default is the memory of the one GPU that builds"
        found.append(Refusal("hardware_compatibility", message, hint))
    for feature in _mapping(asked.get("preview_features")):
        if not _has(_PREVIEWS[chain.backend].get(feature), chain.version):
            message = (
                f"target '{target.name}': {chain.backend} {chain.version} lacks or ignores the "
                f"preview feature '{feature}'"
            )
            have = [f for f, v in _PREVIEWS[chain.backend].items() if _has(v, chain.version)]
            found.append(Refusal("preview_features", message, f"it has: {', '.join(have)}"))
    formats = _mapping(asked.get("io_formats"))
    if chain.backend == "tensorrt_rtx" or _has(">=10", chain.version):
        for tensor, wanted in formats.items():
            if "dtype" in _mapping(wanted):
                message = (
                    f"target '{target.name}': {chain.backend} {chain.version} is strongly typed: "
                    f"the type of '{tensor}' is the one that the model has"
                )
                found.append(Refusal("io_formats", message, "change the type in the model"))
    return found


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _who_has(option: Option, backend: str) -> str:
    have = {"tensorrt": option.tensorrt, "tensorrt_rtx": option.tensorrt_rtx}
    words = " and ".join(f"{name} {v}".rstrip() for name, v in have.items() if v is not None)
    other = next((name for name, v in have.items() if v is not None and name != backend), None)
    if other is None:
        return f"{words} has it"
    return f"{words} has it: for targets of that backend, put it under 'builder.{other}'"


def resolve(asked: Mapping[str, object], target: Target) -> dict[str, object]:
    """Every option that the target honours, with its value: asked for, or the default.

    Only options without refusals may be asked for. The workspace's default is the memory of the
    target's GPU, where it has one: TensorRT would take that of the card it finds.
    """
    values: dict[str, object] = {}
    for option in honoured(target):
        default = option.default
        if option.kind == "pool" and target.gpu is not None:
            default = {"WORKSPACE": target.gpu.memory}.get(option.api)
        values[option.name] = _ordered(asked.get(option.name, default))
    return values


def _ordered(value: object) -> object:
    # A set is written in YAML as a list; its order means nothing.
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(value)
    return value
