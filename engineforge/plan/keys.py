"""The keys of stages and plans: frozen values whose canonical JSON is hashed.

What is not a field here does not reach an engine's address (see also cache-key tests). Changing a
field's meaning means raising `KEY_FORMAT`, which makes every engine in the world stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engineforge.digest import Digest, digest_value, document
from engineforge.spec.model import DataSet, Profile, PythonFunction, Variant
from engineforge.spec.sources import Preparation
from engineforge.target import Target

KEY_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxKey:
    """Importing an ONNX file: its bytes, and those of its external data in the graph's order."""

    format: int = KEY_FORMAT
    canonical: int
    model: Digest
    external: tuple[Digest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkKey:
    """A network definition that a function fills: the files of the function, then its weights, by
    content, the `names` of its module's files, the versions of the packages that these import, and
    what it is called with (`arguments` as JSON)."""

    format: int = KEY_FORMAT
    defining: int
    function: str
    arguments: str
    weights: str | None
    files: tuple[Digest, ...]
    names: tuple[str, ...]
    packages: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceKey:
    """Having the ONNX model of a source that is none: what kind of source, its files by content in
    their order, how it is exported, for which `inputs` in their order, by which series of which
    libraries. `exporting` is the format of our own part in that."""

    format: int = KEY_FORMAT
    exporting: int
    kind: str
    files: tuple[Digest, ...]
    recipe: Mapping[str, object]
    inputs: tuple[Mapping[str, object], ...]
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedKey:
    """Preparing an ONNX model: its real digests, and what is done to it by which libraries.
    `outputs` are those asked for, in their order, which a mapping in a key does not have."""

    format: int = KEY_FORMAT
    preparing: int
    model: Digest
    external: tuple[Digest, ...]
    prepare: Preparation
    outputs: tuple[str, ...]
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesRecipe:
    """Samples by content: `files` is over the digests of the data set's files in their order,
    `reading` how they become inputs. Of `samples` None is all, of `seed` None the first ones."""

    files: Digest
    reading: Mapping[str, object]
    samples: int | None
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecipe:
    """How ranges are found, and on what."""

    data: SamplesRecipe
    method: str
    percentile: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedRecipe:
    """How a graph gets its types, whatever the model. `format` is that of our own rewriting,
    `versions` are the series of the libraries that do the rest."""

    format: int
    precision: str
    tool: str | None
    versions: Mapping[str, str]
    keep_fp32: tuple[str, ...]
    high_precision: str
    block_size: int | None
    sparsity: str | None
    keep_io_types: bool
    calibration: CalibrationRecipe | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedKey:
    """Converting a model: the recipe, and the real digests of the canonical model."""

    format: int = KEY_FORMAT
    model: Digest
    external: tuple[Digest, ...]
    recipe: TypedRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckKey:
    """Measuring how far a graph is from its source; both by their real digests. What the
    measurements must reach is in no key."""

    format: int = KEY_FORMAT
    measuring: int
    versions: Mapping[str, str]
    source: tuple[Digest, ...]
    typed: tuple[Digest, ...]
    data: SamplesRecipe
    labels: str | None
    class_axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCheckKey:
    """Measuring how far an engine, by its file and its plugins, is from its source model.
    `versions` are those that ran the source; `gpu` is the kind that ran the engine, whichever one
    it was."""

    format: int = KEY_FORMAT
    measuring: int
    versions: Mapping[str, str]
    engine: Digest
    plugins: tuple[str, ...]
    source: tuple[Digest, ...]
    data: SamplesRecipe
    labels: str | None
    class_axis: int
    gpu: Mapping[str, object]
    driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyKey:
    """One measurement of how fast an engine, by its file and its plugins, is on a kind of GPU: at
    which `point` (profile and shapes), with which `settings`. No two come out the same, and an
    entry does not change: `number` counts, from 0, those that are alike in all else."""

    format: int = KEY_FORMAT
    measuring: int
    engine: Digest
    plugins: tuple[str, ...]
    point: Mapping[str, object]
    settings: Mapping[str, object]
    gpu: Mapping[str, object]
    driver: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecipe:
    """How an engine is to be built, whatever the model: all options with their values."""

    profiles: tuple[Mapping[str, object], ...]
    builder: Mapping[str, object]
    target: Mapping[str, object]
    toolchain: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """Building an engine: the recipe, and the real digests of the model that it is built from."""

    format: int = KEY_FORMAT
    model: Digest
    external: tuple[Digest, ...]
    recipe: EngineRecipe


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanKey:
    """The whole chain over the *source's* digests: computable before any stage has run.

    `onnx` is how its model is imported, or the network that there is in place of one; `typed` is
    the recipe of the `typed` stage; None keeps the model's own types.
    """

    format: int = KEY_FORMAT
    onnx: OnnxKey | NetworkKey
    typed: TypedRecipe | None = None
    engine: EngineRecipe

    def digest(self) -> Digest:
        return digest_value(self)

    def typed_key(self, canonical: Digest) -> TypedKey | None:
        """The `typed` stage's key, when it is known what the `onnx` stage made."""
        if self.typed is None:
            return None
        return TypedKey(model=canonical, external=self.external, recipe=self.typed)

    @property
    def external(self) -> tuple[Digest, ...]:
        """The external data of the model, by content."""
        return self.onnx.external if isinstance(self.onnx, OnnxKey) else ()

    def engine_key(self, model: Digest, external: tuple[Digest, ...]) -> EngineKey:
        """The `engine` stage's key, when it is known what the one before it made."""
        return EngineKey(model=model, external=external, recipe=self.engine)


def reading(data: DataSet) -> dict[str, object]:
    """How the files of a data set become inputs, without where they are."""
    kind = type(data).__name__
    how = {k: v for k, v in document(data).items() if k not in ("path", "files")}
    if isinstance(data, PythonFunction):
        how["function"] = data.function.rpartition(":")[2]  # its module is among the files
    return {"kind": kind, **how}


def plugins_of(builder: Mapping[str, Any]) -> tuple[str, ...]:
    """The plugin libraries that an engine runs with, by content, of the options in its recipe."""
    found = [builder.get(name) or () for name in ("plugins", "safety_plugins")]
    return tuple(str(each) for libraries in found for each in libraries)


def recipe(
    variant: Variant, builder: Mapping[str, object], *, typing: int | None = None
) -> EngineRecipe:
    """The recipe of a variant, with builder options that were resolved to values. `typing` is the
    format of the rules by which a weakly typed network is held to its types; None where it is not.
    """
    return EngineRecipe(
        profiles=tuple(_profile(profile) for profile in variant.profiles),
        builder=builder,
        target=_identity(variant.target, builder.get("hardware_compatibility")),
        toolchain={
            **document(variant.target.toolchain),
            **({} if typing is None else {"typing": typing}),
        },
    )


def _identity(target: Target, compatibility: object) -> dict[str, object]:
    # A compatible engine is for more GPUs than the one it is built on: the level is in `builder`.
    identity = target.identity()
    if target.gpu is not None and compatibility == "ampere_plus":
        del identity["gpu"]
    elif target.gpu is not None and compatibility == "same_compute_capability":
        identity["gpu"] = {"compute_capability": target.gpu.compute_capability}
    return identity


def _profile(profile: Profile) -> dict[str, object]:
    # What a profile leaves out is left out of the key: `values` came after `shape`.
    return {
        name: {k: v for k, v in document(given).items() if v is not None}
        for name, given in profile.items()
    }
