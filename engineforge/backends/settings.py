"""Sets each builder option on TensorRT's objects, and reads it back: the API logs and goes on where
it should refuse."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from engineforge.backends import BuildError
from engineforge.backends.options import OPTIONS, Option

_ENUM_ATTRIBUTES = {
    "ProfilingVerbosity": "profiling_verbosity",
    "TilingOptimizationLevel": "tiling_optimization_level",
    "HardwareCompatibilityLevel": "hardware_compatibility_level",
    "RuntimePlatform": "runtime_platform",
    "EngineCapability": "engine_capability",
    "DeviceType": "default_device_type",
}

# What of IBuilderConfig is no setting of an engine, or is managed elsewhere than by an option.
_NO_OPTIONS = frozenset(
    [
        "all_build_routes",
        "flags",
        "num_optimization_profiles",
        "num_compute_capabilities",
        "profile_stream",
        "progress_monitor",
    ]
)


def unknown_settings(trt: Any) -> list[str]:  # noqa: ANN401
    """Attributes and enum members of a TensorRT module that no option stands for.

    A new release may bring one: until the table has it, no key can hold it.
    """
    known = {option.api for option in OPTIONS} | {*_ENUM_ATTRIBUTES.values(), *_NO_OPTIONS}
    config = trt.IBuilderConfig
    attributes = {
        each
        for each in dir(config)
        if not each.startswith("_") and not callable(getattr(config, each))
    }
    members = {
        f"{enum}.{member}"
        for enum in ("BuilderFlag", "MemoryPoolType", "OnnxParserFlag")
        for member in getattr(trt, enum).__members__
    }
    return sorted(
        [f"IBuilderConfig.{each}" for each in attributes - known]
        + [each for each in members if each.partition(".")[2] not in known]
    )


def inputs_of(network: Any) -> list[Any]:  # noqa: ANN401 - TensorRT's INetworkDefinition
    return [network.get_input(i) for i in range(network.num_inputs)]


class Settings:
    """The objects of one build that options are set on."""

    def __init__(
        self,
        trt: ModuleType,
        *,
        config: Any,  # noqa: ANN401 - TensorRT's objects have no types
        network: Any,  # noqa: ANN401
        parser: Any,  # noqa: ANN401
    ) -> None:
        self.trt: Any = trt
        self.config, self.network, self.parser = config, network, parser

    def apply(self, option: Option, value: Any) -> None:  # noqa: ANN401 - of the option's own type
        """Set an option; BuildError where TensorRT refuses it, or keeps something else."""
        trt, config = self.trt, self.config
        try:
            match option.kind:
                case "flag" | "parser":
                    owner = config if option.kind == "flag" else self.parser
                    enum = trt.BuilderFlag if option.kind == "flag" else trt.OnnxParserFlag
                    flag = getattr(enum, option.api)
                    (owner.set_flag if value else owner.clear_flag)(flag)
                    found = owner.get_flag(flag)
                case "value":
                    setattr(config, option.api, value)
                    found = getattr(config, option.api)
                case "enum":
                    attribute = _ENUM_ATTRIBUTES[option.api]
                    setattr(config, attribute, getattr(getattr(trt, option.api), value.upper()))
                    found = getattr(config, attribute).name.lower()
                case "pool":
                    pool = getattr(trt.MemoryPoolType, option.api)
                    config.set_memory_pool_limit(pool, value)
                    found = config.get_memory_pool_limit(pool)
                case "preview":
                    for name, on in value.items():
                        feature = getattr(trt.PreviewFeature, name.upper())
                        config.set_preview_feature(feature, on)
                    found = {
                        name: config.get_preview_feature(getattr(trt.PreviewFeature, name.upper()))
                        for name in value
                    }
                case "network":
                    found = self._set_on_network(option, value)
                case _:
                    raise BuildError(f"option '{option.name}' cannot be set by this backend yet")
        except (AttributeError, TypeError, ValueError) as error:
            raise BuildError(
                f"option '{option.name}': TensorRT refused {value!r}: {error}"
            ) from error
        if found != value:
            raise BuildError(
                f"option '{option.name}': {value!r} was set, and TensorRT kept {found!r}"
            )

    def _set_on_network(self, option: Option, value: Any) -> object:  # noqa: ANN401
        if option.name == "io_formats":
            return {name: self._set_formats(name, wanted) for name, wanted in value.items()}
        if option.name == "debug_tensors":
            tensors = self._tensors()
            return [
                name
                for name in value
                if name in tensors
                and self.network.mark_debug(tensors[name])
                and self.network.is_debug_tensor(tensors[name])
            ]
        if option.name == "mark_unfused_tensors_as_debug_tensors":
            return bool(value and self.network.mark_unfused_tensors_as_debug_tensors())
        raise BuildError(f"option '{option.name}' cannot be set by this backend yet")

    def _set_formats(self, name: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        ends = inputs_of(self.network)
        ends += [self.network.get_output(i) for i in range(self.network.num_outputs)]
        tensor = next((each for each in ends if each.name == name), None)
        if tensor is None:
            names = ", ".join(each.name for each in ends)
            raise BuildError(f"option 'io_formats': no input or output '{name}'; there is: {names}")
        bits = {f: 1 << int(getattr(self.trt.TensorFormat, f.upper())) for f in wanted["formats"]}
        tensor.allowed_formats = sum(bits.values())
        return {"formats": [f for f, bit in bits.items() if tensor.allowed_formats & bit]}

    def _tensors(self) -> dict[str, Any]:
        layers = [self.network.get_layer(i) for i in range(self.network.num_layers)]
        outputs = [layer.get_output(i) for layer in layers for i in range(layer.num_outputs)]
        return {tensor.name: tensor for tensor in outputs if tensor is not None}
