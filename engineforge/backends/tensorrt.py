"""Builds an engine with TensorRT-RTX, in a process of its own.

The API logs and goes on where it should refuse, so each option is read back, an ERROR line fails
the build, and what was written is counted. Laid out to carry classic TensorRT: what differs stands
in `FLAVOURS` and in options.py.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from engineforge.backends import BuildError, BuildOutput, BuildRequest
from engineforge.backends.options import OPTIONS, Option
from engineforge.spec.model import Profile


@dataclass(frozen=True, slots=True)
class Flavour:
    module: str
    library: str
    timing_cache: str


FLAVOURS: Mapping[str, Flavour] = {
    "tensorrt_rtx": Flavour(
        module="tensorrt_rtx",
        library="libtensorrt_rtx.so",
        timing_cache="none: TensorRT-RTX has no timing caches",
    ),
}

_MAX_WARNINGS = 50
_NO_DRIVER = "CUDA driver version is insufficient"
_HINTS = (
    (
        r"k(MIN|OPT|MAX) values for profile|Condition '==' violated",
        "the model cannot take the shapes of that profile all the way through; many networks want "
        "height and width to be multiples of 32",
    ),
    (
        "Plugin not found|checkFallbackPluginImporter",
        "this TensorRT has no such operator and no plugin of that name: express it in other "
        "operators, or export the model with another opset",
    ),
    ("OutOfMemory|no tactics to implement", "raise the builder option 'workspace'"),
)


def load(backend: str) -> ModuleType:
    """Import a flavour's module, and with it the library."""
    return importlib.import_module(FLAVOURS[backend].module)


def build(request: BuildRequest, engine: Path, log: Path) -> BuildOutput:
    """Parse, configure, build and write `engine`, fsynced; BuildError with TensorRT's own words.

    Needs a thread with a big stack: TensorRT recurses over chains of layers.
    """
    flavour = FLAVOURS[request.target.toolchain.backend]
    trt = load(request.target.toolchain.backend)
    with log.open("a", encoding="utf-8", buffering=1) as file:
        return _Build(trt, request, _logger(trt, file)).run(engine, flavour)


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


def unknown_settings(name: str) -> list[str]:
    """Attributes and enum members of the installed TensorRT that no option stands for.

    A new release may bring one: until the table has it, no key can hold it.
    """
    trt: Any = load(name)
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


def _logger(trt: ModuleType, file: Any) -> Any:  # noqa: ANN401 - a class of an untyped module
    verbose = trt.ILogger.Severity.VERBOSE

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: dict[str, None] = {}

        def log(self, severity: object, message: str) -> None:
            if severity == verbose:  # thousands of them, one for each step
                return
            name = getattr(severity, "name", str(severity))
            file.write(f"[{name}] {message}\n")
            if name in ("INTERNAL_ERROR", "ERROR"):
                self.errors.append(message)
            elif name == "WARNING" and len(self.warnings) < _MAX_WARNINGS:
                self.warnings[message] = None

    return Logger()


class _Build:
    """One build: the objects of the API in the order in which it wants them."""

    def __init__(self, trt: ModuleType, request: BuildRequest, logger: Any) -> None:  # noqa: ANN401
        self.trt: Any = trt
        self.request = request
        self.logger = logger
        self.builder = self._made(trt.Builder(logger), "no builder")
        typed = int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self._made(self.builder.create_network(1 << typed), "no network")
        self.config = self._made(self.builder.create_builder_config(), "no builder config")
        self.parser = trt.OnnxParser(self.network, logger)

    def run(self, engine: Path, flavour: Flavour) -> BuildOutput:
        toolchain = self._toolchain(flavour)
        started = time.monotonic()
        self._configure(parser=True)
        self._parse()
        self._configure(parser=False)
        for index, profile in enumerate(self.request.profiles):
            self._add_profile(index, profile)
        self._set_compute_capabilities()
        self._no_errors("while the build was configured")
        parsed = time.monotonic()
        sha256, size = self._serialize(engine)
        return BuildOutput(
            size=size,
            sha256=sha256,
            layers=self.network.num_layers,
            parse_seconds=parsed - started,
            build_seconds=time.monotonic() - parsed,
            toolchain=toolchain,
            timing_cache=flavour.timing_cache,
            warnings=list(self.logger.warnings),
        )

    def _made(self, thing: Any, what: str) -> Any:  # noqa: ANN401
        if thing is None:
            raise BuildError(f"TensorRT made {what}{self._said()}")
        return thing

    def _said(self) -> str:
        # Without a driver, every error drags one about the driver behind it.
        lines = [line for line in dict.fromkeys(self.logger.errors) if _NO_DRIVER not in line]
        return "".join(f"\n  {line}" for line in (lines or self.logger.errors)[:8])

    def _hint(self) -> str | None:
        """What to do about TensorRT's words, where that is known."""
        said = "\n".join(self.logger.errors)
        return next((hint for words, hint in _HINTS if re.search(words, said)), None)

    def _no_errors(self, when: str) -> None:
        if self.logger.errors:
            raise BuildError(f"TensorRT logged an error {when}:{self._said()}")

    def _toolchain(self, flavour: Flavour) -> dict[str, str]:
        """The versions of what was really loaded; BuildError where they are not the target's."""
        wanted = self.request.target.toolchain.version
        found = {"version": str(self.trt.__version__), "library": _library_version(flavour)}
        for what, version in found.items():
            if version != wanted:
                raise BuildError(f"the target pins {wanted}, and the {what} loaded is {version}")
        return {**found, "onnx_parser": str(self.trt.get_nv_onnx_parser_version())}

    def _parse(self) -> None:
        if self.parser.parse_from_file(str(self.request.model)):
            # parse() returns True for some input that is no model, and adds nothing.
            if self.network.num_outputs == 0:
                raise BuildError("the model has no outputs")
            self._no_errors("while it parsed the model")
            return
        errors = [self.parser.get_error(i) for i in range(self.parser.num_errors)]
        lines = [_parser_error(error) for error in errors]
        what = "TensorRT cannot parse the model:" + "".join(f"\n  {line}" for line in lines)
        raise BuildError(what, hint=self._hint())

    def _configure(self, *, parser: bool) -> None:
        for option in OPTIONS:
            value = self.request.builder.get(option.name)
            if value is not None and (option.kind == "parser") == parser:
                self._set(option, value)

    def _set(self, option: Option, value: Any) -> None:  # noqa: ANN401 - of the option's own type
        trt, config = self.trt, self.config
        errors = len(self.logger.errors)
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
            del self.logger.errors[:errors]
            raise BuildError(
                f"option '{option.name}': {value!r} was set, and TensorRT kept {found!r}"
                + self._said()
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
        ends = [self.network.get_input(i) for i in range(self.network.num_inputs)]
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

    def _add_profile(self, index: int, profile: Profile) -> None:
        inputs = {
            tensor.name: tensor
            for tensor in (self.network.get_input(i) for i in range(self.network.num_inputs))
        }
        made = self.builder.create_optimization_profile()
        for name, given in profile.items():
            if name not in inputs:  # TensorRT takes any name without a word
                raise BuildError(f"profile {index}: the network has no input '{name}'")
            for ranges, kind in ((given.shape, "shape"), (given.values, "shape_input")):
                if ranges is None:
                    continue
                asked = [ranges.min, ranges.opt, ranges.max]
                getattr(made, f"set_{kind}")(name, *asked)
                found = [tuple(dims) for dims in getattr(made, f"get_{kind}")(name)]
                if found != asked:
                    raise BuildError(
                        f"profile {index}: {asked} was set for '{name}', and TensorRT kept {found}"
                    )
        if self.config.add_optimization_profile(made) != index:
            raise BuildError(f"TensorRT refused profile {index}{self._said()}")

    def _set_compute_capabilities(self) -> None:
        wanted = [
            getattr(self.trt.ComputeCapability, "SM" + capability.replace(".", ""))
            for capability in self.request.target.compute_capabilities
        ]
        self.config.num_compute_capabilities = len(wanted)
        for i, capability in enumerate(wanted):
            self.config.set_compute_capability(capability, i)
        found = [
            self.config.get_compute_capability(i)
            for i in range(self.config.num_compute_capabilities)
        ]
        if found != wanted:
            raise BuildError(f"compute capabilities {wanted} were set, and TensorRT kept {found}")

    def _serialize(self, engine: Path) -> tuple[str, int]:
        with engine.open("xb") as file, ThreadPoolExecutor(1) as beside:
            writer = _writer(self.trt, file, beside)
            done = self.builder.build_serialized_network_to_stream(
                self.network, self.config, writer
            )
            if writer.error is not None:
                # TensorRT reports success for a writer that failed.
                why = writer.error.strerror
                raise BuildError(f"the engine could not be written to '{engine.parent}': {why}")
            if not done:
                raise BuildError(f"TensorRT built no engine:{self._said()}", hint=self._hint())
            self._no_errors("while it built")
            file.flush()
            os.fsync(file.fileno())
        size = engine.stat().st_size
        if size == 0 or size != writer.size:
            raise BuildError(f"the engine has {size} bytes, and TensorRT wrote {writer.size}")
        return "sha256:" + writer.sha.hexdigest(), size


_ENUM_ATTRIBUTES = {
    "ProfilingVerbosity": "profiling_verbosity",
    "TilingOptimizationLevel": "tiling_optimization_level",
    "HardwareCompatibilityLevel": "hardware_compatibility_level",
    "RuntimePlatform": "runtime_platform",
    "EngineCapability": "engine_capability",
    "DeviceType": "default_device_type",
}


def _writer(trt: ModuleType, file: Any, beside: ThreadPoolExecutor) -> Any:  # noqa: ANN401
    class Writer(trt.IStreamWriter):  # type: ignore[misc, name-defined]
        """Hashes each piece while it is written; keeps the first error, which TensorRT drops."""

        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.sha = hashlib.sha256()
            self.size = 0
            self.error: OSError | None = None

        def write(self, data: bytes) -> int:
            if self.error is not None:
                return 0
            hashed = beside.submit(self.sha.update, data)
            try:
                file.write(data)
                self.size += len(data)
            except OSError as error:
                self.error = error
                return 0
            finally:
                hashed.result()
            return len(data)

    return Writer()


def _parser_error(error: Any) -> str:  # noqa: ANN401 - the parser's own class
    where = ""
    if error.node_name() or error.node_operator():
        where = f"node '{error.node_name()}' (operator {error.node_operator()}): "
    return f"{where}{error.desc()} [{error.code().name}]"


def _library_version(flavour: Flavour) -> str:
    """The version that the loaded shared library itself gives, not that of the Python bindings."""
    import ctypes

    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    found = re.search(rf"\S*/{re.escape(flavour.library)}\S*", maps)
    if found is None:
        raise BuildError(f"'{flavour.library}' is not loaded, though '{flavour.module}' is")
    library = ctypes.CDLL(found[0])
    parts = ("Major", "Minor", "Patch", "Build")
    return ".".join(str(getattr(library, f"getInferLib{part}Version")()) for part in parts)
