"""Carries a plan out on this machine: stage by stage, a child process for each build."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engineforge.digest import Digest, digest_value, document
from engineforge.errors import EngineForgeError, StoreCorrupt
from engineforge.plan.keys import EngineKey, PlanKey
from engineforge.spec.model import ModelInterface, Variant
from engineforge.store.index import Index, Stat, folder_stats, stat_of
from engineforge.store.local import Entry, LocalStore, Session
from engineforge.store.manifest import PlanRecord, StoredFile
from engineforge.store.trust import whole
from engineforge.worker.conditions import Conditions
from engineforge.worker.importer import Importer
from engineforge.worker.outcome import (
    ENGINE,
    Built,
    Failed,
    Finished,
    Outcome,
    Reused,
    Skipped,
    Started,
    Waiting,
)
from engineforge.worker.process import Child, Crashed
from engineforge.worker.spare import Spare
from engineforge.worker.wire import write_profiles

_MODEL = "model.onnx"
_LOG = "build.log"
_INTERRUPTED = "interrupted"
_SPARE_BYTES = 64 << 20
_LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One stale variant: its key, the builder options with plugins as paths, and the files that
    its source is made of, with the stats that they had when they were hashed."""

    variant: Variant
    key: PlanKey
    builder: Mapping[str, object]
    model: Path
    external: Mapping[str, Digest]
    interface: ModelInterface
    files: Mapping[Path, tuple[Digest, Stat]]


class _StageFailed(Exception):
    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.error)
        self.failed = failed


class _Stopped(Exception):
    """The run was stopped while this variant waited for another process."""


class Worker:
    """Carries out jobs; all its threads share one store, one session and one importer."""

    def __init__(
        self,
        store: LocalStore,
        session: Session,
        index: Index,
        *,
        importer: Importer,
        spare: Spare,
        conditions: Conditions,
    ) -> None:
        self._store, self._session, self._index = store, session, index
        self._importer, self._spare, self._conditions = importer, spare, conditions
        self._children: set[Child] = set()
        self._lock = threading.Lock()
        self._stop: str | None = None
        self._imports: dict[Digest, _Import] = {}
        self._left_to_import = 0

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The outcomes in the order of the jobs. KeyboardInterrupt kills the children first."""
        self._left_to_import = len(jobs)
        pool = ThreadPoolExecutor(max_workers=self._conditions.jobs, thread_name_prefix="build")
        futures: list[Future[Outcome]] = []
        try:
            futures = [pool.submit(self._one, job) for job in jobs]
            return [_result(future) for future in futures]
        except BaseException:
            self._end(_INTERRUPTED)
            for future in futures:
                future.cancel()
            raise
        finally:
            pool.shutdown(wait=True)

    def _end(self, why: str) -> None:
        with self._lock:
            self._stop = self._stop or why
            for child in self._children:
                child.kill(why)
        self._importer.kill(why)

    def _one(self, job: Job) -> Outcome:
        outcome = self._outcome(job)
        if isinstance(outcome, Failed) and self._stop == _INTERRUPTED:
            outcome = Skipped(why=_INTERRUPTED)
        if isinstance(outcome, Failed) and not self._conditions.keep_going:
            with self._lock:
                self._stop = self._stop or (
                    "not started, since another variant failed; --keep-going builds the rest"
                )
        self._conditions.observe(Finished(job.variant.label, outcome))
        return outcome

    def _outcome(self, job: Job) -> Outcome:
        stopped = self._stop
        if stopped is not None:
            self._imported_one()
            return Skipped(why=stopped)
        try:
            return self._carry_out(job)
        except _StageFailed as failure:
            return failure.failed
        except _Stopped:
            return Skipped(why=self._stop or "stopped")
        except EngineForgeError as error:
            return Failed(stage="engine", error=str(error))
        except OSError as error:
            return Failed(
                stage="store", error=f"{error.strerror}: '{error.filename or self._store.root}'"
            )

    def _carry_out(self, job: Job) -> Outcome:
        try:
            imported = self._import(job)
        finally:
            self._imported_one()
        engine_key = EngineKey(
            model=imported.entry.manifest.files[_MODEL].sha256,
            external=tuple(job.external.values()),
            recipe=job.key.engine,
        )
        key = digest_value(engine_key)
        if (entry := whole(self._store, self._index, "engine", key)) is not None:
            why = "nothing that an engine depends on has changed"
            return self._reused(job, imported, entry, why)
        label = job.variant.label
        waited: list[str] = []

        def waiting(holder: str) -> None:
            if self._stop is not None:
                raise _Stopped
            if holder not in waited:
                waited.append(holder)
                self._conditions.observe(Waiting(label, holder))

        since = self._conditions.now().isoformat(timespec="seconds")
        with self._session.building("engine", key, since, waiting):
            if (entry := whole(self._store, self._index, "engine", key)) is not None:
                by = waited[-1] if waited else "another variant of this run"
                return self._reused(job, imported, entry, f"built by {by}")
            if self._stop is not None:
                return Skipped(why=self._stop)
            return self._build(job, imported, engine_key)

    def _imported_one(self) -> None:
        with self._lock:
            self._left_to_import -= 1
            done = self._left_to_import == 0
        if done:
            self._importer.release()

    def _import(self, job: Job) -> _Import:
        key = digest_value(job.key.onnx)
        with self._lock:
            shared = self._imports.setdefault(key, _Import())
        with shared.lock:
            if shared.bound is None:
                self._conditions.observe(Started(job.variant.label, "importing"))
                shared.start(self._session.folder / f"model-{key.hex[:16]}", job.files)
                try:
                    self._run_import(job, key, shared)
                except EngineForgeError as error:
                    shared.clear()
                    self._unchanged(job, shared)
                    raise _StageFailed(Failed(stage="onnx", error=str(error))) from error
                except BaseException:
                    shared.clear()
                    raise
        return shared

    def _run_import(self, job: Job, key: Digest, shared: _Import) -> None:
        request: dict[str, object] = {
            "op": "import",
            "model": job.model,
            "external": dict(job.external),
            "bind": shared.folder,
        }
        entry = whole(self._store, self._index, "onnx", key)
        if entry is None:
            with self._session.staged() as staged:
                self._importer.ask({**request, "canonical": staged / _MODEL})
                self._unchanged(job, shared)
                entry = self._publish(
                    staged,
                    stage="onnx",
                    key_document=document(job.key.onnx),
                    digests={},
                    record={
                        **self._conditions.about,
                        "source": job.model.name,
                        "interface": document(job.interface),
                        "finished": self._conditions.now().isoformat(timespec="seconds"),
                    },
                )
        else:
            self._importer.ask({**request, "canonical": None})
        shared.done(entry)

    def _build(self, job: Job, imported: _Import, key: EngineKey) -> Outcome:
        label = job.variant.label
        self._room_for(job)
        started, clock = self._conditions.now(), time.monotonic()
        with self._session.staged() as staged:
            self._conditions.observe(Started(label, "building"))
            output = self._ask_child(job, imported, staged)
            self._unchanged(job, imported)
            self._conditions.observe(Started(label, "publishing"))
            sha256 = Digest(output.pop("sha256"))
            engine = StoredFile(int(output.pop("size")), sha256)
            if (staged / ENGINE).stat().st_size != engine.size:
                raise _StageFailed(Failed(stage="engine", error="the engine file is short"))
            seconds = time.monotonic() - clock
            entry = self._publish(
                staged,
                stage="engine",
                key_document=document(key),
                digests={ENGINE: engine},
                record={
                    **self._conditions.about,
                    "spec": job.variant.spec,
                    "variant": job.variant.name,
                    "target": job.variant.target.name,
                    "precision": job.variant.precision,
                    "source": job.model.name,
                    "started": started.isoformat(timespec="seconds"),
                    "seconds": round(seconds, 3),
                    **output,
                },
            )
        self._record(job, imported, entry, seconds)
        return Built(engine=entry.manifest.key, path=entry.file(ENGINE), seconds=seconds)

    def _publish(
        self,
        staged: Path,
        *,
        stage: str,
        key_document: Mapping[str, object],
        digests: Mapping[str, StoredFile],
        record: Mapping[str, object],
    ) -> Entry:
        """The entry of this key: this one, or a sound one that another process was first with."""
        entry, ours = self._store.publish(
            staged, stage=stage, key_document=key_document, digests=digests, record=record
        )
        key = entry.manifest.key
        if ours:
            self._index.know_entry(stage, key.hex, folder_stats(entry.path))
            return entry
        first = whole(self._store, self._index, stage, key)
        if first is None:
            raise StoreCorrupt(f"the {stage} entry {key.short} was published broken; run again")
        return first

    def _ask_child(self, job: Job, imported: _Import, staged: Path) -> dict[str, Any]:
        log = staged / _LOG
        child = self._spare.take(job.variant.target.toolchain.backend) or Child(
            log, self._conditions.environment
        )
        with self._lock:
            self._children.add(child)
            stopped = self._stop == _INTERRUPTED
        try:
            if stopped:
                child.kill(_INTERRUPTED)
            return child.ask(
                {
                    "op": "build",
                    "model": imported.bound,
                    "profiles": write_profiles(job.variant.profiles),
                    "builder": job.builder,
                    "target": document(job.variant.target),
                    "engine": staged / ENGINE,
                    "log": log,
                },
                timeout=self._conditions.timeout,
            )
        except EngineForgeError as error:
            self._unchanged(job, imported)
            # What TensorRT answered is in the error; a crash has only its last words.
            said = child.log_tail(log) if isinstance(error, Crashed) else ()
            failed = Failed(stage="engine", error=str(error), log=said)
            raise _StageFailed(failed) from error
        finally:
            with self._lock:
                self._children.discard(child)
            child.close()

    def _room_for(self, job: Job) -> None:
        """An engine is about as large as the weights; better to know before than after."""
        free = shutil.disk_usage(self._store.root).free
        needed = job.interface.weight_bytes + _SPARE_BYTES
        if free < needed:
            error = (
                f"the file system of '{self._store.root}' has {free >> 20} MiB free, and this "
                f"engine may need {needed >> 20}"
            )
            raise _StageFailed(Failed(stage="store", error=error))

    def _unchanged(self, job: Job, imported: _Import) -> None:
        """What was read is what was planned. An import may have read another variant's files, of
        the same content then."""
        for path, (_, stat) in {**job.files, **imported.files}.items():
            try:
                # Equal bytes now would not tell what was read meanwhile.
                same = stat_of(path) == stat
            except OSError:
                same = False
            if not same:
                error = (
                    f"'{path.name}' changed, or was touched, while it was being built; run again"
                )
                raise _StageFailed(Failed(stage="onnx", error=error))

    def _reused(self, job: Job, imported: _Import, entry: Entry, why: str) -> Reused:
        self._unchanged(job, imported)
        self._record(job, imported, entry, None)
        return Reused(engine=entry.manifest.key, path=entry.file(ENGINE), why=why)

    def _record(self, job: Job, imported: _Import, entry: Entry, seconds: float | None) -> None:
        """Last of all: what this plan led to."""
        plan, engine = job.key.digest(), entry.manifest.key
        entries = {"onnx": imported.entry.manifest.key, "engine": engine}
        record = PlanRecord(key=plan, key_document=document(job.key), entries=entries)
        self._store.put_record(record, self._session.folder)
        self._index.know_engine_of(plan.hex, engine.hex)
        self._index.know_history(job.variant.label, plan.hex, seconds)


def _result(future: Future[Outcome]) -> Outcome:
    # Signals are handled in this thread, and one that comes while another thread starts a child
    # does not wake it (seen with CPython 3.11): so it looks up now and then.
    while not wait([future], _LOOK_SECONDS).done:
        continue
    return future.result()


class _Import:
    """A model made ready once for all variants of a run that build it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.folder = Path()
        self.files: Mapping[Path, tuple[Digest, Stat]] = {}
        self.bound: Path | None = None
        self._entry: Entry | None = None

    def start(self, folder: Path, files: Mapping[Path, tuple[Digest, Stat]]) -> None:
        folder.mkdir()
        self.folder, self.files = folder, files

    def done(self, entry: Entry) -> None:
        self._entry, self.bound = entry, self.folder / _MODEL

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def entry(self) -> Entry:
        if self._entry is None:
            raise RuntimeError("asked for before it was imported")
        return self._entry
