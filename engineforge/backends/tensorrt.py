"""Builds an engine with TensorRT-RTX, in a process of its own.

The API logs and goes on where it should refuse, so each option is read back, an ERROR line fails
the build, and what was written is counted. Laid out to carry classic TensorRT: what differs stands
in `FLAVOURS` and in options.py.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from engineforge.backends import BuildError, BuildOutput, BuildRequest
from engineforge.backends.library import load, loaded_version, make_logger
from engineforge.backends.options import OPTIONS
from engineforge.backends.settings import Settings, inputs_of
from engineforge.spec.model import Profile

_NO_DRIVER = "CUDA driver version is insufficient"
_HINTS = (
    (
        r"k(MIN|OPT|MAX) values for profile|Condition '==' violated",
        "the model cannot take the shapes of that profile all the way through; many networks want "
        "height and width to be multiples of 32",
    ),
    (
        "Plugin not found|checkFallbackPluginImporter|UNSUPPORTED_NODE|plugin creator",
        "this TensorRT has no such operator and no plugin of that name: express it in other "
        "operators, or export the model with another opset",
    ),
    ("OutOfMemory|no tactics to implement", "raise the builder option 'workspace'"),
)


def build(request: BuildRequest, engine: Path, log: Path) -> BuildOutput:
    """Parse, configure, build and write `engine`, fsynced; BuildError with TensorRT's own words.

    Needs a thread with a big stack: TensorRT recurses over chains of layers.
    """
    trt = load(request.target.toolchain.backend)
    with log.open("a", encoding="utf-8", buffering=1) as file:
        return _Build(trt, request, make_logger(trt, file)).run(engine)


class _Build:
    """One build: the objects of the API in the order in which it wants them."""

    def __init__(self, trt: ModuleType, request: BuildRequest, logger: Any) -> None:  # noqa: ANN401
        self.trt: Any = trt
        self.request = request
        self._backend = request.target.toolchain.backend
        self.logger = logger
        self.builder = self._made(trt.Builder(logger), "no builder")
        typed = int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self._made(self.builder.create_network(1 << typed), "no network")
        self.config = self._made(self.builder.create_builder_config(), "no builder config")
        self.parser = trt.OnnxParser(self.network, logger)
        self._settings = Settings(trt, config=self.config, network=self.network, parser=self.parser)

    def run(self, engine: Path) -> BuildOutput:
        toolchain = self._toolchain()
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
            inputs=[_interface(tensor) for tensor in inputs_of(self.network)],
            outputs=[
                _interface(self.network.get_output(i)) for i in range(self.network.num_outputs)
            ],
            parse_seconds=parsed - started,
            build_seconds=time.monotonic() - parsed,
            toolchain=toolchain,
            timing_cache="none: TensorRT-RTX has no timing caches",
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

    def _hint(self, what: str = "") -> str | None:
        """What to do about TensorRT's words, where that is known."""
        said = "\n".join([what, *self.logger.errors])
        return next((hint for words, hint in _HINTS if re.search(words, said)), None)

    def _no_errors(self, when: str) -> None:
        if self.logger.errors:
            raise BuildError(f"TensorRT logged an error {when}:{self._said()}")

    def _toolchain(self) -> dict[str, str]:
        """The versions of what was really loaded; BuildError where they are not the target's."""
        wanted = self.request.target.toolchain.version
        found = {"version": str(self.trt.__version__), "library": loaded_version(self._backend)}
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
        raise BuildError(what, hint=self._hint(what))

    def _configure(self, *, parser: bool) -> None:
        for option in OPTIONS:
            value = self.request.builder.get(option.name)
            if value is not None and (option.kind == "parser") == parser:
                self._settings.apply(option, value)

    def _add_profile(self, index: int, profile: Profile) -> None:
        inputs = {tensor.name: tensor for tensor in inputs_of(self.network)}
        made = self.builder.create_optimization_profile()
        for name, given in profile.items():
            if name not in inputs:  # TensorRT takes any name without a word
                raise BuildError(f"profile {index}: the network has no input '{name}'")
            if given.values is not None and not inputs[name].is_shape_tensor:
                raise BuildError(  # TensorRT warns and goes on
                    f"profile {index}: 'values' are for shape tensors, and '{name}' is none",
                    hint="give the shape of that input, or nothing if it is fixed",
                )
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
        for name, tensor in inputs.items():
            if tensor.is_shape_tensor and (name not in profile or profile[name].values is None):
                raise BuildError(
                    f"profile {index}: '{name}' is a shape tensor: its values decide shapes",
                    hint=f"write {name}: {{values: {{min: […], opt: […], max: […]}}}}",
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


def _interface(tensor: Any) -> str:  # noqa: ANN401 - TensorRT's ITensor
    """An input or output as the engine has it, whatever the ONNX model says."""
    names = [tensor.get_dimension_name(i) for i in range(len(tensor.shape))]
    dims = [
        str(dim) if dim >= 0 else name or "unnamed"
        for dim, name in zip(tensor.shape, names, strict=True)
    ]
    return f"'{tensor.name}' {tensor.dtype.name.lower()} [{', '.join(dims)}]"


def _parser_error(error: Any) -> str:  # noqa: ANN401 - the parser's own class
    where = ""
    if error.node_name() or error.node_operator():
        name = f"'{error.node_name()}'" if error.node_name() else str(error.node())
        where = f"node {name} (operator {error.node_operator()}): "
    return f"{where}{error.desc()} [{error.code().name}]"
