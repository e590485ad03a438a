"""Models of sources that are no plain ONNX file: downloaded or exported, and prepared, each step an
entry of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from engineforge.digest import Digest, document
from engineforge.plan.keys import PreparedKey
from engineforge.spec.sources import Framework, UrlFile, UrlSource, write_source
from engineforge.stages.sources import MODEL, exporters
from engineforge.store.local import Entry
from engineforge.store.manifest import Manifest
from engineforge.worker.entries import Made
from engineforge.worker.job import SourceJob, StageFailed, ToolMissing
from engineforge.worker.outcome import Moved, Noted, Started
from engineforge.worker.stage import Stage

SOURCE, PREPARED = "source", "prepared"
Fetch = Callable[[UrlFile, Path, Callable[[int, int], None]], None]
"""Puts a file from elsewhere at a path; EngineForgeError where it cannot."""

# Keras would read and write settings in the user's home; folded constants are not to depend on the
# kind of processor.
_ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}
_MEMORY = 2 << 30
"""What an exporter may take where nothing is known of it, in bytes."""


def prepared_key(job: SourceJob, digests: tuple[Digest, ...]) -> PreparedKey:
    """The key of preparing a model that is this by content."""
    if job.prepare is None:
        raise RuntimeError("what is not prepared has no key for that")
    return PreparedKey(
        preparing=exporters.PREPARING,
        model=digests[0],
        external=digests[1:],
        prepare=job.prepare,
        outputs=tuple(job.prepare.outputs),
        versions=exporters.versions_to_prepare(job.prepare),
    )


def digests_in(manifest: Manifest) -> tuple[Digest, ...]:
    """The model of such an entry by content, its external data after it."""
    files = manifest.files
    others = sorted(name for name in files if name not in (MODEL, "export.log"))
    return tuple(files[name].sha256 for name in (MODEL, *others))


class Obtaining:
    """For all threads of a run; StageFailed says what failed, ToolMissing what is not installed."""

    def __init__(self, stage: Stage, fetch: Fetch) -> None:
        self._stage, self._fetch = stage, fetch

    def obtain(self, job: SourceJob) -> Entry:
        """The entry of the model that the spec is planned with."""
        entry, model = None, job.model
        digests = tuple(digest for digest, _ in job.files.values())
        if job.key is not None:
            entry = self._source(job)
            model, digests = entry.file(MODEL), digests_in(entry.manifest)
        if job.prepare is not None and model is not None:
            entry = self._prepared(job, model, digests)
        if entry is None:
            raise RuntimeError("a plain ONNX file has not to be obtained")
        return entry

    def _source(self, job: SourceJob) -> Entry:
        if isinstance(job.source, UrlSource):
            return self._stage.obtain(
                job.label, SOURCE, job.key, self._download(job, job.source)
            ).entry

        source = job.source
        if not isinstance(source, Framework):
            raise RuntimeError(f"the {job.called} is not exported")

        def make(staged: Path) -> Made:
            if (why := exporters.missing(source)) is not None:
                raise ToolMissing(why)
            self._stage.tell(Started(job.label, "exporting"))
            started = self._stage.conditions.now()
            request = {
                "op": "export",
                "source": write_source(source),
                "folder": job.folder,
                "files": [str(each) for each in job.files],
                "inputs": {name: document(each) for name, each in job.inputs.items()},
            }
            self._ask(job, request, staged, SOURCE)
            return self._made(job, {"started": started.isoformat(timespec="seconds")})

        return self._stage.obtain(job.label, SOURCE, job.key, make).entry

    def _download(self, job: SourceJob, source: UrlSource) -> Callable[[Path], Made]:
        def make(staged: Path) -> Made:
            self._stage.tell(Started(job.label, "downloading"))
            wanted = {MODEL: source.model, **{each.name: each for each in source.external}}
            for name, file in wanted.items():
                self._fetch(file, staged / name, self._told(job))
            self._must_be_sound(job, source, staged / MODEL)
            return self._made(job, {"from": [each.shown for each in wanted.values()]})

        return make

    def _told(self, job: SourceJob) -> Callable[[int, int], None]:
        began, most = time.monotonic(), self._stage.conditions.timeout

        def told(done: int, total: int) -> None:
            self._stage.running.go_on()
            if most is not None and time.monotonic() - began > most:
                raise StageFailed(SOURCE, f"the download took more than {most:g} s; it is resumed")
            self._stage.tell(Moved(job.label, "downloading", done, total))

        return told

    def _must_be_sound(self, job: SourceJob, source: UrlSource, model: Path) -> None:
        """What is behind a link may be a page about the file."""
        with self._stage.session.staged() as scratch:
            request = {"op": "inspect", "model": model}
            try:
                self._stage.ask_about(
                    f"inspect {job.label}", SOURCE, request, scratch / "inspect.log", memory=_MEMORY
                )
            except StageFailed as failure:
                said = failure.error.partition("\nhint:")[0].replace(f"'{MODEL}'", "it")
                raise StageFailed(
                    SOURCE,
                    f"'{source.model.shown}' is no sound ONNX model: {said}\n"
                    "hint: link to the file itself, such as hf://org/repo/path, not to a page "
                    "about it",
                    failure.log,
                ) from failure

    def _prepared(self, job: SourceJob, model: Path, digests: tuple[Digest, ...]) -> Entry:
        prepare = job.prepare

        def make(staged: Path) -> Made:
            if prepare is not None and (why := exporters.missing_to_prepare(prepare)) is not None:
                raise ToolMissing(why)
            self._stage.tell(Started(job.label, "preparing"))
            request = {"op": "prepare", "model": model, "prepare": document(prepare)}
            self._ask(job, request, staged, PREPARED)
            return self._made(job, {})

        return self._stage.obtain(job.label, PREPARED, prepared_key(job, digests), make).entry

    def _ask(self, job: SourceJob, request: Mapping[str, object], staged: Path, stage: str) -> None:
        log = staged / "export.log"
        name = f"{request['op']} {job.label}"
        with self._stage.session.staged() as scratch:
            most = self._stage.conditions.memory
            asked = {
                **request,
                "called": job.called,
                "out": staged,
                "scratch": scratch,
                "memory": most,
            }
            more = {**_ENVIRONMENT, "KERAS_HOME": str(scratch.absolute())}
            try:
                answer = self._stage.ask_about(name, stage, asked, log, memory=_MEMORY, more=more)
            finally:
                for path, (_, stat) in job.files.items():
                    self._stage.must_be(path, stat, stage)
        for note in answer["notes"]:
            self._stage.tell(Noted(job.label, note))

    def _made(self, job: SourceJob, more: Mapping[str, object]) -> Made:
        versions = exporters.installed(job.source, job.prepare)
        return Made(record=self._stage.record({"source": job.called, "versions": versions, **more}))
