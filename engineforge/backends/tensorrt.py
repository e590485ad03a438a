"""Builds an engine with TensorRT or TensorRT-RTX, in a process of its own.

The API logs and goes on where it should refuse, so each option is read back, an ERROR line fails
the build, and what was written is counted. What differs between flavours and versions stands in
`library` and `options`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from engineforge.backends import BuildError, BuildOutput, BuildRequest
from engineforge.backends.definition import define, read_weights
from engineforge.backends.library import FLAVOURS, api, load, loaded_version, make_logger
from engineforge.backends.misread import refuse_misread
from engineforge.backends.network import (
    add_profile,
    interfaces,
    make_network,
    parse,
    tensors,
)
from engineforge.backends.options import OPTIONS
from engineforge.backends.plugins import load_plugins, serialize_plugins
from engineforge.backends.serialized import serialize
from engineforge.backends.settings import Settings
from engineforge.backends.timing_cache import TimingCache
from engineforge.backends.weak import enforce_types
from engineforge.backends.words import Words
from engineforge.store.timings import BadTimings, Timings
from engineforge.target import same_version


def build(request: BuildRequest, engine: Path, log: Path) -> BuildOutput:
    """Parse, configure, build and write `engine`, fsynced; BuildError with TensorRT's own words.

    Needs a thread with a big stack: TensorRT recurses over chains of layers. Classic TensorRT
    builds on the one GPU that CUDA shows this process.
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
        self.logger, self.words = logger, Words(logger)
        try:
            self.builder = self.words.made(trt.Builder(logger), "no builder")
        except TypeError as error:  # what the binding makes of a host without a driver
            raise BuildError(
                f"TensorRT made no builder{self.words.said()}",
                hint="is there an NVIDIA driver, and does `nvidia-smi` list the GPU?",
            ) from error
        load_plugins(trt, self.builder, logger, request.builder, self.words)
        self.network = self.words.made(make_network(trt, self.builder), "no network")
        self.config = self.words.made(self.builder.create_builder_config(), "no builder config")
        self.parser = trt.OnnxParser(self.network, logger)
        self._settings = Settings(trt, config=self.config, network=self.network, parser=self.parser)

    def run(self, engine: Path) -> BuildOutput:
        toolchain = self._toolchain()
        started = time.monotonic()
        self._configure(parser=True)
        held = self._fill()
        self._configure(parser=False)
        serialize_plugins(self.config, self.parser, self.request.builder)
        typing: Mapping[str, object] = {"strong": True}
        if not api(self.trt).strongly_typed:
            defined = self.request.definition is not None
            refuse_misread(self.trt, self.network, defined=defined)
            typing = enforce_types(self.trt, self.config, self.network, self.request.types)
        for index, profile in enumerate(self.request.profiles):
            add_profile(
                index,
                profile,
                builder=self.builder,
                config=self.config,
                network=self.network,
                words=self.words,
            )
        if not FLAVOURS[self._backend].on_gpu:
            self._set_compute_capabilities()
        self.words.no_errors("while the build was configured")
        timings = _Timings(self)
        parsed = time.monotonic()
        sha256, size = serialize(
            engine,
            trt=self.trt,
            builder=self.builder,
            network=self.network,
            config=self.config,
            words=self.words,
        )
        del held
        built = time.monotonic()
        inputs, outputs = interfaces(self.network)
        return BuildOutput(
            size=size,
            sha256=sha256,
            layers=self.network.num_layers,
            inputs=inputs,
            outputs=outputs,
            interface=tensors(self.network),
            parse_seconds=parsed - started,
            build_seconds=built - parsed,
            toolchain=toolchain,
            typing=typing,
            timing_cache=timings.kept(),
            warnings=list(self.logger.warnings),
        )

    def _fill(self) -> list[object]:
        """Put the model into the network; what TensorRT points into, until it is built."""
        given = self.request.definition
        if given is None:
            if self.request.model is None:
                raise RuntimeError("a build takes a model, or the definition of a network")
            parse(self.trt, self.parser, self.network, self.request.model, self.words)
            return []
        return define(
            self.trt,
            self.network,
            given.function,
            weights={} if given.weights is None else read_weights(given.weights),
            inputs=given.inputs,
            arguments=given.arguments,
            words=self.words,
            called=given.called,
        )

    def _toolchain(self) -> dict[str, str]:
        """The versions of what was really loaded; BuildError where they are not the target's."""
        wanted = self.request.target.toolchain.version
        found = {"version": str(self.trt.__version__), "library": loaded_version(self._backend)}
        for what, version in found.items():
            if not same_version(version, wanted):
                raise BuildError(f"the target pins {wanted}, and the {what} loaded is {version}")
        return {**found, "onnx_parser": str(self.trt.get_nv_onnx_parser_version())}

    def _configure(self, *, parser: bool) -> None:
        for option in OPTIONS:
            value = self.request.builder.get(option.name)
            if value is not None and (option.kind == "parser") == parser:
                self._settings.apply(option, value)

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


class _Timings:
    """The timing cache of a build: what it starts from, what it leaves, and what became of both.

    An entry's own cache comes first where one is given, else the shared one is begun with. Whatever
    is wrong with a timing cache is said, and costs time, and nothing else.
    """

    def __init__(self, build: _Build) -> None:
        self._build, self._request = build, build.request
        self._about: dict[str, object] = {}
        self._cache: TimingCache | None = None
        if not FLAVOURS[build.request.target.toolchain.backend].on_gpu:
            self._about["state"] = "none: TensorRT-RTX has no timing caches"
        elif build.request.builder.get("disable_timing_cache"):
            self._about["state"] = "none: the option 'disable_timing_cache' is set"
        else:
            self._cache = TimingCache(build.trt, build.config, build.logger)
            self._start(self._cache)

    def _start(self, cache: TimingCache) -> None:
        state, blob = "cold", b""
        shared = self._request.shared_timings
        if self._request.timings is not None:
            state = "from the entry's own"
            try:
                blob = self._request.timings.read_bytes()
            except OSError as error:
                state, self._about["set_aside"] = "cold", f"it cannot be read: {error.strerror}"
        elif shared is not None:
            try:
                found = shared.read()
            except BadTimings as error:
                self._about["set_aside"] = str(error)  # when this build merges, under the lock
            else:
                state, blob = ("from the shared one", found) if found else (state, b"")
        if (rejected := cache.attach(blob)) is not None:
            state = "cold"
            self._about["rejected"] = rejected.why
        self._about |= {"state": state, "bytes_read": cache.read_bytes}
        if cache.read_sha256 is not None:
            # For provenance: the shared one is another when the next build has merged into it.
            self._about["sha256_read"] = cache.read_sha256
        if (keys := cache.keys()) is not None:
            self._about["timings_read"] = keys

    def kept(self) -> dict[str, object]:
        """Write the cache beside the engine, merge it into the shared one; what there is to say."""
        cache = self._cache
        if cache is None:
            return self._about
        blob = cache.taken_out()
        if self._request.timings_out is not None and blob:
            self._request.timings_out.write_bytes(blob)
        # TensorRT 8 tells no hits; how many tactics it timed shows what was missed.
        self._about |= {"bytes_kept": len(blob), "tactics_timed": self._build.logger.timed}
        if (keys := cache.keys()) is not None:
            self._about["timings_kept"] = keys
        if (shared := self._request.shared_timings) is not None:
            self._about["shared"] = self._merged(cache, shared)
        if cache.notes:
            self._about["notes"] = cache.notes[:_MOST_NOTES]
        return self._about

    @staticmethod
    def _merged(cache: TimingCache, shared: Timings) -> str:
        try:
            with shared.changing(f"PID {os.getpid()} on {socket.gethostname()}"):
                return cache.merge_into(shared)
        except OSError as error:
            return f"not merged: {error.strerror}"


_MOST_NOTES = 20
