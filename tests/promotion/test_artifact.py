from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engineforge.digest import digest_bytes, digest_file
from engineforge.errors import StoreCorrupt, Untrusted
from engineforge.promotion.artifact import (
    CONFIG_TYPE,
    ENGINE_TYPE,
    About,
    EngineArtifact,
    described,
    entry_manifest,
    of_entry,
    read_artifact,
)
from engineforge.promotion.oci.documents import TITLE, ImageManifest
from engineforge.store.local import Entry, LocalStore
from tests.promotion.engines import PLAN, artifact_of, engine_entry
from tests.store.remote_servers import published


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "cache")


@pytest.fixture
def entry(store: LocalStore) -> Entry:
    return engine_entry(store)


def read(entry: Entry) -> EngineArtifact:
    return read_artifact(artifact_of(entry).manifest)


def test_the_artifact_of_an_entry_is_pinned(entry: Entry) -> None:
    """Whoever changes its form makes every engine another one: then on purpose."""
    assert artifact_of(entry).descriptor.digest == (
        "sha256:46f7ecd38464c0403c1612216e2c33900d52ea3abf6066b7df02b2f3c020e217"
    )


def test_the_same_entry_gives_the_same_artifact(entry: Entry, tmp_path: Path) -> None:
    elsewhere = engine_entry(LocalStore(tmp_path / "other"))
    assert artifact_of(elsewhere).manifest == artifact_of(entry).manifest


@pytest.mark.parametrize("field", ["plan", "spec", "variant", "target"])
def test_another_name_or_plan_gives_another_artifact(entry: Entry, field: str) -> None:
    given: dict[str, Any] = {"plan": PLAN, "spec": "net", "variant": "fp16", "target": "h200"}
    other = digest_bytes(b"another") if field == "plan" else "another"
    changed = of_entry(entry, **{**given, field: other})
    assert changed.descriptor.digest != artifact_of(entry).descriptor.digest
    assert getattr(read_artifact(changed.manifest), field) == other


def test_a_layer_is_a_file_with_its_own_digest(entry: Entry) -> None:
    artifact = artifact_of(entry)
    config, *layers = artifact.blobs
    assert config[0].media_type == CONFIG_TYPE
    assert {blob.annotations[TITLE]: blob.media_type for blob, _ in layers} == {
        "model.engine": "application/vnd.engineforge.engine.layer.v1",
        "build.log": "application/vnd.engineforge.engine.log.v1",
        "layers.json": "application/vnd.engineforge.engine.layers.v1+json",
        "timing.cache": "application/vnd.engineforge.engine.timing-cache.v1",
    }
    for blob, path in artifact.blobs:
        assert (digest_file(path), path.stat().st_size) == (blob.digest, blob.size)


def test_what_is_said_of_an_engine_is_read_back(entry: Entry) -> None:
    artifact = read(entry)
    manifest = entry.manifest
    assert artifact.annotations() == {
        "org.opencontainers.image.created": "2026-11-21T17:32:28+00:00",
        "dev.engineforge.key": manifest.key,
        "dev.engineforge.plan": PLAN,
        "dev.engineforge.spec": "net",
        "dev.engineforge.variant": "fp16",
        "dev.engineforge.target": "h200",
        "dev.engineforge.precision": "fp16",
        "dev.engineforge.gpu": "NVIDIA H200",
        "dev.engineforge.compute_capability": "9.0",
        "dev.engineforge.backend": "tensorrt",
        "dev.engineforge.tensorrt": "10.9.0.34",
    }
    assert artifact.engine.digest == manifest.files["model.engine"].sha256
    assert artifact.label == "net/fp16@h200"


def test_an_index_has_the_same_of_an_engine_as_its_manifest(entry: Entry) -> None:
    artifact, found = artifact_of(entry), read(entry)
    assert described(found) == artifact.descriptor
    assert artifact.descriptor.artifact_type == ENGINE_TYPE
    assert About.read(artifact.descriptor.annotations).label == found.label
    manifest = ImageManifest.from_bytes(artifact.manifest)
    assert dict(artifact.descriptor.annotations) == dict(manifest.annotations)


@pytest.mark.parametrize(
    ("target", "builder", "gpu", "capability"),
    [
        ({"compute_capabilities": ["8.6", "8.9"]}, {}, "8.6,8.9", "8.6,8.9"),
        ({"gpu": {"compute_capability": "8.9"}}, {}, "8.9", "8.9"),
        ({}, {"hardware_compatibility": "ampere_plus"}, "ampere_plus", "8.0+"),
    ],
)
def test_an_engine_for_several_gpus_says_so(
    store: LocalStore, target: dict[str, Any], builder: dict[str, Any], gpu: str, capability: str
) -> None:
    artifact = read(engine_entry(store, target=target, builder=builder))
    assert (artifact.gpu, artifact.compute_capability) == (gpu, capability)


@pytest.mark.parametrize("record", [{}, {"precision": "fp16"}, {"precision": 1, "finished": "x"}])
def test_an_entry_that_does_not_say_what_it_is_becomes_none(
    store: LocalStore, record: dict[str, Any]
) -> None:
    with pytest.raises(StoreCorrupt, match="does not say what engine it is"):
        artifact_of(engine_entry(store, record=record))


def test_an_entry_of_another_stage_becomes_none(store: LocalStore) -> None:
    with pytest.raises(StoreCorrupt, match="does not say what engine it is"):
        artifact_of(published(store, {"model.onnx": b"model"}, stage="typed"))


def changed(entry: Entry, change: Callable[[dict[str, Any]], object]) -> bytes:
    raw = json.loads(artifact_of(entry).manifest)
    change(raw)
    return json.dumps(raw).encode()


def _without_title(raw: dict[str, Any]) -> None:
    del raw["layers"][0]["annotations"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda raw: raw.update(artifactType="application/x"), "but of 'application/x'"),
        (lambda raw: raw["config"].update(mediaType="a/b"), "config of an engine is a 'a/b'"),
        (lambda raw: raw["layers"].pop(0), "no layer 'model.engine'"),
        (lambda raw: raw["layers"].append(raw["layers"][0]), "two layers of one name"),
        (_without_title, "layer 'None'"),
        (lambda raw: raw["layers"][0].update(mediaType="a/b"), "'model.engine' of an engine is"),
        (lambda raw: raw.pop("annotations"), "no annotation 'dev.engineforge.spec'"),
        (lambda raw: raw["annotations"].pop("dev.engineforge.compute_capability"), "no annotation"),
        (lambda raw: raw["annotations"].update({"dev.engineforge.key": "x"}), "no digest"),
        (
            lambda raw: raw["annotations"].update({"org.opencontainers.image.created": "today"}),
            "at no time: 'today'",
        ),
        (lambda raw: raw.pop("layers"), "not the manifest of an engine"),
        (lambda raw: raw.update(schemaVersion=1), "not the manifest of an engine"),
    ],
)
def test_what_is_no_engine_is_refused(
    entry: Entry, change: Callable[[dict[str, Any]], object], why: str
) -> None:
    with pytest.raises(Untrusted, match=why):
        read_artifact(changed(entry, change))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(Untrusted, match="not the manifest of an engine"):
        read_artifact(data)


def test_a_config_that_belongs_is_the_manifest_of_the_entry(entry: Entry) -> None:
    assert entry_manifest(read(entry), entry.file("manifest.json").read_bytes()) == entry.manifest


def test_a_config_with_any_changed_byte_is_refused(entry: Entry) -> None:
    data, artifact = entry.manifest.to_bytes(), read(entry)
    for at in range(len(data)):
        with pytest.raises(Untrusted):
            entry_manifest(artifact, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_the_config_of_another_entry_is_refused(entry: Entry, store: LocalStore) -> None:
    data = engine_entry(store, model=b"another").manifest.to_bytes()
    artifact = read(entry)
    with pytest.raises(Untrusted, match="another than its manifest names"):
        entry_manifest(artifact, data)
    config = dataclasses.replace(artifact.config, digest=digest_bytes(data))
    with pytest.raises(Untrusted, match="the manifest of another entry"):
        entry_manifest(dataclasses.replace(artifact, config=config), data)


def _swapped(raw: dict[str, Any]) -> None:
    """The engine is replaced, and the manifest says so."""
    raw["layers"][0]["digest"] = digest_bytes(b"another engine")


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        (_swapped, "model.engine"),
        (lambda raw: raw["layers"][0].update(size=1), "model.engine"),
        (lambda raw: raw["layers"].pop(1), "build.log"),
        (
            lambda raw: raw["layers"].append(
                {
                    "mediaType": "application/octet-stream",
                    "digest": PLAN,
                    "size": 1,
                    "annotations": {TITLE: "plugin.so"},
                }
            ),
            "plugin.so",
        ),
    ],
)
def test_layers_that_are_not_the_files_of_the_entry_are_refused(
    entry: Entry, change: Callable[[dict[str, Any]], object], layer: str
) -> None:
    artifact = read_artifact(changed(entry, change))
    with pytest.raises(Untrusted, match=f"the layer '{layer}' of net/fp16@h200 is not the file"):
        entry_manifest(artifact, entry.manifest.to_bytes())


@pytest.mark.parametrize(
    "name", ["precision", "gpu", "compute_capability", "backend", "tensorrt", "created"]
)
def test_an_annotation_that_the_entry_does_not_bear_out_is_refused(entry: Entry, name: str) -> None:
    other = "2020-01-01T00:00:00Z" if name == "created" else "another"
    named: dict[str, Any] = {name: other}
    artifact = dataclasses.replace(read(entry), **named)
    with pytest.raises(Untrusted, match=f"is '{other}', and its entry says"):
        entry_manifest(artifact, entry.manifest.to_bytes())
