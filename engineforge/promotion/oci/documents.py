"""The JSON documents of OCI: descriptors, image manifests and image indexes, by the image
specification 1.1 (github.com/opencontainers/image-spec)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engineforge.digest import Digest, digest_bytes

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
EMPTY_BYTES = b"{}"

TITLE = "org.opencontainers.image.title"
CREATED = "org.opencontainers.image.created"
REF_NAME = "org.opencontainers.image.ref.name"
ANNOTATION = "dev.engineforge."
"""What the names of our own annotations begin with."""

MOST_BYTES = 4 << 20
"""Of a manifest or index: what registries have to take at least, by the distribution
specification; whatever is larger is not read."""


class BadDocument(ValueError):
    """Not such a document; the message says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What some bytes are, and how to tell that they are the right ones. Sizes in bytes."""

    media_type: str
    digest: Digest
    size: int
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, data: bytes, media_type: str, **more: Any) -> Descriptor:  # noqa: ANN401
        return cls(media_type=media_type, digest=digest_bytes(data), size=len(data), **more)

    def to_json(self) -> dict[str, Any]:
        raw: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.artifact_type is not None:
            raw["artifactType"] = self.artifact_type
        if self.annotations:
            raw["annotations"] = dict(sorted(self.annotations.items()))
        return raw

    @classmethod
    def from_json(cls, raw: Any) -> Descriptor:  # noqa: ANN401
        """BadDocument for what is none."""
        try:
            made = cls(
                media_type=_text(raw["mediaType"]),
                digest=Digest(raw["digest"]),
                size=raw["size"],
                artifact_type=raw.get("artifactType"),
                annotations={
                    _text(name): _text(value)
                    for name, value in (raw.get("annotations") or {}).items()
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadDocument(f"no descriptor: {error!r}") from error
        if isinstance(made.size, bool) or not isinstance(made.size, int) or made.size < 0:
            raise BadDocument(f"no size of a descriptor: {made.size!r}")
        return made


EMPTY_CONFIG = Descriptor.of(EMPTY_BYTES, EMPTY)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageManifest:
    """An artifact: its type, its config and layers, and what it is said about (`subject`)."""

    artifact_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Always the same for the same manifest, so that its digest is, too."""
        raw: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": self.artifact_type,
            "config": self.config.to_json(),
            "layers": [each.to_json() for each in self.layers],
        }
        if self.subject is not None:
            raw["subject"] = self.subject.to_json()
        if self.annotations:
            raw["annotations"] = dict(sorted(self.annotations.items()))
        return _written(raw)

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """All that it consists of, config first."""
        return (self.config, *self.layers)

    def layer(self, title: str) -> Descriptor | None:
        """The layer of a file name."""
        return next((each for each in self.layers if each.annotations.get(TITLE) == title), None)

    @classmethod
    def from_bytes(cls, data: bytes) -> ImageManifest:
        """BadDocument for anything else."""
        raw = read_document(data)
        if raw.get("mediaType") != MANIFEST:
            raise BadDocument(f"no image manifest, but {raw.get('mediaType')!r}")
        subject = raw.get("subject")
        try:
            return cls(
                artifact_type=_text(raw.get("artifactType") or raw["config"]["mediaType"]),
                config=Descriptor.from_json(raw["config"]),
                layers=tuple(Descriptor.from_json(each) for each in raw["layers"]),
                subject=None if subject is None else Descriptor.from_json(subject),
                annotations=_texts(raw),
            )
        except (KeyError, TypeError) as error:
            raise BadDocument(f"a field is missing or of the wrong kind: {error!r}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageIndex:
    """Several manifests under one digest."""

    manifests: tuple[Descriptor, ...]
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Always the same for the same index."""
        raw: dict[str, Any] = {"schemaVersion": 2, "mediaType": INDEX}
        if self.artifact_type is not None:
            raw["artifactType"] = self.artifact_type
        raw["manifests"] = [each.to_json() for each in self.manifests]
        if self.annotations:
            raw["annotations"] = dict(sorted(self.annotations.items()))
        return _written(raw)

    @classmethod
    def from_bytes(cls, data: bytes) -> ImageIndex:
        """BadDocument for anything else."""
        raw = read_document(data)
        # In an image layout's own index the media type may be left out.
        if raw.get("mediaType", INDEX) != INDEX:
            raise BadDocument(f"no image index, but {raw.get('mediaType')!r}")
        try:
            return cls(
                manifests=tuple(Descriptor.from_json(each) for each in raw["manifests"]),
                artifact_type=raw.get("artifactType"),
                annotations=_texts(raw),
            )
        except (KeyError, TypeError) as error:
            raise BadDocument(f"a field is missing or of the wrong kind: {error!r}") from error


def read_document(data: bytes) -> dict[str, Any]:
    """The JSON object of a manifest or index; BadDocument for what is none."""
    if len(data) > MOST_BYTES:
        raise BadDocument(f"{len(data)} bytes, and at most {MOST_BYTES} are read")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadDocument(f"not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise BadDocument("not a JSON object")
    if raw.get("schemaVersion") != 2:  # noqa: PLR2004 - the only one that OCI has
        raise BadDocument(f"schemaVersion {raw.get('schemaVersion')!r}, expected 2")
    return raw


def _texts(raw: Mapping[str, Any]) -> dict[str, str]:
    try:
        return {_text(k): _text(v) for k, v in (raw.get("annotations") or {}).items()}
    except AttributeError as error:
        raise BadDocument(f"no annotations: {error}") from error


def _text(value: Any) -> str:  # noqa: ANN401
    if not isinstance(value, str):
        raise BadDocument(f"expected a string, found {value!r}")
    return value


def _written(raw: Mapping[str, Any]) -> bytes:
    return json.dumps(raw, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def referrers_tag(subject: Digest) -> str:
    """The tag of the index of what refers to a manifest, where there is no API for that: the
    distribution specification's "referrers tag schema"."""
    return f"sha256-{subject.hex}"
