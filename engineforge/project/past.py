"""The builds that a store still knows of, by variant, and why each was made. Nothing is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engineforge.digest import Digest
from engineforge.plan.explain import Change, changes
from engineforge.store.local import ENGINE, Entry, LocalStore

Names = Mapping[str, Mapping[str, str]]
"""By label, what the leaves of its key are that are mere digests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One engine of a variant. `first` says that the store knows of none before it; else `changes`
    are in what it was asked to be another, and none of them means that only its inputs' bytes
    differ in ways that its plan does not name."""

    label: str
    engine: Digest
    entry: Entry
    first: bool
    changes: tuple[Change, ...]

    @property
    def record(self) -> Mapping[str, Any]:
        return self.entry.manifest.record

    @property
    def finished(self) -> str:
        """ISO 8601; empty where an entry does not say."""
        return str(self.record.get("finished", ""))

    @property
    def seconds(self) -> float | None:
        """What it took, with all around TensorRT's own build."""
        found = self.record.get("seconds")
        return float(found) if isinstance(found, int | float) else None

    @property
    def size(self) -> int:
        """Of the engine, in bytes."""
        return self.entry.manifest.files[ENGINE].size

    @property
    def timings(self) -> Mapping[str, Any]:
        """What became of its timing cache, in the words of its manifest."""
        found = self.record.get("timing_cache")
        return found if isinstance(found, Mapping) else {}

    @property
    def began_warm(self) -> bool | None:
        """Whether it began with timings of earlier builds; None where its backend keeps none, or
        was told to keep none."""
        state = str(self.timings.get("state", "none"))
        return None if state.startswith("none") else state != "cold"


def builds(store: LocalStore, names: Names) -> dict[str, list[Build]]:
    """Every engine in a store by the label that it was built for, the oldest first."""
    plans = {
        engine: record.key_document
        for record in store.plan_records("")
        if (engine := record.entries.get("engine")) is not None
    }
    found: dict[str, list[Entry]] = {}
    for entry in store.entries("engine"):
        record = entry.manifest.record
        if {"spec", "variant", "target"} <= record.keys():
            label = f"{record['spec']}/{record['variant']}@{record['target']}"
            found.setdefault(label, []).append(entry)
    return {
        label: _in_order(label, sorted(entries, key=_age), plans, names.get(label, {}))
        for label, entries in found.items()
    }


def _in_order(
    label: str,
    entries: Sequence[Entry],
    plans: Mapping[Digest, Mapping[str, Any]],
    names: Mapping[str, str],
) -> list[Build]:
    made: list[Build] = []
    before: Entry | None = None
    for entry in entries:
        made.append(
            Build(
                label=label,
                engine=entry.manifest.key,
                entry=entry,
                first=before is None,
                changes=() if before is None else _changes(before, entry, plans, names),
            )
        )
        before = entry
    return made


def _changes(
    before: Entry,
    after: Entry,
    plans: Mapping[Digest, Mapping[str, Any]],
    names: Mapping[str, str],
) -> tuple[Change, ...]:
    """By their plans, which name sources; where one is gone, by the keys of the engines."""
    old, new = (plans.get(each.manifest.key) for each in (before, after))
    if old is not None and new is not None and (found := changes(old, new, names)):
        return tuple(found)
    return tuple(changes(before.manifest.key_document, after.manifest.key_document))


def _age(entry: Entry) -> tuple[str, str]:
    return str(entry.manifest.record.get("finished", "")), entry.manifest.key
