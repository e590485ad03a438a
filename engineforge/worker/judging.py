"""What checks say of variants and their engines: measured, or found as it was measured before."""

from __future__ import annotations

from dataclasses import replace

from engineforge.checks.latency import latency_failures
from engineforge.worker.chain import Model
from engineforge.worker.job import Engine, Job, StageFailed
from engineforge.worker.latency import Asked, Subject, Timing
from engineforge.worker.measured import CHECKS, SENSITIVITY, check_key, judged, read_measured
from engineforge.worker.measuring import Measuring
from engineforge.worker.outcome import Outcome, Ranked, Timed
from engineforge.worker.stage import Stage


class Judging:
    """For all threads of a run; StageFailed says what failed."""

    def __init__(self, stage: Stage, measuring: Measuring, timing: Timing) -> None:
        self._stage, self._measuring, self._timing = stage, measuring, timing

    def accuracy(self, job: Job, source: Model, typed: Model) -> Outcome:
        key = check_key(job, source.digests, typed.digests)
        checked = judged(job, self._measuring.measured(job, source, typed, stage=CHECKS, key=key))
        if checked.failures and job.key.typed is not None:
            return replace(checked, advice=self._advice(job, source, typed))
        return checked

    def engine(self, engine: Engine, source: Model) -> Outcome:
        """The accuracy of an engine itself, on a GPU of its job."""
        return judged(engine.job, self._measuring.of_engine(engine.job, source, engine.entry))

    def latency(self, engine: Engine, *, again: bool) -> Outcome:
        job, check = engine.job, engine.job.variant.latency
        if check is None:
            raise RuntimeError("a variant without a latency check cannot be measured")
        pair = [engine] if engine.than is None else [engine, engine.than]
        subjects = [
            Subject(
                label=each.job.label,
                engine=each.entry,
                asked=Asked(at=check.profile),
                plugins=each.job.plugins,
            )
            for each in pair
        ]
        waiting = self._stage.waiting(job.label, "gpu")
        (found, *others), kept = self._timing.measured(subjects, job.gpus, waiting, again=again)
        than = others[0].measured if others else None
        return Timed(
            entry=found.entry.manifest.key,
            check=check,
            measured=found.measured,
            than=than,
            kept=kept,
            failures=tuple(latency_failures(found.measured, check, than)),
        )

    def sensitivity(self, job: Job, source: Model, typed: Model) -> Outcome:
        """What each layer of a variant alone costs."""
        key = check_key(job, source.digests, typed.digests)
        entry = self._measuring.measured(job, source, typed, stage=SENSITIVITY, key=key)
        return Ranked(entry=entry.manifest.key, measured=read_measured(entry))

    def _advice(self, job: Job, source: Model, typed: Model) -> tuple[str, ...]:
        try:
            return self._measuring.advice(job, source, typed)
        except StageFailed as failure:
            said = (failure.error, *failure.log)
        except OSError as error:
            root = self._stage.store.root
            said = (f"{error.strerror}: '{error.filename or root}'",)
        # That a check failed is known, and not to be lost for want of a reason.
        return ("which layers hurt could not be found out:", *said)
