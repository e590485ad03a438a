"""The files that a build needs on another machine: an entry of the remote store, packed from where
they lie and addressed by content."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from engineforge.digest import Digest, digest_file, digest_value
from engineforge.store.local import Entry, Session
from engineforge.store.manifest import Manifest, StoredFile
from engineforge.store.stats import stat_of
from engineforge.worker.chain import Model
from engineforge.worker.job import Files, Job, StageFailed

PARCEL = "parcel"
"""The stage of such entries."""

_FORMAT = 1
_MODEL, _NETWORK, _LIBRARIES = "model", "network", "libraries"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """Which entry it is. `model` is the model's file in it, or that of a network's function;
    `source` are the files of that function in their order, `libraries` the names of plugins by the
    path that the job has for each."""

    key: Digest
    model: str
    source: tuple[str, ...] = ()
    libraries: Mapping[str, str]


class Packing:
    """For all threads of a run; `give` puts an entry into the remote store."""

    def __init__(self, session: Session, give: Callable[[Entry, str], None]) -> None:
        self._session, self._give = session, give
        self._given: dict[Digest, threading.Lock] = {}
        self._there: set[Digest] = set()
        self._lock = threading.Lock()

    def packed(self, job: Job, model: Model) -> Parcel:
        """The parcel of a job, in the remote store; StageFailed where something cannot be sent."""
        files = dict(_of_network(job) if job.network is not None else _of_model(model))
        source = tuple(files) if job.network is not None else ()
        libraries = {
            str(path): f"{_LIBRARIES}/{number}/{path.name}"
            for number, path in enumerate(job.libraries)
        }
        files |= {name: Path(path) for path, name in libraries.items()}
        known = {path.resolve(): each for path, each in {**job.source, **job.libraries}.items()}
        stored = {name: _stored(path.resolve(), known) for name, path in files.items()}
        document = {
            "format": _FORMAT,
            "files": {name: file.sha256 for name, file in stored.items()},
        }
        key = digest_value(document)
        manifest = Manifest(
            stage=PARCEL,
            key=key,
            key_document=document,
            files={file.sha256.hex: file for file in stored.values()},
            record={"label": job.label},  # the first of those that need it
        )
        self._send(manifest, {stored[name].sha256.hex: path for name, path in files.items()}, job)
        main = job.model if job.network is not None else model.path
        within = next(name for name, path in files.items() if path == main)
        return Parcel(key=key, model=within, source=source, libraries=libraries)

    def _send(self, manifest: Manifest, files: Mapping[str, Path], job: Job) -> None:
        """Once for all variants that need the same files."""
        with self._lock:
            one = self._given.setdefault(manifest.key, threading.Lock())
        with one:
            if manifest.key in self._there:
                return
            with self._session.staged() as staged:
                for name, path in files.items():
                    (staged / name).symlink_to(path.resolve())
                self._give(Entry(staged, manifest, (0, 0, 0)), job.label)
            self._there.add(manifest.key)


def _stored(path: Path, known: Files) -> StoredFile:
    # What is hashed here is no file of the job: a bound model, or one that another variant had
    # first. Either is hashed again on its way out.
    if (found := known.get(path)) is not None:
        return StoredFile(found[1][2], found[0])
    return StoredFile(path.stat().st_size, digest_file(path))


def _of_model(model: Model) -> Mapping[str, Path]:
    """A model that a parser can load lies in a folder of its own, with nothing but its weights."""
    beside = sorted(path for path in model.path.parent.iterdir() if _is_of_model(path))
    return {f"{_MODEL}/{path.name}": path for path in beside}


def _is_of_model(path: Path) -> bool:
    return path.name.startswith(("model.onnx", "weights"))


def _of_network(job: Job) -> Mapping[str, Path]:
    found = {}
    for path in job.source:
        within = os.path.relpath(path, job.folder)
        if within.startswith(os.pardir):
            raise StageFailed(
                "engine",
                f"'{within}' lies outside the folder of its spec, and cannot be sent to a node",
            )
        found[f"{_NETWORK}/{PurePosixPath(within)}"] = path
    return found


def unpacked(entry: Entry, parcel: Parcel, job: Job, folder: Path) -> tuple[Job, Path]:
    """The job with the files of a parcel, laid out in an empty folder, and the model's path."""
    # A link made or removed by another order of this node gives all of them another stat.
    watched = {*parcel.source, *parcel.libraries.values()}
    for name, digest in entry.manifest.key_document["files"].items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise StageFailed("engine", f"the parcel {parcel.key.short} has a file '{name}'")
        path.parent.mkdir(parents=True, exist_ok=True)
        _lay(entry.file(Digest(digest).hex), path, linked=name not in watched)
    moved = {path: str(folder / name) for path, name in parcel.libraries.items()}
    return (
        replace(
            job,
            model=folder / parcel.model,
            folder=folder / _NETWORK,
            builder={option: _moved(value, moved) for option, value in job.builder.items()},
            source=_files(entry, parcel.source, folder),
            libraries=_files(entry, parcel.libraries.values(), folder),
        ),
        folder / parcel.model,
    )


def _lay(file: Path, path: Path, *, linked: bool) -> None:
    if linked:
        try:
            os.link(file, path)
        except OSError:  # a file system without links
            pass
        else:
            return
    shutil.copyfile(file, path)


def _moved(value: object, moved: Mapping[str, str]) -> object:
    if isinstance(value, list):
        return [moved.get(each, each) if isinstance(each, str) else each for each in value]
    return value


def _files(entry: Entry, names: Iterable[str], folder: Path) -> Files:
    digests = entry.manifest.key_document["files"]
    return {folder / name: (Digest(digests[name]), stat_of(folder / name)) for name in names}


def without_files(job: Job) -> Job:
    """A job as it is sent: its files are in the parcel, and its GPUs are of another host."""
    nothing: Files = {}
    return replace(
        job,
        made=(),
        source=nothing,
        libraries=nothing,
        calibrated_on=nothing,
        checked_on=nothing,
        check=None,
        gpus=(),
    )
