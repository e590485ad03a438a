"""What engines last came to on GPUs, as the store knows it; nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping

from engineforge.checks import MEASURING
from engineforge.checks.latency import latency_failures
from engineforge.digest import document
from engineforge.project.plans import Plan, PlannedVariant
from engineforge.store.local import ENGINE, Entry, LocalStore
from engineforge.worker.latency import LATENCY, Asked
from engineforge.worker.measured import ENGINE_CHECKS, judged, read_measured
from engineforge.worker.outcome import Checked, Timed


class LastChecks:
    """The newest checks of the engines of a plan made with `checks`, whichever GPU of a kind they
    ran on, held to what the specs ask today. Looks through the store once."""

    def __init__(self, plan: Plan, store: LocalStore) -> None:
        self._store = store
        self._all = plan.all
        self._of: dict[str, Mapping[str, list[Entry]]] = {}

    def accuracy(self, variant: PlannedVariant) -> Checked | None:
        """Of the engine itself against its source."""
        job = variant.job
        if job is None or job.check is None or (check := job.variant.accuracy) is None:
            return None
        asked = {
            "measuring": MEASURING,
            "data": document(job.check),
            "labels": check.labels,
            "class_axis": check.class_axis,
        }
        found = [
            entry
            for entry in self._entries(ENGINE_CHECKS, variant)
            if asked == {name: entry.manifest.key_document[name] for name in asked}
        ]
        return judged(job, max(found, key=_age)) if found else None

    def latency(self, variant: PlannedVariant) -> Timed | None:
        check = None if variant.job is None else variant.job.variant.latency
        if check is None or (entry := self._timed(variant, check.profile)) is None:
            return None
        than = None
        if check.max_slower is not None:
            other = self._all.get((variant.spec, check.max_slower.than, variant.target))
            found = None if other is None else self._timed(other, check.profile)
            than = None if found is None else read_measured(found)
        measured = read_measured(entry)
        return Timed(
            entry=entry.manifest.key,
            check=check,
            measured=measured,
            than=than,
            kept=True,
            failures=tuple(latency_failures(measured, check, than)),
        )

    def benched(self, variant: PlannedVariant) -> Entry | None:
        """The newest measurement as a check would make it at opt, whatever the spec asks."""
        return self._timed(variant, Asked().at)

    def _timed(self, variant: PlannedVariant, at: str) -> Entry | None:
        asked = Asked(at=at)
        found = [
            entry
            for entry in self._entries(LATENCY, variant)
            if asked.is_of(entry.manifest.key_document)
        ]
        return max(found, key=_age, default=None)

    def _entries(self, stage: str, variant: PlannedVariant) -> list[Entry]:
        """The entries of a stage about the engine of a variant."""
        engine = None if variant.engine is None else self._store.get("engine", variant.engine)
        if engine is None:
            return []
        if stage not in self._of:
            by: dict[str, list[Entry]] = {}
            for entry in self._store.entries(stage):
                by.setdefault(entry.manifest.key_document["engine"], []).append(entry)
            self._of[stage] = by
        return self._of[stage].get(engine.manifest.files[ENGINE].sha256, [])


def _age(entry: Entry) -> tuple[str, int]:
    manifest = entry.manifest
    return str(manifest.record.get("finished", "")), manifest.key_document.get("number", 0)
