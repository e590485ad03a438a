"""Carries a plan out: some variants at once, each through its stages; on this machine, or the
engines on the nodes of a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from engineforge.backends.gpu import HostGpu
from engineforge.digest import Digest, digest_value, document
from engineforge.errors import EngineForgeError
from engineforge.spec.sources import UrlFile
from engineforge.store.far.overlay import Overlay
from engineforge.store.index import Index
from engineforge.store.local import ENGINE, Entry, LocalStore, Session
from engineforge.store.manifest import PlanRecord
from engineforge.worker.building import Building
from engineforge.worker.chain import Chain, Model
from engineforge.worker.conditions import Conditions
from engineforge.worker.dispatching import Cluster, Dispatching
from engineforge.worker.entries import Entries
from engineforge.worker.importer import Importer
from engineforge.worker.job import Engine, Job, SourceJob, StageFailed, ToolMissing
from engineforge.worker.judging import Judging
from engineforge.worker.latency import Kept, Subject, Timing
from engineforge.worker.measured import CHECKS, SENSITIVITY
from engineforge.worker.measuring import Measuring
from engineforge.worker.obtaining import Obtaining
from engineforge.worker.order import Answer, Delivered, Refused
from engineforge.worker.outcome import (
    NOT_STARTED,
    Built,
    Failed,
    Finished,
    Outcome,
    Prepared,
    Reused,
    Skipped,
)
from engineforge.worker.parcel import Packing
from engineforge.worker.rebuilding import Rebuilding
from engineforge.worker.running import INTERRUPTED, Halted, Running
from engineforge.worker.sharing import PARTIAL, Sharing
from engineforge.worker.spare import Spare
from engineforge.worker.stage import Stage
from engineforge.worker.turns import Turns, expected, shared_of, usual

_LOOK_SECONDS = 0.2

_T = TypeVar("_T")
_J = TypeVar("_J", Job, SourceJob)
_Found = Outcome | Future["_Found"]
"""What a thread came to: an outcome, or another thread that carries the job on."""


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
        overlay: Overlay | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        self._store, self._session, self._index = store, session, index
        self._importer, self._conditions = importer, conditions
        self._running = Running()
        self._sharing: Sharing | None = None
        if overlay is not None:
            self._sharing = Sharing(
                overlay, store.root, session, running=self._running, tell=conditions.observe
            )
        elsewhere = None if self._sharing is None else self._sharing.fetch
        entries = Entries(store, session, index, conditions.now, elsewhere)
        stage = Stage(store, session, entries, running=self._running, conditions=conditions)
        self._chain = Chain(stage, importer)
        self._obtaining = Obtaining(stage, self._download)
        self._building = Building(stage, spare)
        self._rebuilding = Rebuilding(stage, self._building)
        self._timing = Timing(stage)
        self._judging = Judging(stage, Measuring(stage), self._timing)
        self._stage = stage
        self._nodes: Dispatching[_Found] | None = None
        if cluster is not None:
            self._nodes = self._dispatching(cluster)
        self._turns: Turns[Any] = Turns([])
        self._on_gpus: dict[tuple[str, ...], ThreadPoolExecutor] = {}
        self._lock = threading.Lock()
        self._left_to_import = 0

    def _dispatching(self, cluster: Cluster) -> Dispatching[_Found]:
        if self._sharing is None:
            raise RuntimeError("a cluster has its engines by way of a remote store")
        where = self._sharing.where
        return Dispatching(
            cluster,
            Packing(self._session, self._sharing.give),
            # A folder is meant from here, and nodes are elsewhere.
            remote=where if "://" in where else str(Path(where).absolute()),
            running=self._running,
            conditions=self._conditions,
            seconds=lambda job: usual(self._index, job.label),
        )

    def build(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The outcomes in the order of the jobs. KeyboardInterrupt kills the children first.

        HostUnfit, before anything is done, where a cluster has no node for a job.
        """
        if self._nodes is not None and not self._conditions.keep_going:
            self._nodes.must_have(jobs)
        return self._run(jobs, self._build, self._longest_first(jobs))

    def obtain(self, jobs: Sequence[SourceJob]) -> list[Outcome]:
        """Make the models that specs are planned with."""
        return self._run(jobs, self._obtain)

    def _obtain(self, job: SourceJob) -> Outcome:
        try:
            manifest = self._obtaining.obtain(job).manifest
        finally:
            self._imported_one()
        return Prepared(stage=manifest.stage, entry=manifest.key)

    def fetch(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The same for jobs that this host cannot build: what other machines have of them."""
        return self._run(jobs, self._fetch)

    def prepare(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The same up to the engine: what needs no GPU."""
        return self._run(jobs, self._prepare, self._longest_first(jobs))

    def _longest_first(self, jobs: Sequence[Job]) -> Turns[Job]:
        return Turns(jobs, weight=partial(expected, self._index), shared=shared_of)

    def rebuild(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Build engines that are there once more, and say how far they are the same."""
        return self._run(jobs, self._rebuild)

    def check(self, jobs: Sequence[Job], stage: str = CHECKS) -> list[Outcome]:
        """The same for accuracy checks, or for what each layer costs (`sensitivity`)."""
        run = {CHECKS: self._check, SENSITIVITY: self._sensitivity}[stage]
        return self._run(jobs, run)

    def check_engines(self, engines: Sequence[Engine]) -> list[Outcome]:
        """The same for the accuracy of engines themselves, each on one of its job's GPUs."""
        of = {each.job.label: each for each in engines}

        def check(job: Job) -> _Found:
            source = self._source(job)[0]
            judged = partial(self._judging.engine, of[job.label], source)
            return self._on_gpu(job, lambda _: judged())

        return self._run([each.job for each in engines], check)

    def check_latency(self, engines: Sequence[Engine], *, again: bool) -> list[Outcome]:
        """The same for latency; with `again`, also where it was measured before."""
        of = {each.job.label: each for each in engines}

        def check(job: Job) -> _Found:
            self._imported_one()
            timed = partial(self._judging.latency, of[job.label], again=again)
            return self._on_gpu(job, lambda _: timed())

        return self._run([each.job for each in engines], check)

    def bench(self, subject: Subject, gpu: HostGpu, waiting: Callable[[str], None]) -> Kept:
        """Measure one engine on this GPU, whatever was measured before; StageFailed."""
        kept, _ = self._timing.measured([subject], [gpu], waiting, again=True)
        return kept[0]

    def _download(self, file: UrlFile, out: Path, told: Callable[[int, int], None]) -> None:
        from engineforge.store.far.download import fetch

        fetch(
            file.url,
            sha256=file.sha256,
            out=out,
            partial=self._store.root / PARTIAL,
            environment=self._conditions.environment,
            told=told,
        )

    def _run(
        self,
        jobs: Sequence[_J],
        carry_out: Callable[[_J], _Found],
        turns: Turns[_J] | None = None,
    ) -> list[Outcome]:
        self._left_to_import = len(jobs)
        self._turns = turns = turns or Turns(jobs)
        pool = ThreadPoolExecutor(max_workers=self._conditions.jobs, thread_name_prefix="build")
        try:
            futures = [pool.submit(self._next, turns, carry_out) for _ in jobs]
            numbered = map(_looking_up, futures)
            found = {number: _outcome_of(each) for number, each in numbered}
            return [found[number] for number in range(len(jobs))]
        except BaseException:
            self._running.interrupt()
            self._importer.kill(INTERRUPTED)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)  # its threads may yet ask for the others
            if self._nodes is not None:
                self._nodes.finish()
            for each in self._on_gpus.values():
                each.shutdown(wait=True, cancel_futures=True)
            self._on_gpus.clear()
            if self._sharing is not None:
                self._sharing.finish()

    def _on_gpu(self, job: Job, carry_out: Callable[[Job], _Found]) -> Future[_Found]:
        """Carry out the rest of a job on a thread of the GPUs that it may use, one for each GPU,
        so that the threads of this run go on with the CPU stages of other jobs meanwhile."""
        uuids = tuple(each.uuid for each in job.gpus)
        with self._lock:
            if uuids not in self._on_gpus:
                self._on_gpus[uuids] = ThreadPoolExecutor(len(uuids), thread_name_prefix="gpu")
            return self._on_gpus[uuids].submit(self._one, job, carry_out, on_gpu=True)

    def _next(self, turns: Turns[_J], carry_out: Callable[[_J], _Found]) -> tuple[int, _Found]:
        with turns.next() as (number, job):
            return number, self._one(job, carry_out)

    def _one(self, job: _J, carry_out: Callable[[_J], _Found], *, on_gpu: bool = False) -> _Found:
        stopped = self._running.why
        if stopped is not None and not on_gpu:
            self._imported_one()
        outcome = Skipped(why=stopped) if stopped is not None else self._tried(job, carry_out)
        return self._told(job, outcome)

    def _told(self, job: _J, outcome: _Found) -> _Found:
        """What a run makes of an outcome."""
        if isinstance(outcome, Future):
            return outcome
        if isinstance(outcome, Failed):
            if self._running.why == INTERRUPTED:
                outcome = Skipped(why=INTERRUPTED)
            elif not self._conditions.keep_going:
                self._running.halt(NOT_STARTED)
        self._conditions.observe(Finished(job.label, outcome))
        return outcome

    def _tried(self, job: _J, carry_out: Callable[[_J], _Found]) -> _Found:
        try:
            return carry_out(job)
        except StageFailed as failure:
            return Failed(stage=failure.stage, error=failure.error, log=failure.log)
        except ToolMissing as missing:
            return Skipped(why=str(missing), unfit=True)
        except Halted:
            return Skipped(why=self._running.why or "stopped")
        except EngineForgeError as error:
            return Failed(stage="engine", error=str(error))
        except OSError as error:
            return Failed(
                stage="store", error=f"{error.strerror}: '{error.filename or self._store.root}'"
            )

    def _models(self, job: Job) -> tuple[Model, Model, dict[str, Digest]]:
        """The source in its canonical form, what the engine is made of, and the entries of both."""
        source, key = self._source(job)
        entries = {ref.stage: ref.key for ref in job.made}
        if job.network is not None:
            return source, source, entries
        entries["onnx"] = key
        asked = job.key.typed_key(source.digest)
        if asked is None:
            return source, source, entries
        typed, typed_key = self._chain.typed(job, source, asked)
        return source, typed, {**entries, "typed": typed_key}

    def _source(self, job: Job) -> tuple[Model, Digest]:
        try:
            return self._chain.imported(job)
        finally:
            self._imported_one()

    def _imported_one(self) -> None:
        with self._lock:
            self._left_to_import -= 1
            done = self._left_to_import == 0
        if done:
            self._importer.release()

    def _prepare(self, job: Job) -> Outcome:
        _, _, entries = self._models(job)
        if not entries:
            return Skipped(why="a network definition has nothing to be prepared")
        stage, entry = list(entries.items())[-1]
        return Prepared(stage=stage, entry=entry)

    def _rebuild(self, job: Job) -> _Found:
        _, model, _ = self._models(job)
        entry = self._building.there(job, model)
        if entry is None:
            return Skipped(why="it is not built")
        if job.gpus:
            return self._on_gpu(job, lambda job: self._rebuilding.rebuilt(job, model, entry))
        return self._rebuilding.rebuilt(job, model, entry)

    def _fetch(self, job: Job) -> Outcome:
        self._imported_one()
        return self._fetched(job) or Skipped(why="no other machine has built it", unfit=True)

    def _fetched(self, job: Job) -> Outcome | None:
        """What another machine has built of what would be built here."""
        if self._sharing is None:
            return None
        *before, engine = self._sharing.planned(job)
        if engine.stage != "engine":
            return None
        if (obtained := self._stage.found(job.label, "engine", engine.key)) is None:
            return None
        here = {ref.stage: ref.key for ref in before if self._stage.there(ref.stage, ref.key)}
        self._record(job, {**here, "engine": engine.key}, None)
        why = obtained.why or ""
        if why != self._sharing.why:
            self._sharing.push(job)
        return Reused(engine=engine.key, path=obtained.entry.file(ENGINE), why=why)

    def _build(self, job: Job) -> _Found:
        if (fetched := self._fetched(job)) is not None:
            self._imported_one()
            return fetched
        _, model, entries = self._models(job)
        self._turns.made(job)
        if self._nodes is not None:
            return self._on_node(job, model, entries, self._nodes)
        if job.gpus and self._building.there(job, model) is None:
            return self._on_gpu(job, lambda job: self._engine(job, model, entries))
        return self._engine(job, model, entries)

    def _on_node(
        self, job: Job, model: Model, entries: dict[str, Digest], nodes: Dispatching[_Found]
    ) -> _Found:
        key = digest_value(job.key.engine_key(model.digest, model.external))
        obtained = self._stage.found(job.label, "engine", key)
        if obtained is not None:
            return self._recorded(job, obtained.entry, entries, obtained.why)

        def taken(answer: Answer) -> _Found:
            return self._told(job, self._tried(job, lambda job: self._taken(job, answer, entries)))

        return nodes.build(job, model, taken)

    def _taken(self, job: Job, answer: Answer, entries: dict[str, Digest]) -> Outcome:
        """What a node answered; the engine that it gave to the remote store comes from there."""
        match answer:
            case Failed() | Skipped():
                return answer
            case Refused(why=why):
                return Failed(stage="engine", error=why)
            case Delivered(engine=engine, made=made):
                obtained = self._stage.found(job.label, "engine", engine)
                if obtained is None:
                    what = f"a node built the engine {engine.short}, which cannot be fetched"
                    raise StageFailed("store", f"{what} from the remote store; run again")
                return self._recorded(job, obtained.entry, entries, None if made else obtained.why)

    def _engine(self, job: Job, model: Model, entries: dict[str, Digest]) -> Outcome:
        obtained = self._building.engine(job, model)
        return self._recorded(job, obtained.entry, entries, obtained.why)

    def _recorded(
        self, job: Job, entry: Entry, entries: dict[str, Digest], why: str | None
    ) -> Outcome:
        """An engine that is here now: `why`, where it was not made just now."""
        engine, path = entry.manifest.key, entry.file(ENGINE)
        seconds: float = entry.manifest.record.get("seconds", 0)
        self._record(job, {**entries, "engine": engine}, seconds if why is None else None)
        if self._sharing is not None:
            self._sharing.push(job)
        if why is not None:
            return Reused(engine=engine, path=path, why=why)
        return Built(engine=engine, path=path, seconds=seconds)

    def _record(self, job: Job, entries: dict[str, Digest], seconds: float | None) -> None:
        """Last of all: what this plan led to."""
        plan = job.key.digest()
        record = PlanRecord(key=plan, key_document=document(job.key), entries=entries)
        self._store.put_record(record, self._session.folder)
        self._index.know_engine_of(plan.hex, entries["engine"].hex)
        self._index.know_history(job.label, plan.hex, seconds)

    def _check(self, job: Job) -> Outcome:
        source, typed, _ = self._models(job)
        return self._judging.accuracy(job, source, typed)

    def _sensitivity(self, job: Job) -> Outcome:
        source, typed, _ = self._models(job)
        return self._judging.sensitivity(job, source, typed)


def _outcome_of(found: _Found) -> Outcome:
    return _outcome_of(_looking_up(found)) if isinstance(found, Future) else found


def _looking_up(future: Future[_T]) -> _T:
    # Signals are handled in this thread, and one that comes while another thread starts a child
    # does not wake it (seen with CPython 3.11): so it looks up now and then.
    while not wait([future], _LOOK_SECONDS).done:
        continue
    return future.result()
