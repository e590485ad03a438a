"""An engine as an OCI artifact: what of an entry of the store it is made of, what its manifest says
of it, and whether its parts belong together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import StoreCorrupt, Untrusted
from engineforge.promotion.oci.documents import (
    ANNOTATION,
    CREATED,
    MANIFEST,
    TITLE,
    BadDocument,
    Descriptor,
    ImageManifest,
)
from engineforge.store.local import ENGINE, Entry
from engineforge.store.local import MANIFEST as ENTRY_MANIFEST
from engineforge.store.manifest import BadManifest, Manifest

ENGINE_TYPE = "application/vnd.engineforge.engine.v1"
CONFIG_TYPE = "application/vnd.engineforge.engine.config.v1+json"
LAYER_TYPE = "application/vnd.engineforge.engine.layer.v1"
"""Of `model.engine`; the other files of an entry have types of their own."""

_LAYER_TYPES = {
    ENGINE: LAYER_TYPE,
    "timing.cache": "application/vnd.engineforge.engine.timing-cache.v1",
    "layers.json": "application/vnd.engineforge.engine.layers.v1+json",
    "build.log": "application/vnd.engineforge.engine.log.v1",
}
_ANY_TYPE = "application/octet-stream"
_STAGE = "engine"
# RFC 3339, as the image specification wants it of `created`.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the annotations of an engine say, on its manifest and in an index: of which plan and
    entry it is, under which names it was promoted, and where it runs. A claim: what an engine was
    built for is in its entry's manifest (`entry_manifest`).

    `gpu` is the name of the GPU, or what stands for several: compute capabilities with commas, or
    the level of hardware compatibility; `compute_capability` is one, several with commas, or the
    least one, `8.0+`. `created` is RFC 3339.
    """

    spec: str
    variant: str
    target: str
    precision: str
    plan: Digest
    key: Digest
    gpu: str
    compute_capability: str
    backend: str
    tensorrt: str
    created: str

    @property
    def label(self) -> str:
        return f"{self.spec}/{self.variant}@{self.target}"

    def annotations(self) -> dict[str, str]:
        return {_annotation(each.name): str(getattr(self, each.name)) for each in fields(About)}

    @classmethod
    def read(cls, annotations: Mapping[str, str]) -> About:
        """Untrusted where one is missing or of the wrong form."""
        return cls(**_about(annotations))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineArtifact(About):
    """What an engine's manifest says. `digest` and `size` are the manifest's own, `engine` is the
    layer of `model.engine`, and `config` the manifest of its entry."""

    digest: Digest
    size: int
    config: Descriptor
    engine: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """An engine's artifact with the files that it is made of: the config first, then the layers in
    their order. `descriptor` is what an index has of it."""

    manifest: bytes
    descriptor: Descriptor
    blobs: tuple[tuple[Descriptor, Path], ...]


def of_entry(entry: Entry, *, plan: Digest, spec: str, variant: str, target: str) -> Artifact:
    """The artifact of an engine's entry under these names; always the same one. No file is read.
    StoreCorrupt where the entry does not say what it was built for."""
    about = _about_entry(entry.manifest, plan=plan, spec=spec, variant=variant, target=target)
    config = Descriptor.of(entry.manifest.to_bytes(), CONFIG_TYPE)
    layers = _layers(entry.manifest)
    data = ImageManifest(
        artifact_type=ENGINE_TYPE,
        config=config,
        layers=layers,
        annotations=about.annotations(),
    ).to_bytes()
    return Artifact(
        manifest=data,
        descriptor=described(read_artifact(data)),
        blobs=(
            (config, entry.file(ENTRY_MANIFEST)),
            *((each, entry.file(each.annotations[TITLE])) for each in layers),
        ),
    )


def read_artifact(data: bytes) -> EngineArtifact:
    """What the manifest of an engine says; Untrusted for any other document."""
    try:
        manifest = ImageManifest.from_bytes(data)
    except BadDocument as error:
        raise Untrusted(f"not the manifest of an engine: {error}") from error
    if manifest.artifact_type != ENGINE_TYPE:
        raise Untrusted(
            f"not the manifest of an engine, but of '{manifest.artifact_type}'",
            hint=f"engines are '{ENGINE_TYPE}'",
        )
    if manifest.config.media_type != CONFIG_TYPE:
        raise Untrusted(f"the config of an engine is a '{manifest.config.media_type}'")
    titles = [each.annotations.get(TITLE) for each in manifest.layers]
    if len(set(titles)) != len(titles):
        raise Untrusted("an engine's manifest has two layers of one name")
    for each, title in zip(manifest.layers, titles, strict=True):
        if title is None or each.media_type != _LAYER_TYPES.get(title, _ANY_TYPE):
            raise Untrusted(f"the layer '{title}' of an engine is a '{each.media_type}'")
    engine = manifest.layer(ENGINE)
    if engine is None:
        raise Untrusted(f"an engine's manifest has no layer '{ENGINE}'")
    return EngineArtifact(
        **_about(manifest.annotations),
        digest=digest_bytes(data),
        size=len(data),
        config=manifest.config,
        engine=engine,
        layers=manifest.layers,
    )


def described(artifact: EngineArtifact) -> Descriptor:
    """What an index has of an engine: the same annotations as its manifest."""
    return Descriptor(
        media_type=MANIFEST,
        digest=artifact.digest,
        size=artifact.size,
        artifact_type=ENGINE_TYPE,
        annotations=artifact.annotations(),
    )


def entry_manifest(artifact: EngineArtifact, config: bytes) -> Manifest:
    """The manifest of an engine's entry, which its config is. Untrusted where it is not what the
    artifact says: other layers than it has files, or annotations that do not follow from it."""
    if digest_bytes(config) != artifact.config.digest:
        raise Untrusted(f"the config of {artifact.label} is another than its manifest names")
    try:
        manifest = Manifest.of_entry(_STAGE, artifact.key, config)
        says = _about_entry(
            manifest,
            plan=artifact.plan,
            spec=artifact.spec,
            variant=artifact.variant,
            target=artifact.target,
        )
    except (BadManifest, StoreCorrupt) as error:
        raise Untrusted(f"the config of {artifact.label} is not that of it: {error}") from error
    theirs = {each.annotations[TITLE]: each for each in artifact.layers}
    ours = {each.annotations[TITLE]: each for each in _layers(manifest)}
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise Untrusted(
                f"the layer '{name}' of {artifact.label} is not the file of its entry",
                hint="it was swapped, added or taken away after the engine was built",
            )
    for each in fields(About):
        claimed, built = getattr(artifact, each.name), getattr(says, each.name)
        if claimed != built:
            raise Untrusted(
                f"'{_annotation(each.name)}' of {artifact.label} is '{claimed}', and its entry says"
                f" '{built}'"
            )
    return manifest


def _annotation(name: str) -> str:
    return CREATED if name == "created" else f"{ANNOTATION}{name}"


def _about(annotations: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in fields(About):
        name = _annotation(each.name)
        if not (value := annotations.get(name)):
            raise Untrusted(f"an engine has no annotation '{name}'")
        found[each.name] = value
    try:
        found |= {name: Digest(found[name]) for name in ("plan", "key")}
    except ValueError as error:
        raise Untrusted(f"an engine has no digest where one belongs: {error}") from error
    if not _TIME.fullmatch(found["created"]):
        raise Untrusted(f"an engine was created at no time: '{found['created']}'")
    return found


def _layers(manifest: Manifest) -> tuple[Descriptor, ...]:
    names = sorted(manifest.files, key=lambda name: (name != ENGINE, name))
    return tuple(
        Descriptor(
            media_type=_LAYER_TYPES.get(name, _ANY_TYPE),
            digest=manifest.files[name].sha256,
            size=manifest.files[name].size,
            annotations={TITLE: name},
        )
        for name in names
    )


def _about_entry(
    manifest: Manifest, *, plan: Digest, spec: str, variant: str, target: str
) -> About:
    try:
        recipe: Mapping[str, Any] = manifest.key_document["recipe"]
        gpu, capability = _runs_on(recipe)
        about = About(
            spec=spec,
            variant=variant,
            target=target,
            precision=manifest.record["precision"],
            plan=plan,
            key=manifest.key,
            gpu=gpu,
            compute_capability=capability,
            backend=recipe["toolchain"]["backend"],
            tensorrt=recipe["toolchain"]["version"],
            created=manifest.record["finished"],
        )
        if manifest.stage != _STAGE or ENGINE not in manifest.files:
            raise ValueError(f"of the stage '{manifest.stage}', with {sorted(manifest.files)}")
        for name, value in asdict(about).items():
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name}: {value!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreCorrupt(
            f"the {manifest.stage} entry {manifest.key.short} does not say what engine it is:"
            f" {error!r}",
            hint="build it again",
        ) from error
    return about


def _runs_on(recipe: Mapping[str, Any]) -> tuple[str, str]:
    """What the annotations say of the GPUs that a recipe is for."""
    target = recipe["target"]
    if "compute_capabilities" in target:
        several = ",".join(target["compute_capabilities"])
        return several, several
    if "gpu" not in target:  # left out of the key, by the level that the options have
        level = recipe["builder"]["hardware_compatibility"]
        return level, "8.0+"
    capability = target["gpu"]["compute_capability"]
    return target["gpu"].get("name", capability), capability
