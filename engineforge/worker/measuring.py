"""Measurements of models: how far a converted one is from its source, and which layers it is."""

from __future__ import annotations

from pathlib import Path

from engineforge.digest import document
from engineforge.plan.keys import CheckKey
from engineforge.store.local import Entry
from engineforge.worker.chain import Model
from engineforge.worker.entries import Made
from engineforge.worker.job import Job
from engineforge.worker.outcome import Started
from engineforge.worker.stage import Stage
from engineforge.worker.wire import write_data


class Measuring:
    """Compares models, for all threads of a run; StageFailed says what failed."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def measured(
        self, job: Job, source: Model, typed: Model, *, stage: str, key: CheckKey
    ) -> Entry:
        """The entry of an accuracy check (`checks`), or of what layers cost (`sensitivity`)."""

        def make(staged: Path) -> Made:
            self._stage.room_for(job, 2, "the check")
            self._stage.tell(Started(job.variant.label, "measuring"))
            with self._stage.session.staged() as scratch:
                request = {**self._compared(job, source, typed), "op": stage, "out": staged}
                log = scratch / "measure.log"
                report = self._stage.ask(job, stage, {**request, "scratch": scratch}, log)
            return Made(record=self._stage.record({"source": job.model.name, **report}))

        return self._stage.obtain(job, stage, key, make).entry

    def advice(self, job: Job, source: Model, typed: Model) -> tuple[str, ...]:
        """Which layers made a check fail, and what would mend it, in words."""
        with self._stage.session.staged() as scratch:
            request = {**self._compared(job, source, typed), "op": "advise", "scratch": scratch}
            return tuple(self._stage.ask(job, "checks", request, scratch / "advise.log")["lines"])

    @staticmethod
    def _compared(job: Job, source: Model, typed: Model) -> dict[str, object]:
        check = job.variant.accuracy
        if check is None:
            raise RuntimeError("a variant without an accuracy check cannot be measured")
        return {
            "source": source.path,
            "typed": typed.path,
            "inputs": document(job.interface)["inputs"],
            "folder": job.folder,
            "data": write_data(check.data),
            "files": [*job.checked_on],
            "samples": check.samples,
            "seed": check.seed,
            "labels": check.labels,
            "class_axis": check.class_axis,
            "thresholds": dict(check.thresholds),
        }
