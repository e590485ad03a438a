"""Sets each builder option on TensorRT's objects, and reads it back: the API logs and goes on where
it should refuse."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from engineforge.backends import BuildError
from engineforge.backends.network_settings import NetworkSettings
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
        self.config, self.parser = config, parser
        self._on_network = NetworkSettings(trt, config=config, network=network)

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
                    member = getattr(getattr(trt, option.api), value.upper())
                    setattr(config, attribute, member)
                    kept = getattr(config, attribute)
                    # A member may have two names, and gives the older one.
                    found = value if kept == member else kept.name.lower()
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
                case "tactic_sources":
                    found = self._set_tactic_sources(value)
                case "network":
                    found = self._on_network.set(option, value)
                case "plugin":
                    return  # loaded before there was a network, or told to the config: plugins.py
        except (AttributeError, TypeError, ValueError) as error:
            raise BuildError(
                f"option '{option.name}': TensorRT refused {value!r}: {error}"
            ) from error
        if found != value:
            raise BuildError(
                f"option '{option.name}': {value!r} was set, and TensorRT kept {found!r}"
            )

    def _set_tactic_sources(self, wanted: list[str]) -> list[str]:
        """Exactly these are on; gives those that TensorRT has on then."""
        sources = self.trt.TacticSource
        bits = {name: 1 << int(getattr(sources, name.upper())) for name in wanted}
        self.config.set_tactic_sources(sum(bits.values()))
        found = self.config.get_tactic_sources()
        on = [n for n, member in sources.__members__.items() if found & 1 << int(member)]
        return sorted(name.lower() for name in on)
