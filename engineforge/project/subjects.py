"""Engines to look into and to compare, wherever they lie: what their manifests say, their layers,
and what a store knows of how fast and how close they are. Nothing is measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engineforge.digest import Digest
from engineforge.errors import UsageError
from engineforge.promotion.artifact import entry_manifest
from engineforge.promotion.environment import Opened, config_of
from engineforge.promotion.ledger import Listed
from engineforge.promotion.oci.documents import TITLE
from engineforge.store.local import ENGINE, Entry, LocalStore
from engineforge.store.manifest import Manifest
from engineforge.worker.building import LAYERS
from engineforge.worker.latency import LATENCY, Asked
from engineforge.worker.measured import ENGINE_CHECKS, read_measured

_MOST_OF_LAYERS = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One engine. `layers` are those of its `layers.json`; None where it has none, and `no_layers`
    is why. `profile` are layers with their times, as `bench --layers` last kept them; `latency` and
    `accuracy` what was measured last. None: never."""

    name: str
    manifest: Manifest
    layers: Sequence[Mapping[str, Any]] | None
    no_layers: str | None
    profile: Sequence[Mapping[str, Any]] | None
    latency: Mapping[str, Any] | None
    accuracy: Mapping[str, Any] | None

    @property
    def engine(self) -> Digest:
        """The sha256 of the engine file."""
        return self.manifest.files[ENGINE].sha256

    @property
    def size(self) -> int:
        return self.manifest.files[ENGINE].size


class Subjects:
    """Makes subjects of engines; looks through the store's measurements once."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self._about: dict[str, Mapping[str, list[Entry]]] = {}

    def of_entry(self, entry: Entry, name: str | None = None) -> Subject:
        """UsageError for an entry of another stage."""
        manifest = entry.manifest
        if manifest.stage != "engine" or ENGINE not in manifest.files:
            raise UsageError(
                f"'{entry.path}' is an entry of the stage '{manifest.stage}', and no engine"
            )

        def read() -> bytes:
            return entry.file(LAYERS).read_bytes()

        there = LAYERS in manifest.files and entry.file(LAYERS).is_file()
        return self._subject(manifest, name, read if there else None)

    def of_served(self, opened: Opened, spec: str, listed: Listed) -> Subject:
        """An engine of an environment, by its verified ledger. Untrusted, BlobCorrupt or Gone where
        what is there is not what that names."""
        artifact = opened.engine(listed)
        manifest = entry_manifest(artifact, config_of(opened, artifact))
        found = [each for each in artifact.layers if each.annotations.get(TITLE) == LAYERS]

        def read() -> bytes:
            return b"".join(opened.repository.stream(found[0]))

        there = found and found[0].size <= _MOST_OF_LAYERS
        name = f"{opened.environment.name}/{spec}:{listed.name}"
        return self._subject(manifest, name, read if there else None)

    def _subject(
        self, manifest: Manifest, name: str | None, read: Callable[[], bytes] | None
    ) -> Subject:
        record, engine = manifest.record, manifest.files[ENGINE].sha256
        layers, why = _layers(manifest, read)
        timed = [(each, read_measured(each)) for each in self._newest(LATENCY, engine)]
        usual = [measured for each, measured in timed if Asked().is_of(each.manifest.key_document)]
        profiled = [measured["layers"] for _, measured in timed if measured.get("layers")]
        checked = self._newest(ENGINE_CHECKS, engine)
        if name is None and {"spec", "variant", "target"} <= record.keys():
            name = f"{record['spec']}/{record['variant']}@{record['target']}"
        return Subject(
            name=name or manifest.key.short,
            manifest=manifest,
            layers=layers,
            no_layers=why,
            profile=profiled[0] if profiled else None,
            latency=usual[0] if usual else None,
            accuracy=read_measured(checked[0]) if checked else None,
        )

    def _newest(self, stage: str, engine: Digest) -> list[Entry]:
        """The entries of a stage about an engine, the newest first."""
        if stage not in self._about:
            by: dict[str, list[Entry]] = {}
            for entry in self._store.entries(stage):
                by.setdefault(entry.manifest.key_document["engine"], []).append(entry)
            self._about[stage] = by
        found = self._about[stage].get(engine, [])
        return sorted(found, key=_age, reverse=True)


def _layers(
    manifest: Manifest, read: Callable[[], bytes] | None
) -> tuple[Sequence[Mapping[str, Any]] | None, str | None]:
    if read is not None:
        found = json.loads(read())
        layers: Sequence[Mapping[str, Any]] = found["layers"]
        if layers:
            return layers, None
        return None, "TensorRT told nothing of its layers: 'profiling_verbosity' was none"
    load = manifest.record.get("load_test") or {}
    if load.get("loaded") is False:
        return None, f"nothing has looked inside: {load.get('why', 'it was not loaded')}"
    return None, f"its entry has no {LAYERS}"


def _age(entry: Entry) -> tuple[str, int]:
    manifest = entry.manifest
    return str(manifest.record.get("finished", "")), manifest.key_document.get("number", 0)
