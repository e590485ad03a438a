"""The stages of a job, each from what the one before it left: onnx → typed → engine, and checks."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engineforge.digest import Digest, digest_value, document
from engineforge.errors import EngineForgeError
from engineforge.plan.keys import CheckKey, EngineKey, TypedKey
from engineforge.stages.precision import tools
from engineforge.store.index import stat_of
from engineforge.store.local import Entry, LocalStore, Session
from engineforge.store.manifest import StoredFile
from engineforge.worker.conditions import Conditions
from engineforge.worker.entries import Entries, Made, Obtained
from engineforge.worker.importer import Importer
from engineforge.worker.job import Files, Job, StageFailed, ToolMissing, outside_profiles
from engineforge.worker.outcome import ENGINE, Started, Waiting
from engineforge.worker.process import Child, Crashed
from engineforge.worker.running import Running
from engineforge.worker.spare import Spare
from engineforge.worker.wire import write_data, write_profiles

MODEL = "model.onnx"
WEIGHTS = "model.onnx.data"
CALIBRATION = "calibration.json"
_LOG = "build.log"
_SPARE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Model:
    """A model as a stage left it: a file that loads where it stands, and what it is by content."""

    path: Path
    digest: Digest
    external: tuple[Digest, ...]

    @property
    def digests(self) -> tuple[Digest, ...]:
        return (self.digest, *self.external)


def typed_model(entry: Entry) -> Model:
    """The model in an entry of the `typed` stage."""
    files = entry.manifest.files
    external = (files[WEIGHTS].sha256,) if WEIGHTS in files else ()
    return Model(entry.file(MODEL), files[MODEL].sha256, external)


@dataclass(slots=True)
class _Import:
    """A model made ready once for all variants of a run that build it: beside links to the files
    of whichever variant came first, whose contents are the same."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    files: Files = field(default_factory=dict)
    key: Digest | None = None
    model: Model | None = None


class Chain:
    """Obtains the entries of jobs, for all threads of a run; StageFailed says what failed."""

    def __init__(
        self,
        store: LocalStore,
        session: Session,
        entries: Entries,
        *,
        importer: Importer,
        spare: Spare,
        running: Running,
        conditions: Conditions,
    ) -> None:
        self._store, self._session, self._entries = store, session, entries
        self._importer, self._spare, self._running = importer, spare, running
        self._conditions = conditions
        self._imports: dict[Digest, _Import] = {}
        self._lock = threading.Lock()

    def imported(self, job: Job) -> tuple[Model, Digest]:
        """The canonical model, and the key of its entry."""
        key = digest_value(job.key.onnx)
        with self._lock:
            shared = self._imports.setdefault(key, _Import())
        with shared.lock:
            if shared.model is None:
                self._conditions.observe(Started(job.variant.label, "importing"))
                folder = self._session.folder / f"model-{key.hex[:16]}"
                shared.files = job.source
                try:
                    shared.model = self._import(job, folder)
                except EngineForgeError as error:
                    self._unchanged(job, "onnx")
                    raise StageFailed("onnx", str(error)) from error
                finally:
                    if shared.model is None:
                        shutil.rmtree(folder, ignore_errors=True)
        return shared.model, key

    def _import(self, job: Job, folder: Path) -> Model:
        folder.mkdir()
        request = {
            "op": "import",
            "model": job.model,
            "external": dict(job.external),
            "bind": folder,
        }
        bound = False

        def make(staged: Path) -> Made:
            nonlocal bound
            self._importer.ask({**request, "canonical": staged / MODEL})
            bound = True
            self._unchanged(job, "onnx")
            about = {"source": job.model.name, "interface": document(job.interface)}
            return Made(record=self._record(about))

        entry = self._obtain(job, "onnx", job.key.onnx, make).entry
        if not bound:
            self._importer.ask({**request, "canonical": None})
        digest = entry.manifest.files[MODEL].sha256
        return Model(folder / MODEL, digest, tuple(job.external.values()))

    def typed(self, job: Job, imported: Model, key: TypedKey) -> tuple[Model, Digest]:
        """The converted model, and the key of its entry."""

        def make(staged: Path) -> Made:
            tool = key.recipe.tool
            if tool is not None and (why := tools.missing(tool)) is not None:
                raise ToolMissing(why)
            # The weights once as they were, and once as they become.
            self._room_for(job, 2, "the converted model")
            self._conditions.observe(Started(job.variant.label, "converting"))
            started = self._conditions.now()
            with self._session.staged() as scratch:
                request = {
                    "op": "type",
                    "model": imported.path,
                    "precision": document(job.variant.precision),
                    "inputs": document(job.interface)["inputs"],
                    "folder": job.folder,
                    "data": self._converted_on(job),
                    "files": [*job.calibrated_on],
                    "out": staged,
                    "scratch": scratch,
                }
                report = self._ask(job, "typed", request, scratch / "typed.log")
            about = {
                "source": job.model.name,
                "started": started.isoformat(timespec="seconds"),
                **report,
            }
            return Made(record=self._record(about))

        entry = self._obtain(job, "typed", key, make).entry
        self._unchanged(job, "typed")
        outside = outside_profiles(entry.manifest.record["shapes"], job.variant.profiles)
        if outside is not None:
            raise StageFailed("typed", outside)
        return typed_model(entry), entry.manifest.key

    @staticmethod
    def _converted_on(job: Job) -> dict[str, object] | None:
        calibration = job.variant.precision.calibration
        return None if calibration is None else write_data(calibration.data)

    def engine(self, job: Job, model: Model) -> Obtained:
        """The engine's entry; the record of one made now has the seconds that it took."""
        key = EngineKey(model=model.digest, external=model.external, recipe=job.key.engine)

        def make(staged: Path) -> Made:
            self._room_for(job, 1, "this engine")
            started, clock = self._conditions.now(), time.monotonic()
            self._conditions.observe(Started(job.variant.label, "building"))
            request = {
                "op": "build",
                "model": model.path,
                "profiles": write_profiles(job.variant.profiles),
                "builder": job.builder,
                "target": document(job.variant.target),
                "engine": staged / ENGINE,
            }
            child = self._spare.take(job.variant.target.toolchain.backend)
            output = self._ask(job, "engine", request, staged / _LOG, child)
            self._conditions.observe(Started(job.variant.label, "publishing"))
            engine = StoredFile(int(output.pop("size")), Digest(output.pop("sha256")))
            if (staged / ENGINE).stat().st_size != engine.size:
                raise StageFailed("engine", "the engine file is short")
            about = {
                "spec": job.variant.spec,
                "variant": job.variant.name,
                "target": job.variant.target.name,
                "precision": job.variant.precision.name,
                "source": job.model.name,
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - clock, 3),
                **output,
            }
            return Made(record=self._record(about), digests={ENGINE: engine})

        obtained = self._obtain(job, "engine", key, make)
        self._unchanged(job, "engine")
        return obtained

    def measured(
        self, job: Job, source: Model, typed: Model, *, stage: str, key: CheckKey
    ) -> Entry:
        """The entry of an accuracy check (`checks`), or of what layers cost (`sensitivity`)."""

        def make(staged: Path) -> Made:
            self._room_for(job, 2, "the check")
            self._conditions.observe(Started(job.variant.label, "measuring"))
            with self._session.staged() as scratch:
                request = {**self._compared(job, source, typed), "op": stage, "out": staged}
                log = scratch / "measure.log"
                report = self._ask(job, stage, {**request, "scratch": scratch}, log)
            return Made(record=self._record({"source": job.model.name, **report}))

        return self._obtain(job, stage, key, make).entry

    def advice(self, job: Job, source: Model, typed: Model) -> tuple[str, ...]:
        """Which layers made a check fail, and what would mend it, in words."""
        with self._session.staged() as scratch:
            request = {**self._compared(job, source, typed), "op": "advise", "scratch": scratch}
            return tuple(self._ask(job, "checks", request, scratch / "advise.log")["lines"])

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

    def _obtain(self, job: Job, stage: str, key: object, make: Callable[[Path], Made]) -> Obtained:
        waited: set[str] = set()

        def waiting(holder: str) -> None:
            self._running.go_on()
            if holder not in waited:
                waited.add(holder)
                self._conditions.observe(Waiting(job.variant.label, stage, holder))

        def unless_halted(staged: Path) -> Made:
            self._running.go_on()
            return make(staged)

        try:
            return self._entries.obtain(stage, key, unless_halted, waiting)
        except EngineForgeError as error:
            raise StageFailed(stage, str(error)) from error

    def _record(self, more: Mapping[str, object]) -> dict[str, object]:
        finished = self._conditions.now().isoformat(timespec="seconds")
        return {**self._conditions.about, "finished": finished, **more}

    def _ask(
        self,
        job: Job,
        stage: str,
        request: Mapping[str, object],
        log: Path,
        child: Child | None = None,
    ) -> dict[str, Any]:
        """What a child of its own answers, if no file of the job changed meanwhile."""
        with self._running.child(child or Child(log, self._conditions.environment)) as asked:
            try:
                answer = asked.ask({**request, "log": log}, timeout=self._conditions.timeout)
            except EngineForgeError as error:
                self._unchanged(job, stage)
                # What a library answered is in the error; a crash has only its last words.
                said = asked.log_tail(log) if isinstance(error, Crashed) else ()
                raise StageFailed(stage, str(error), said) from error
        self._unchanged(job, stage)
        return answer

    def _room_for(self, job: Job, times: int, what: str) -> None:
        """Each is about as large as the weights; better to know before than after."""
        free = shutil.disk_usage(self._store.root).free
        needed = times * job.interface.weight_bytes + _SPARE_BYTES
        if free < needed:
            raise StageFailed(
                "store",
                f"the file system of '{self._store.root}' has {free >> 20} MiB free, and {what} "
                f"may need {needed >> 20}",
            )

    def _unchanged(self, job: Job, stage: str) -> None:
        """StageFailed unless what a stage read is what was planned. An import may have read
        another variant's files, of the same content then."""
        shared = self._imports.get(digest_value(job.key.onnx))
        files = dict.fromkeys({**job.source, **(shared.files if shared else {})}.items(), "onnx")
        if stage == "typed":
            files |= dict.fromkeys(job.calibrated_on.items(), "typed")
        elif stage in ("checks", "sensitivity"):
            files |= dict.fromkeys(job.checked_on.items(), stage)
        for (path, (_, stat)), of in files.items():
            try:
                # Equal bytes now would not tell what was read meanwhile.
                same = stat_of(path) == stat
            except OSError:
                same = False
            if not same:
                message = f"'{path.name}' changed, or was touched, while it was being read"
                raise StageFailed(of, f"{message}; run again")
