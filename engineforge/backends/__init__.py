"""What compiles an engine. A backend is a name in a target and a flavour of one module, `tensorrt`;
what differs between flavours and versions stands in `library`, `options` and `capability`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engineforge.errors import EngineForgeError
from engineforge.spec.model import Profile
from engineforge.store.timings import Timings
from engineforge.target import Target


class BuildError(EngineForgeError):
    """The backend refused or failed; the message is TensorRT's own, with what led to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A function that fills the network, what it is called with, and what it is called. `inputs`
    are the spec's, None for an axis that varies."""

    function: Callable[..., object]
    weights: Path | None
    arguments: Mapping[str, object]
    inputs: Mapping[str, tuple[int | None, ...]]
    called: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """All that one build needs: `model` is an ONNX file that loads where it stands, or there is a
    `definition` in its place, `builder` has
    every option that the target honours, `types` the model's floating-point tensors, HALF or FLOAT
    by name, where the API is not strongly typed.

    `timings` is a timing cache to begin with, `shared_timings` one to begin with and to add to, and
    into `timings_out` goes what the build ends with.
    """

    model: Path | None
    definition: Definition | None = None
    profiles: Sequence[Profile]
    builder: Mapping[str, object]
    target: Target
    types: Mapping[str, str] = field(default_factory=dict)
    timings: Path | None = None
    shared_timings: Timings | None = None
    timings_out: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOutput:
    """What the engine file holds, and what is known of the build besides (for the manifest)."""

    size: int
    sha256: str
    layers: int
    inputs: Sequence[str]
    outputs: Sequence[str]
    interface: Mapping[str, Sequence[Mapping[str, object]]]
    parse_seconds: float
    build_seconds: float
    toolchain: Mapping[str, str]
    typing: Mapping[str, object]
    timing_cache: Mapping[str, object]
    warnings: Sequence[str]


TYPING = 2
"""Of the rules in `weak`: raised when they would give the same model another engine."""
