"""Every flag of trtexec 8.6, 10 and 11, and where in EngineForge it has its place.

Those that set a builder option are named beside the option; of the others it is said what does the
same here, or why nothing does. What each version has was read in its `sampleOptions.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engineforge.backends.options import BY_NAME

Place = Literal[
    "option",  # a builder option
    "spec",  # another part of a spec: model, shapes, precision
    "measuring",  # an argument of `engineforge bench`
    "here",  # EngineForge does it itself, always or by a command of its own
    "nothing",  # it changes no engine: deprecated, or about trtexec's own output
    "none",  # it has no place
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """`takes` a value or not. `why` says what to do instead, or why there is nothing to do."""

    place: Place
    takes: bool
    why: str = ""


OPTION_FLAGS: Mapping[str, str] = {
    "tf32": "noTF32",
    "sparse_weights": "sparsity",
    "refit": "refit stripAllWeights",
    "strip_plan": "stripWeights weightless stripAllWeights",
    "weight_streaming": "allowWeightStreaming",
    "version_compatible": "versionCompatible vc",
    "exclude_lean_runtime": "excludeLeanRuntime",
    "distributive_independence": "distributiveIndependence",
    "monitor_memory": "monitorMemory",
    "direct_io": "directIO",
    "gpu_fallback": "allowGPUFallback",
    "safety_scope": "restricted",
    "disable_compilation_cache": "noCompilationCache",
    "error_on_timing_cache_miss": "errorOnTimingCacheMiss",
    "disable_timing_cache": "noBuilderCache",
    "enable_tactic_heuristic": "heuristic",
    "obey_precision_constraints": "precisionConstraints",
    "prefer_precision_constraints": "precisionConstraints",
    "optimization_level": "builderOptimizationLevel",
    "avg_timing_iterations": "avgTiming",
    "min_timing_iterations": "minTiming",
    "max_aux_streams": "maxAuxStreams",
    "max_num_tactics": "maxTactics",
    "l2_limit_for_tiling": "l2LimitForTiling",
    "tiling_optimization_level": "tilingOptimizationLevel",
    "DLA_core": "useDLACore",
    "default_device_type": "useDLACore",
    "build_route": "setBuildRoute",
    "remote_auto_tuning_config": "remoteAutoTuningConfig",
    "profiling_verbosity": "profilingVerbosity nvtxMode",
    "hardware_compatibility": "hardwareCompatibilityLevel",
    "runtime_platform": "runtimePlatform",
    "engine_capability": "safe buildDLAStandalone",
    "workspace": "workspace memPoolSize",
    "tactic_shared_memory": "memPoolSize",
    "dla_managed_sram": "memPoolSize",
    "dla_local_dram": "memPoolSize",
    "dla_global_dram": "memPoolSize",
    "tactic_sources": "tacticSources",
    "preview_features": "preview",
    "native_instancenorm": "pluginInstanceNorm pi",
    "enable_uint8_and_asymmetric_quantization_dla": "uint8AsymmetricQuantizationDLA",
    "enable_plugin_override": "enablePluginOverride",
    "adjust_for_dla": "adjustForDLA",
    "report_capability_dla": "reportCapabilityDLA",
    "io_formats": "inputIOFormats outputIOFormats",
    "layer_precisions": "layerPrecisions",
    "layer_output_types": "layerOutputTypes",
    "layer_device_types": "layerDeviceTypes",
    "decomposable_attentions": "decomposableAttentions",
    "debug_tensors": "markDebug",
    "mark_unfused_tensors_as_debug_tensors": "markUnfusedTensorsAsDebugTensors",
    "plugins": "plugins staticPlugins dynamicPlugins",
    "plugins_to_serialize": "setPluginsToSerialize",
    "safety_plugins": "safetyPlugins",
    "ignore_parsed_plugin_libs": "ignoreParsedPluginLibs",
}
"""Builder options by EngineForge's name, and the flags that set each, without dashes."""

# What the kind of the option does not tell.
_WITH_VALUES = frozenset({"precisionConstraints", "sparsity"})
_BARE = frozenset(
    {"buildDLAStandalone", "ignoreParsedPluginLibs", "markUnfusedTensorsAsDebugTensors", "safe"}
)
_NO_CAFFE = "TensorRT reads no Caffe and UFF models since 10: convert the model to ONNX"
_TUNING = "searches for a build route; give the one that it found: builder: {build_route: …}"
_CHECKS = "`engineforge check --engine` compares engines with models: checks: {accuracy: …}"
_NO_BENCH = "`engineforge bench` has nothing like it"

# A name that ends in '=' takes a value.
_OTHERS: tuple[tuple[Place, str, str], ...] = (
    ("spec", "onnx= minShapes= optShapes= maxShapes= profile=", ""),
    ("spec", "fp16 bf16 int8 fp8 int4 best stronglyTyped calib=", ""),
    ("measuring", "shapes= duration= iterations= warmUp= infStreams= streams= device=", ""),
    ("measuring", "useCudaGraph noDataTransfers useProfile= loadEngine=", ""),
    ("measuring", "dumpProfile exportProfile= separateProfileRun", ""),
    ("here", "saveEngine=", "engines are kept in the cache; `engineforge show` says where"),
    ("here", "timingCacheFile=", "timing caches are kept beside engines, and shared by builds"),
    ("here", "skipInference buildOnly", "`engineforge build` only builds"),
    ("here", "dumpLayerInfo exportLayerInfo=", "an engine is kept with its layers.json"),
    ("here", "loadInputs=", "`engineforge run --input NAME=FILE.npy`"),
    ("here", "dumpOutput exportOutput= dumpRawBindingsToFile", "`engineforge run --output FILE`"),
    ("here", "exportTimes= percentile= avgRuns=", "`engineforge bench --json`"),
    ("here", "dumpOptimizationProfile getPlanVersionOnly", "`engineforge show` says it"),
    ("here", "verbose", "an engine is kept with its build.log"),
    ("here", "tempdir= tempfileControls=", "a build has a folder of its own, which is removed"),
    ("here", "loadRefOutputs= refPair= accuracyAlgorithm=", _CHECKS),
    ("here", "accuracyThreshold= atol= rtol=", _CHECKS),
    ("here", "tuneBuildRoutes= tuneBuildRouteFile= tuningSearch= tuningTimeOut=", _TUNING),
    ("here", "tuningCacheFile= tuningResultFile= saveAllEngines continue", _TUNING),
    ("here", "helpBuildRoute=", _TUNING),
    ("here", "dryRun", "`engineforge plan` says what would be built"),
    ("nothing", "explicitBatch explicitPrecision", "has no effect with ONNX models"),
    ("nothing", "help -h", "is about trtexec"),
    ("nothing", "includeDataTransfers", "`engineforge bench` copies without --no-transfers"),
    ("nothing", "noCudaGraph", "`engineforge bench` captures no graph without --cuda-graph"),
    ("none", "model= deploy= output= uff= uffInput= uffNHWC", _NO_CAFFE),
    ("none", "batch= maxBatch=", "ONNX models have explicit batches: give --optShapes or --shapes"),
    ("none", "minShapesCalib= optShapesCalib= maxShapesCalib=", "samples have their own shapes"),
    ("none", "calibProfile=", "samples have their own shapes"),
    ("none", "strictTypes", "is of TensorRT before 8.4: name what stays FP32 in 'keep_fp32'"),
    ("none", "consistency", "checks an engine for the safety runtime, which nothing here runs"),
    ("none", "dumpKernelText cpuOnly", "is of the safety builder, which nothing here drives"),
    ("none", "useRuntime= leanDLLPath=", "engines are run with the full runtime"),
    ("none", "asyncFileReader", "is about how trtexec reads a file"),
    ("none", "refitFromOnnx= timeRefit dumpRefit", "engines are built anew, and never refitted"),
    ("none", "weightStreamingBudget= allocationStrategy=", f"is the runtime's, and {_NO_BENCH}"),
    ("none", "persistentCacheRatio=", f"is the runtime's, and {_NO_BENCH}"),
    ("none", "saveDebugTensors= saveAllDebugTensors=", "is the runtime's, and nothing saves them"),
    ("none", "sleepTime= idleTime= exposeDMA useManagedMemory", _NO_BENCH),
    ("none", "useSpinWait noSpinWait threads timeDeserialize", _NO_BENCH),
)


def _others() -> dict[str, Flag]:
    return {
        name.removesuffix("="): Flag(place=place, takes=name.endswith("="), why=why)
        for place, names, why in _OTHERS
        for name in names.split()
    }


def _takes(option: str, flag: str) -> bool:
    switches = BY_NAME[option].kind in ("flag", "parser") or flag in _BARE
    return flag in _WITH_VALUES or not switches


FLAGS: Mapping[str, Flag] = {
    **{
        name: Flag(place="option", takes=_takes(option, name))
        for option, names in OPTION_FLAGS.items()
        for name in names.split()
    },
    **_others(),
}
"""By name, without dashes but for `-h`."""
TAKES_VALUE = frozenset(name for name, flag in FLAGS.items() if flag.takes)
