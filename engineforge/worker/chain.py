"""The stages that prepare a model, each from what the one before it left: onnx → typed."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engineforge.digest import Digest, digest_value, document
from engineforge.errors import EngineForgeError
from engineforge.plan.keys import TypedKey
from engineforge.stages.precision import tools
from engineforge.store.local import Entry
from engineforge.store.manifest import Manifest
from engineforge.store.uses import Ref
from engineforge.worker.entries import Made
from engineforge.worker.importer import Importer
from engineforge.worker.job import Job, StageFailed, ToolMissing, outside_profiles
from engineforge.worker.outcome import Started
from engineforge.worker.stage import Stage
from engineforge.worker.turns import typing_of
from engineforge.worker.wire import write_data

MODEL = "model.onnx"
WEIGHTS = "model.onnx.data"
CALIBRATION = "calibration.json"
_LOG = "build.log"


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
    return Model(entry.file(MODEL), *_typed_digests(entry.manifest))


def _typed_digests(manifest: Manifest) -> tuple[Digest, tuple[Digest, ...]]:
    files = manifest.files
    external = (files[WEIGHTS].sha256,) if WEIGHTS in files else ()
    return files[MODEL].sha256, external


def planned(job: Job, manifest_of: Callable[[str, Digest], Manifest | None]) -> Iterator[Ref]:
    """The entry of each stage of a job, up to the first that has no manifest, since the next key
    is made of what that one left."""
    yield from job.made
    if job.network is not None:
        made = job.key.engine_key(digest_value(job.key.onnx), ())
        yield Ref("engine", digest_value(made))
        return
    ref = Ref("onnx", digest_value(job.key.onnx))
    yield ref
    if (imported := manifest_of(ref.stage, ref.key)) is None:
        return
    model, external = imported.files[MODEL].sha256, job.key.external
    if (asked := job.key.typed_key(model)) is not None:
        ref = Ref("typed", digest_value(asked))
        yield ref
        if (converted := manifest_of(ref.stage, ref.key)) is None:
            return
        model, external = _typed_digests(converted)
    yield Ref("engine", digest_value(job.key.engine_key(model, external)))


@dataclass(slots=True)
class _Import:
    """A model made ready once for all variants of a run that build it: beside links to the files
    of whichever variant came first, whose contents are the same."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    key: Digest | None = None
    model: Model | None = None


class Chain:
    """What an engine is made of, for all threads of a run; StageFailed says what failed."""

    def __init__(self, stage: Stage, importer: Importer) -> None:
        self._stage, self._importer = stage, importer
        self._imports: dict[Digest, _Import] = {}
        self._lock = threading.Lock()

    def imported(self, job: Job) -> tuple[Model, Digest]:
        """The canonical model, and the key of its entry; a network definition has none."""
        key = digest_value(job.key.onnx)
        if job.network is not None:
            return Model(job.model, key, ()), key
        with self._lock:
            shared = self._imports.setdefault(key, _Import())
        with shared.lock:
            if shared.model is None:
                self._stage.tell(Started(job.label, "importing"))
                folder = self._stage.session.folder / f"model-{key.hex[:16]}"
                self._stage.reads_too(key, job.source)
                try:
                    shared.model = self._import(job, folder)
                except EngineForgeError as error:
                    self._stage.unchanged(job, "onnx")
                    raise StageFailed("onnx", str(error)) from error
                finally:
                    if shared.model is None:
                        shutil.rmtree(folder, ignore_errors=True)
        return shared.model, key

    def _import(self, job: Job, folder: Path) -> Model:
        folder.mkdir()
        for ref in job.made:
            # It may have been collected since it was planned with.
            if self._stage.found(job.label, ref.stage, ref.key) is None:
                raise StageFailed(ref.stage, f"its entry {ref.key.short} is gone; run again")
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
            self._stage.unchanged(job, "onnx")
            about = {"source": job.called, "interface": document(job.interface)}
            return Made(record=self._stage.record(about))

        entry = self._stage.obtain(job.label, "onnx", job.key.onnx, make).entry
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
            self._stage.room_for(job, 2, "the converted model")
            self._stage.tell(Started(job.label, "converting"))
            started = self._stage.conditions.now()
            with self._stage.session.staged() as scratch:
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
                clock = time.monotonic()
                report = self._stage.ask(job, "typed", request, scratch / "typed.log")
                self._stage.took(typing_of(job.label), time.monotonic() - clock)
            about = {
                "source": job.called,
                "started": started.isoformat(timespec="seconds"),
                **report,
            }
            return Made(record=self._stage.record(about))

        entry = self._stage.obtain(job.label, "typed", key, make).entry
        self._stage.unchanged(job, "typed")
        outside = outside_profiles(entry.manifest.record["shapes"], job.variant.profiles)
        if outside is not None:
            raise StageFailed("typed", outside)
        return typed_model(entry), entry.manifest.key

    @staticmethod
    def _converted_on(job: Job) -> dict[str, object] | None:
        calibration = job.variant.precision.calibration
        return None if calibration is None else write_data(calibration.data)
