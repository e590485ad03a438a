"""Entries of engines as the worker publishes them, small or as large as a test asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engineforge.digest import digest_bytes
from engineforge.promotion.artifact import Artifact, of_entry
from engineforge.promotion.oci.documents import EMPTY_BYTES, EMPTY_CONFIG, Descriptor, ImageManifest
from engineforge.promotion.oci.repository import Chunks, Repository
from engineforge.store.local import Entry, LocalStore

FILES = {
    "model.engine": b"engine" * 1000,
    "build.log": b"log",
    "layers.json": b"{}",
    "timing.cache": b"timings",
}
PLAN = digest_bytes(b"a plan")
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
GPU: Mapping[str, Any] = {"name": "NVIDIA H200", "compute_capability": "9.0", "sm_count": 132}


def engine_entry(
    store: LocalStore,
    contents: Mapping[str, bytes] = FILES,
    *,
    model: bytes = b"a model",
    target: Mapping[str, Any] | None = None,
    builder: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
) -> Entry:
    """An entry of the stage `engine`, of a recipe for one GPU."""
    document = {
        "format": 1,
        "model": digest_bytes(model),
        "external": [],
        "recipe": {
            "profiles": [],
            "builder": dict(builder or {}),
            "target": {"platform": "linux-x86_64", "gpu": GPU} if target is None else target,
            "toolchain": {"backend": "tensorrt", "version": "10.9.0.34", "cuda": "12"},
        },
    }
    told = {"precision": "fp16", "finished": "2026-11-21T17:32:28+00:00"}
    with store.session() as session, session.staged() as staged:
        for name, data in contents.items():
            (staged / name).write_bytes(data)
        entry, _ = store.publish(
            staged,
            stage="engine",
            key_document=document,
            digests={},
            record=told if record is None else record,
        )
        return entry


def artifact_of(entry: Entry) -> Artifact:
    return of_entry(entry, plan=PLAN, spec="net", variant="fp16", target="h200")


def artifact_in(folder: Path, contents: Mapping[str, bytes] = FILES) -> Artifact:
    """The artifact of an entry of a new store there."""
    return artifact_of(engine_entry(LocalStore(folder), contents))


def chunks_of(data: bytes, size: int = 1000) -> Chunks:
    return lambda offset: (data[at : at + size] for at in range(offset, len(data), size))


def put_blob(repository: Repository, data: bytes, media_type: str = "text/plain") -> Descriptor:
    blob = Descriptor.of(data, media_type)
    if not repository.has(blob):
        repository.push(blob, chunks_of(data))
    return blob


def put_artifact(
    repository: Repository,
    *contents: bytes,
    artifact_type: str = "application/x.test",
    subject: Descriptor | None = None,
) -> Descriptor:
    """An artifact of layers with these bytes, empty config; its descriptor."""
    put_blob(repository, EMPTY_BYTES)
    data = ImageManifest(
        artifact_type=artifact_type,
        config=EMPTY_CONFIG,
        layers=tuple(put_blob(repository, each) for each in contents),
        subject=subject,
    ).to_bytes()
    repository.put_manifest(data)
    return Descriptor.of(
        data, "application/vnd.oci.image.manifest.v1+json", artifact_type=artifact_type
    )


def attest(repository: Repository, subject: Descriptor, bundle: bytes) -> Descriptor:
    """An artifact that refers to another one, as attestations do."""
    return put_artifact(repository, bundle, artifact_type=BUNDLE, subject=subject)


def broken_parts(repository: Repository, descriptor: Descriptor) -> list[str]:
    """What of an artifact is not there whole."""
    try:
        data = repository.manifest(descriptor.digest)
        if data is None:
            return [f"the manifest {descriptor.digest.short} is not there"]
        for blob in ImageManifest.from_bytes(data).blobs:
            for _ in repository.stream(blob):
                pass
    except Exception as error:  # whatever it is: it is not whole
        return [repr(error)]
    return []
