"""The engine stage: an engine built from a model, on a GPU where its backend needs one."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engineforge.digest import Digest, digest_value, document
from engineforge.plan.keys import EngineKey
from engineforge.spec.sources import write_source
from engineforge.store.local import ENGINE, Entry
from engineforge.store.manifest import StoredFile
from engineforge.worker.chain import Model
from engineforge.worker.entries import Made, Obtained
from engineforge.worker.gpus import Lease
from engineforge.worker.job import Job, StageFailed
from engineforge.worker.outcome import Noted, Started
from engineforge.worker.spare import Spare
from engineforge.worker.stage import Stage
from engineforge.worker.wire import write_profiles

TIMINGS = "timing.cache"
LAYERS = "layers.json"
"""Of an engine's entry: the timing cache that it was built with, and what TensorRT made of it."""

_LOG = "build.log"


class Building:
    """Builds engines, for all threads of a run; StageFailed says what failed."""

    def __init__(self, stage: Stage, spare: Spare) -> None:
        self._stage, self._spare = stage, spare

    def there(self, job: Job, model: Model) -> Entry | None:
        """The engine's entry, where it has been built."""
        return self._stage.there("engine", digest_value(_key(job, model)))

    def engine(self, job: Job, model: Model) -> Obtained:
        """The engine's entry; the record of one made now has the seconds that it took."""
        key = _key(job, model)

        def make(staged: Path) -> Made:
            return self._built(job, model, staged, cold=self._stage.conditions.cold)

        obtained = self._stage.obtain(job.label, "engine", key, make)
        self._stage.unchanged(job, "engine")
        return obtained

    def rebuilt(self, job: Job, model: Model, entry: Entry, folder: Path) -> Mapping[str, Any]:
        """Build an entry's engine once more, from its own timing cache alone, into `folder`; the
        record of that."""
        timings = entry.file(TIMINGS) if TIMINGS in entry.manifest.files else None
        return self._built(job, model, folder, timings=timings, cold=True).record

    def _built(
        self, job: Job, model: Model, staged: Path, *, timings: Path | None = None, cold: bool
    ) -> Made:
        stage = self._stage
        stage.room_for(job, 1, "this engine")
        with self.leased(job) as lease:
            started, clock = stage.conditions.now(), time.monotonic()
            stage.tell(Started(job.label, "building"))
            request: dict[str, Any] = {
                "op": "build",
                "model": model.path,
                "profiles": write_profiles(job.variant.profiles),
                "builder": job.builder,
                "target": document(job.variant.target),
                "engine": staged / ENGINE,
                "gpu": None,
            }
            if job.network is not None:
                request["network"] = {
                    "source": write_source(job.network),
                    "folder": job.folder,
                    "files": [str(each) for each in job.source],
                    "inputs": {each.name: each.dims for each in job.interface.inputs},
                }
            child = None
            if lease is None:
                child = self._spare.take(job.variant.target.toolchain.backend)
            else:
                request["gpu"] = lease.gpu.uuid
                request["timings"] = timings
                request["timings_out"] = staged / TIMINGS
                if not cold:
                    request["store"] = stage.store.root
                    request["shared_timings"] = _timings_of(job, lease)
            log = staged / _LOG
            output = stage.ask(job, "engine", request, log, child=child, lease=lease)
            seconds = round(time.monotonic() - clock, 3)
            engine = StoredFile(int(output.pop("size")), Digest(output.pop("sha256")))
            if (staged / ENGINE).stat().st_size != engine.size:
                raise StageFailed("engine", "the engine file is short")
            load = self._load_test(job, engine, staged, lease) if lease else _NOT_LOADED
            gpu = lease.record(stage.conditions.now()) if lease else None
        for word in ("set_aside", "rejected"):
            if (why := output["timing_cache"].get(word)) is not None:
                stage.tell(Noted(job.label, f"a timing cache was set aside: {why}"))
        stage.tell(Started(job.label, "publishing"))
        about = {
            "spec": job.variant.spec,
            "variant": job.variant.name,
            "target": job.variant.target.name,
            "precision": job.variant.precision.name,
            "source": job.called,
            "started": started.isoformat(timespec="seconds"),
            "seconds": seconds,
            "gpu": gpu,
            "load_test": load,
            **output,
        }
        return Made(record=stage.record(about), digests={ENGINE: engine})

    @contextlib.contextmanager
    def leased(self, job: Job) -> Iterator[Lease | None]:
        """A GPU of this build's own, where its backend builds on one."""
        if not job.gpus:
            yield None
            return
        with self._stage.gpus.lease(job.gpus, self._stage.waiting(job.label, "gpu")) as lease:
            yield lease

    def _load_test(
        self, job: Job, engine: StoredFile, staged: Path, lease: Lease
    ) -> Mapping[str, Any]:
        """What a fresh process says of the engine: one that does not load is not published."""
        self._stage.tell(Started(job.label, "loading"))
        with self._stage.session.staged() as scratch:
            request = {
                "op": "load-test",
                "engine": staged / ENGINE,
                "sha256": engine.sha256,
                "backend": job.variant.target.toolchain.backend,
                "recipe": document(job.key.engine),
                "plugins": [*job.plugins],
                "layers": scratch / LAYERS,
            }
            try:
                log = scratch / "load.log"
                found = self._stage.ask(job, "load", request, log, lease=lease)
            except StageFailed as failure:
                what = f"the engine was built, and does not load: {failure.error}"
                raise StageFailed("engine", what, failure.log) from failure
            if (scratch / LAYERS).exists():
                shutil.move(scratch / LAYERS, staged / LAYERS)
        return found


def _key(job: Job, model: Model) -> EngineKey:
    return job.key.engine_key(model.digest, model.external)


_NOT_LOADED = {"loaded": False, "why": "TensorRT-RTX builds for GPUs that are not there"}


def _timings_of(job: Job, lease: Lease) -> str:
    """The name of the timing cache that all builds on such a GPU with this toolchain share. Total
    memory is left out: drivers reserve different amounts of it."""
    gpu = {name: value for name, value in document(lease.gpu.gpu).items() if name != "memory"}
    return digest_value({"gpu": gpu, "toolchain": document(job.variant.target.toolchain)}).hex
