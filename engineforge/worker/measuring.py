"""Measurements of models: how far a converted one, or an engine, is from its source, and which
layers it is."""

from __future__ import annotations

from pathlib import Path

from engineforge.backends.gpu import HostGpu
from engineforge.checks.installed import onnxruntime_version
from engineforge.digest import digest_value, document
from engineforge.plan.keys import CheckKey, EngineCheckKey
from engineforge.store.local import ENGINE, Entry
from engineforge.worker.chain import Model
from engineforge.worker.entries import Made
from engineforge.worker.gpus import Lease
from engineforge.worker.job import Job
from engineforge.worker.measured import ENGINE_CHECKS, engine_check_key
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
            self._stage.tell(Started(job.label, "measuring"))
            with self._stage.session.staged() as scratch:
                request = {**self._compared(job, source, typed), "op": stage, "out": staged}
                log = scratch / "measure.log"
                report = self._stage.ask(job, stage, {**request, "scratch": scratch}, log)
            return Made(record=self._stage.record({"source": job.model.name, **report}))

        return self._stage.obtain(job.label, stage, key, make).entry

    def of_engine(self, job: Job, source: Model, engine: Entry) -> Entry:
        """The entry of an engine's accuracy check, on any of the job's GPUs."""
        version = onnxruntime_version()

        def key(gpu: HostGpu) -> EngineCheckKey:
            return engine_check_key(job, source.digests, engine, gpu, version)

        for gpu in job.gpus:
            there = self._stage.there(ENGINE_CHECKS, digest_value(key(gpu)))
            if there is not None:
                return there
        with self._stage.gpus.lease(job.gpus, self._stage.waiting(job.label, "gpu")) as lease:

            def make(staged: Path) -> Made:
                return self._on_engine(job, source, engine, lease, staged)

            return self._stage.obtain(job.label, ENGINE_CHECKS, key(lease.gpu), make).entry

    def _on_engine(
        self, job: Job, source: Model, engine: Entry, lease: Lease, staged: Path
    ) -> Made:
        stage = self._stage
        stage.room_for(job, 2, "the check")
        stage.tell(Started(job.label, "measuring"))
        with stage.session.staged() as scratch:
            request = {
                **self._compared(job, source, source),
                "op": "check-engine",
                "engine": engine.path,
                "sha256": engine.manifest.files[ENGINE].sha256,
                "plugins": [*job.plugins],
                "out": staged,
                "scratch": scratch,
            }
            log = scratch / "measure.log"
            report = stage.ask(job, ENGINE_CHECKS, request, log, lease=lease)
        gpu = lease.record(stage.conditions.now())
        about = {"source": job.model.name, "engine": engine.manifest.key, "gpu": gpu, **report}
        return Made(record=stage.record(about))

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
