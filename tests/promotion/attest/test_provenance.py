from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from engineforge.digest import Digest, digest_bytes, digest_value
from engineforge.errors import Untrusted
from engineforge.promotion.attest.provenance import (
    BUILD_TYPE,
    BUILDER,
    PROVENANCE,
    Provenance,
    Resource,
    of_entry,
    read_provenance,
)
from engineforge.promotion.attest.statement import Statement
from engineforge.store.manifest import Manifest, PlanRecord, StoredFile
from tests.conftest import Forge
from tests.promotion.attest.samples import statement


def sha(text: str) -> Digest:
    return digest_bytes(text.encode())


def hexed(text: str) -> dict[str, str]:
    return {"sha256": sha(text).hex}


COMMIT = "0123456789abcdef0123456789abcdef01234567"
GPU = {"uuid": "GPU-1", "driver": "580.1", "name": "NVIDIA H200"}
RECIPE: dict[str, Any] = {
    "builder": {"plugins": [sha("plugin")], "workspace": 1 << 40},
    "profiles": [{"image": {"shape": {"min": [1], "opt": [1], "max": [1]}}}],
    "target": {"platform": "linux-x86_64"},
    "toolchain": {"backend": "tensorrt", "version": "10.13.3.9", "cuda": "12.9"},
}
RECORD: dict[str, Any] = {
    "spec": "net",
    "variant": "int8",
    "target": "h200",
    "precision": "int8",
    "engineforge": "0.1.0",
    "git": COMMIT,
    "host": "builder-1",
    "gpu": GPU,
    "started": "2026-07-01T12:00:00+00:00",
    "finished": "2026-07-01T12:03:04+00:00",
    "toolchain": {"version": "10.13.3.9", "library": "10.13.3.9", "onnx_parser": "101303"},
    "timing_cache": {
        "state": "from the shared one",
        "bytes_read": 9,
        "sha256_read": sha("timings before"),
    },
}


def manifest(
    stage: str, document: Mapping[str, Any], record: Mapping[str, Any], *files: str
) -> Manifest:
    return Manifest(
        stage=stage,
        key=digest_value(document),
        key_document=document,
        files={name: StoredFile(1, sha(name)) for name in files},
        record=record,
    )


def engine(**record: object) -> Manifest:
    document = {
        "format": 1,
        "model": sha("typed"),
        "external": [sha("typed data")],
        "recipe": RECIPE,
    }
    files = ("model.engine", "build.log", "layers.json", "timing.cache")
    return manifest("engine", document, {**RECORD, **record}, *files)


def plan(onnx: Mapping[str, Any] | None = None) -> PlanRecord:
    data = {"files": sha("pictures"), "reading": {}, "samples": 64, "seed": None}
    document = {
        "onnx": onnx or {"model": sha("model"), "external": [sha("weights")]},
        "typed": {"precision": "int8", "calibration": {"data": data, "method": "entropy"}},
        "engine": RECIPE,
    }
    return PlanRecord(key=digest_value(document), key_document=document, entries={})


EXPORTED = manifest(
    "source",
    {
        "kind": "pytorch",
        "files": [sha("net.py"), sha("net.pt")],
        "recipe": {"names": ["net.py"], "weights": ".pt"},
    },
    {"versions": {"torch": "2.13.0+cpu", "onnx": "1.23.2"}},
)
PREPARED = manifest("prepared", {"model": sha("raw"), "external": []}, {"versions": {}})
ONNX = manifest("onnx", {"model": sha("model"), "external": []}, {})


def named(found: Provenance, name: str) -> list[Resource]:
    return [each for each in found.dependencies if each.name == name]


def made(record: Mapping[str, Any] | None = None, **before: Manifest) -> Provenance:
    return of_entry(engine(**(record or {})), plan(), before)


def test_what_was_asked_for_is_told() -> None:
    predicate = made().to_predicate()["buildDefinition"]
    assert predicate["buildType"] == BUILD_TYPE
    assert predicate["externalParameters"] == {"spec": "net", "variant": "int8", "target": "h200"}


def test_how_it_was_carried_out_is_told() -> None:
    internal = made().internal
    assert internal["builder"] == RECIPE["builder"]
    assert internal["profiles"] == RECIPE["profiles"]
    assert internal["gpu"] == GPU
    assert (internal["driver"], internal["host"]) == ("580.1", "builder-1")
    assert (internal["key"], internal["plan"]) == (engine().key, plan().key)


def test_when_and_by_whom_is_told() -> None:
    found = made()
    assert found.started == datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
    assert (found.finished - found.started).seconds == 184
    assert (found.builder, found.versions) == (BUILDER, {"engineforge": "0.1.0"})
    assert found.invocation == f"{engine().key}@2026-07-01T12:00:00+00:00"


def test_of_specs_without_changes_the_commit_is_told() -> None:
    assert named(made(), "specs") == [Resource(name="specs", digests={"gitCommit": COMMIT})]
    assert made().commit == COMMIT


def test_of_specs_with_changes_no_digest_is_told() -> None:
    found = made({"git": f"{COMMIT}-dirty"})
    (specs,) = named(found, "specs")
    assert specs.digests == {}
    assert specs.annotations == {"git": "with changes that are in no commit", "after": COMMIT}
    assert found.commit is None


def test_that_specs_are_in_no_repository_is_told() -> None:
    entry = engine()
    record = {name: value for name, value in entry.record.items() if name != "git"}
    found = of_entry(replace(entry, record=record), plan(), {})
    assert named(found, "specs")[0].annotations == {"git": "not in a git repository"}
    assert found.commit is None


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("model", "model"),
        ("external data", "weights"),
        ("model as it was built", "typed"),
        ("external data as it was built", "typed data"),
        ("calibration data", "pictures"),
        ("plugin library", "plugin"),
        ("timing cache read", "timings before"),
        ("source file", "net.py"),
        ("weights", "net.pt"),
        ("model before it was prepared", "raw"),
    ],
)
def test_what_went_into_it_is_told_by_digest(name: str, of: str) -> None:
    found = made(source=EXPORTED, prepared=PREPARED, onnx=ONNX)
    assert [each.digests for each in named(found, name)] == [hexed(of)]


def test_what_a_digest_over_several_files_is_of_is_told() -> None:
    (found,) = named(made(), "calibration data")
    assert found.annotations["of"] == (
        "the canonical JSON of the digests of its files, in their order"
    )


def test_the_files_of_a_network_definition_are_told() -> None:
    network = {
        "function": "build",
        "files": [sha("lenet.py"), sha("lenet.npz")],
        "names": ["lenet.py"],
        "weights": ".npz",
    }
    found = of_entry(engine(), plan(network), {})
    assert named(found, "model") == []
    assert [each.digests for each in named(found, "source file")] == [hexed("lenet.py")]
    assert [each.digests for each in named(found, "weights")] == [hexed("lenet.npz")]


def test_where_a_model_was_downloaded_from_is_told() -> None:
    document = {"kind": "url", "files": [sha("a"), sha("b")], "recipe": {"external": ["b"]}}
    shown = ["https://example.com/a", "https://example.com/b"]
    found = made(source=manifest("source", document, {"from": shown, "versions": {}}))
    assert [each.annotations["file"] for each in named(found, "source file")] == shown


def test_a_cold_build_read_no_timing_cache() -> None:
    assert (
        named(made({"timing_cache": {"state": "cold", "bytes_read": 0}}), "timing cache read") == []
    )


def test_a_timing_cache_whose_digest_was_not_recorded_is_told_without_one() -> None:
    old = {"state": "from the shared one", "bytes_read": 9}
    (found,) = named(made({"timing_cache": old}), "timing cache read")
    assert (found.digests, found.annotations["digest"]) == ({}, "not recorded")


def test_packages_are_told_by_their_urls() -> None:
    uris = [each.uri for each in made(source=EXPORTED).dependencies if each.uri]
    assert uris == [
        "pkg:pypi/tensorrt@10.13.3.9",
        "pkg:pypi/onnx@1.23.2",
        "pkg:pypi/torch@2.13.0%2Bcpu",
    ]


def test_what_else_came_of_it_is_told() -> None:
    told = {each.name: each.digests for each in made().byproducts}
    assert told == {
        "log": hexed("build.log"),
        "layers": hexed("layers.json"),
        "timing cache written": hexed("timing.cache"),
    }


def test_what_was_told_is_read() -> None:
    said = made(source=EXPORTED, prepared=PREPARED, onnx=ONNX)
    data = statement(PROVENANCE, **said.to_predicate()).to_bytes()
    assert read_provenance(Statement.from_bytes(data)) == said


def test_a_real_engine_is_told_of(built: Forge) -> None:
    said = of_built(built.cache)
    assert (said.spec, said.variant, said.target) == ("net", "fp32", "ada")
    assert named(said, "model")[0].digests == {"sha256": digest_bytes(built.model.read_bytes()).hex}
    assert named(said, "tensorrt_rtx")[0].uri == "pkg:pypi/tensorrt-rtx@1.7.1.116"
    assert [each.name for each in said.byproducts] == ["log"]
    data = statement(PROVENANCE, **said.to_predicate()).to_bytes()
    assert read_provenance(Statement.from_bytes(data)) == said


def of_built(cache: Path) -> Provenance:
    """The provenance of the one engine in a cache."""
    (path,) = cache.glob("plans-v1/*/*.json")
    record = PlanRecord.from_bytes(path.read_bytes())
    entries = {
        stage: Manifest.from_bytes(
            (cache / "entries-v1" / stage / key.hex[:2] / key.hex / "manifest.json").read_bytes()
        )
        for stage, key in record.entries.items()
    }
    return of_entry(entries.pop("engine"), record, entries)


def _with(part: str, **fields: object) -> Statement:
    predicate = made().to_predicate()
    at = predicate
    for name in filter(None, part.split(".")):
        at = at[name]
    at.update(fields)
    return Statement.from_bytes(statement(PROVENANCE, **predicate).to_bytes())


@pytest.mark.parametrize(
    ("part", "fields", "why"),
    [
        ("buildDefinition", {"buildType": BUILD_TYPE[:-1] + "2"}, "of another kind"),
        ("buildDefinition", {"internalParameters": []}, "expected an object"),
        ("buildDefinition", {"more": 1}, "there is 'more'"),
        ("buildDefinition.externalParameters", {"more": 1}, "there is 'more'"),
        ("buildDefinition.externalParameters", {"spec": 1}, "expected a string"),
        ("buildDefinition", {"resolvedDependencies": [{"uri": "x"}]}, "'name' is missing"),
        (
            "buildDefinition",
            {"resolvedDependencies": [{"name": "x", "digest": {"sha256": 1}}]},
            "expected a string",
        ),
        ("runDetails", {"byproducts": [{"name": "x", "content": ""}]}, "there is 'content'"),
        ("runDetails.metadata", {"startedOn": "today"}, "expected a time"),
        ("runDetails.builder", {"builderDependencies": []}, "there is 'builderDependencies'"),
    ],
)
def test_what_is_not_understood_is_refused(part: str, fields: dict[str, Any], why: str) -> None:
    with pytest.raises(Untrusted, match=why):
        read_provenance(_with(part, **fields))


def test_another_version_is_refused() -> None:
    with pytest.raises(Untrusted, match=r"the statement is a 'https://slsa\.dev/provenance/v0\.2'"):
        read_provenance(statement("https://slsa.dev/provenance/v0.2", **made().to_predicate()))
