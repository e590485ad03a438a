"""How an engine was built, as SLSA provenance v1 (slsa.dev/spec/v1.0/provenance).

The build type `https://engineforge.dev/build/engine/v1` means: the recipe in `internalParameters`
(builder options resolved to values, profiles, the target's identity, the toolchain) was carried out
for the variant of a spec on a target (`externalParameters`). `resolvedDependencies` are, by name:
`specs` (the git commit; without a digest where the folder had changes), `source file` and `weights`
of a model that was exported or downloaded, or of a network definition, `model` and `external data`
as they were imported, `… before it was prepared`, and `… as it was built` (canonical or converted;
of a network definition, its key), `calibration data`, `plugin library`, `timing cache read`, and
packages by their `pkg:` URIs, TensorRT's first.
Where a digest is over several files, its annotation `of` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import zip_longest
from typing import Any

from engineforge.digest import Digest
from engineforge.errors import Untrusted
from engineforge.plan.keys import plugins_of
from engineforge.promotion.attest.statement import Statement, predicate_of
from engineforge.promotion.attest.strict import Fields, time_text
from engineforge.store.manifest import Manifest, PlanRecord

PROVENANCE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://engineforge.dev/build/engine/v1"
BUILDER = "https://engineforge.dev/builder/v1"
"""Who builds, where nobody names a build service of their own."""

_PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
_DIRTY = "-dirty"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Something that went into a build, or came of it: `digests` by algorithm, in hexadecimal."""

    name: str
    uri: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, digest: str, **annotations: object) -> Resource:
        return cls(name=name, digests={"sha256": Digest(digest).hex}, annotations=annotations)

    def to_json(self) -> dict[str, Any]:
        raw = {
            "name": self.name,
            "uri": self.uri,
            "digest": self.digests,
            "annotations": self.annotations,
        }
        return {name: value for name, value in raw.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """`internal` are SLSA's internal parameters; `builder` is a URI, `versions` those of its
    software; `invocation` tells this build from all others."""

    spec: str
    variant: str
    target: str
    internal: Mapping[str, Any]
    dependencies: tuple[Resource, ...]
    builder: str
    versions: Mapping[str, str]
    invocation: str
    started: datetime
    finished: datetime
    byproducts: tuple[Resource, ...]

    @property
    def commit(self) -> str | None:
        """The git commit of the specs; None where they had changes, or are in no repository."""
        specs = next((each for each in self.dependencies if each.name == "specs"), None)
        return None if specs is None else specs.digests.get("gitCommit")

    def to_predicate(self) -> dict[str, Any]:
        return {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "spec": self.spec,
                    "variant": self.variant,
                    "target": self.target,
                },
                "internalParameters": self.internal,
                "resolvedDependencies": [each.to_json() for each in self.dependencies],
            },
            "runDetails": {
                "builder": {"id": self.builder, "version": dict(self.versions)},
                "metadata": {
                    "invocationId": self.invocation,
                    "startedOn": time_text(self.started),
                    "finishedOn": time_text(self.finished),
                },
                "byproducts": [each.to_json() for each in self.byproducts],
            },
        }


def of_entry(
    engine: Manifest,
    plan: PlanRecord,
    before: Mapping[str, Manifest],
) -> Provenance:
    """The provenance of an engine, from its entry's manifest, its plan's record, and the manifests
    of the entries `before` it by stage (source, prepared, onnx, typed), as far as they are there.
    """
    record, recipe = engine.record, engine.key_document["recipe"]
    started = str(record["started"])
    return Provenance(
        spec=record["spec"],
        variant=record["variant"],
        target=record["target"],
        internal={
            "key": str(engine.key),
            "plan": str(plan.key),
            "precision": record["precision"],
            "builder": recipe["builder"],
            "profiles": [*recipe["profiles"]],
            "target": recipe["target"],
            "toolchain": recipe["toolchain"],
            "typed": plan.key_document.get("typed"),
            "gpu": record.get("gpu"),
            "driver": (record.get("gpu") or {}).get("driver"),
            "host": record.get("host"),
        },
        dependencies=(
            _specs(record),
            *_sources(plan, before),
            *_model(engine.key_document, " as it was built"),
            *_calibration(plan),
            *(Resource.of("plugin library", each) for each in plugins_of(recipe["builder"])),
            *_timings_read(record),
            _toolchain(engine),
            *_packages(before),
        ),
        builder=BUILDER,
        versions={"engineforge": record["engineforge"]},
        invocation=f"{engine.key}@{started}",
        started=datetime.fromisoformat(started),
        finished=datetime.fromisoformat(record["finished"]),
        byproducts=tuple(
            Resource.of(name, engine.files[file].sha256)
            for file, name in _BYPRODUCTS.items()
            if file in engine.files
        ),
    )


_BYPRODUCTS = {
    "build.log": "log",
    "layers.json": "layers",
    "timing.cache": "timing cache written",
}


def _specs(record: Mapping[str, Any]) -> Resource:
    git = record.get("git")
    if git is None:
        return Resource(name="specs", annotations={"git": "not in a git repository"})
    if git.endswith(_DIRTY):
        # No digest: what was built is not what that commit holds.
        said = {"git": "with changes that are in no commit", "after": git.removesuffix(_DIRTY)}
        return Resource(name="specs", annotations=said)
    return Resource(name="specs", digests={"gitCommit": git})


def _sources(plan: PlanRecord, before: Mapping[str, Manifest]) -> Iterator[Resource]:
    """What the user had, and the ONNX model that was imported, where there is one."""
    if (made := before.get("source")) is not None:
        recipe = made.key_document["recipe"]
        names = recipe.get("names") or made.record.get("from") or []
        yield from _files(made.key_document["files"], names, recipe.get("weights"))
    if (prepared := before.get("prepared")) is not None:
        yield from _model(prepared.key_document, " before it was prepared")
    onnx = plan.key_document["onnx"]
    if "function" in onnx:  # plan.keys.NetworkKey
        yield from _files(onnx["files"], onnx["names"], onnx["weights"])
    else:
        yield from _model(onnx, "")


def _model(document: Mapping[str, Any], suffix: str) -> Iterator[Resource]:
    yield Resource.of(f"model{suffix}", document["model"])
    for each in document["external"]:
        yield Resource.of(f"external data{suffix}", each)


def _files(digests: Sequence[str], names: Sequence[str], weights: str | None) -> Iterator[Resource]:
    """Files by content. Those whose names matter come first; a file of weights comes last, and of
    that no more than its suffix is known."""
    for digest, name in zip_longest(digests, names):
        if name is not None:
            yield Resource.of("source file", digest, file=name)
        else:
            yield Resource.of("source file" if weights is None else "weights", digest)


def _calibration(plan: PlanRecord) -> Iterator[Resource]:
    found = (plan.key_document.get("typed") or {}).get("calibration")
    if found is not None:
        data = found["data"]
        of = "the canonical JSON of the digests of its files, in their order"
        yield Resource.of("calibration data", data["files"], of=of, samples=data["samples"])


def _timings_read(record: Mapping[str, Any]) -> Iterator[Resource]:
    timings = record.get("timing_cache") or {}
    if digest := timings.get("sha256_read"):
        yield Resource.of("timing cache read", digest, state=timings["state"])
    elif timings.get("bytes_read"):  # built before that was recorded
        said = {"state": timings["state"], "digest": "not recorded"}
        yield Resource(name="timing cache read", annotations=said)


def _toolchain(engine: Manifest) -> Resource:
    wanted, loaded = engine.key_document["recipe"]["toolchain"], engine.record["toolchain"]
    package = _PACKAGES.get(wanted["backend"], wanted["backend"])
    return Resource(
        name=wanted["backend"],
        uri=f"pkg:pypi/{package}@{loaded['version']}",
        annotations={**loaded, "cuda": wanted["cuda"]},
    )


def _packages(before: Mapping[str, Manifest]) -> Iterator[Resource]:
    """What made the model that was built, by stage."""
    for stage, manifest in sorted(before.items()):
        for name, version in sorted((manifest.record.get("versions") or {}).items()):
            # A `+` (as in 2.13.0+cpu) is `%2B` in a package URL.
            uri = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
            yield Resource(name=name, uri=uri, annotations={"stage": stage})


def read_provenance(statement: Statement) -> Provenance:
    """The provenance of a build of ours; Untrusted for any other, and for other build types."""
    fields = predicate_of(statement, PROVENANCE)
    definition, run = fields.fields("buildDefinition"), fields.fields("runDetails")
    if (build_type := definition.text("buildType")) != BUILD_TYPE:
        raise Untrusted(f"the predicate is of a build of another kind: '{build_type}'")
    asked, builder = definition.fields("externalParameters"), run.fields("builder")
    metadata, versions = run.fields("metadata"), builder.fields("version")
    found = Provenance(
        spec=asked.text("spec"),
        variant=asked.text("variant"),
        target=asked.text("target"),
        internal=definition.mapping("internalParameters"),
        dependencies=_resources(definition, "resolvedDependencies"),
        builder=builder.text("id"),
        versions=versions.all_texts(),
        invocation=metadata.text("invocationId"),
        started=metadata.time("startedOn"),
        finished=metadata.time("finishedOn"),
        byproducts=_resources(run, "byproducts"),
    )
    for each in (asked, definition, builder, metadata, run, fields):
        each.done()
    return found


def _resources(fields: Fields, name: str) -> tuple[Resource, ...]:
    found = []
    for each in fields.each(name):
        resource = Resource(
            name=each.text("name"),
            uri=each.text("uri") if each.has("uri") else "",
            digests=each.fields("digest").all_texts() if each.has("digest") else {},
            annotations=each.mapping("annotations") if each.has("annotations") else {},
        )
        each.done()
        found.append(resource)
    return tuple(found)
