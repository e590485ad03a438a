"""A store that machines share: entries and plan records in a bucket, a folder or behind an HTTP
server. Blobs first, manifests and records last; the first one wins, and what is broken is moved to
`quarantine/` there, said, and a miss."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context
from pathlib import Path
from typing import TypeVar

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import StoreCorrupt, UsageError
from engineforge.store import disk, files
from engineforge.store.far import layout
from engineforge.store.far.objects import Found, Objects, RemoteUnavailable, Version
from engineforge.store.far.places import objects_at
from engineforge.store.far.transfer import (
    Counter,
    Mismatch,
    Progress,
    Stopped,
    downloaded,
    forget_old,
    verified,
)
from engineforge.store.local import Entry, LocalStore
from engineforge.store.manifest import BadManifest, Manifest, PlanRecord, StoredFile

T = TypeVar("T")
_AT_ONCE = 4
_TRIES = 8
# What stands where something broken was taken out. Nothing is ever deleted: a delete could hit what
# another machine has put there since, and a swap cannot.
_TAKEN_OUT = b""


class RemoteCorrupt(StoreCorrupt):
    """An entry of the remote store is not whole. That was said, and it was moved aside: a miss."""


class Remote:
    """For all threads of a process. `said` is told of everything broken at once."""

    def __init__(self, objects: Objects, said: Callable[[str], None] = lambda _: None) -> None:
        self._objects = objects
        self._said = said

    @classmethod
    def open(
        cls,
        url: str,
        *,
        environment: Mapping[str, str],
        said: Callable[[str], None] = lambda _: None,
    ) -> Remote:
        """The store at a URL or path, as `objects_at` reads it; nothing is asked of it yet."""
        return cls(objects_at(url, environment=environment), said)

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        return self._objects.url

    @property
    def read_only(self) -> bool:
        return self._objects.read_only

    def record(self, key: Digest) -> PlanRecord | None:
        """What a plan led to, if its record is there and sound."""
        return self._record(key)[0]

    def _record(self, key: Digest) -> tuple[PlanRecord | None, Found | None]:
        return self._sound(
            layout.plan_path(key),
            lambda data: PlanRecord.of_plan(key, data),
            f"plan record {key.short}",
        )

    def manifest(self, stage: str, key: Digest) -> Manifest | None:
        """What an entry is, if its manifest is there and sound. Its files are another matter."""
        return self._manifest(stage, key)[0]

    def _manifest(self, stage: str, key: Digest) -> tuple[Manifest | None, Found | None]:
        return self._sound(
            layout.entry_path(stage, key),
            lambda data: Manifest.of_entry(stage, key, data),
            f"{stage} entry {key.short}",
        )

    def _sound(
        self, path: str, parsed: Callable[[bytes], T], what: str
    ) -> tuple[T | None, Found | None]:
        """What is at a path, and what stands there now."""
        suspect: Found | None = None
        for _ in range(_TRIES):
            found = self._objects.read(path)
            if found is None or found.data == _TAKEN_OUT:
                return None, found
            try:
                return parsed(found.data), found
            except BadManifest as error:
                if found != suspect:  # it may have happened on the way: judged when it comes again
                    suspect = found
                    continue
                told = f"{what} in '{self.url}' is corrupt: {error}"
                if not self._aside(path, found.version, digest_bytes(found.data), told):
                    return None, found
        raise self._busy(path)

    def _aside(self, path: str, version: Version, digest: Digest, what: str) -> bool:
        """Take out what was judged, unless another stands there by now; whether it was taken out
        by anyone."""
        if self._objects.read_only:
            self._said(what)
            return False
        to = layout.quarantine_path(path, digest)
        kept = f"; moved to '{to}' there"
        try:
            try:
                self._objects.copy(path, to)
            except FileNotFoundError:
                return True
            except RemoteUnavailable as error:  # as S3 does above 5 GB
                kept = f" (and cannot be kept: {error.args[0]})"
            if self._objects.swap(path, _TAKEN_OUT, version):
                self._said(what + kept)
        except RemoteUnavailable as error:
            self._said(f"{what} (and cannot be moved: {error.args[0]})")
            return False
        return True

    def fetch(
        self, manifest: Manifest, folder: Path, partial: Path, progress: Progress | None = None
    ) -> None:
        """Put every file of an entry into `folder`, each byte verified, none fsynced (publishing
        does that). What came before a connection broke waits in `partial`, which must be on the
        same file system, and is gone on with. RemoteCorrupt where a blob is not there or not what
        the manifest says; OSError where this disk is full."""
        names: dict[StoredFile, list[str]] = {}
        for name, file in manifest.files.items():
            names.setdefault(file, []).append(name)
        counter = Counter(sum(file.size for file in names), progress)

        def one(file: StoredFile) -> None:
            first, *others = names[file]
            with self._blob(manifest, file, partial, counter) as path:
                disk.rename(path, folder / first)
            for name in others:
                files.copy(folder / first, folder / name)

        self._all(one, list(names), counter)
        forget_old(partial)

    @contextlib.contextmanager
    def _blob(
        self, manifest: Manifest, file: StoredFile, partial: Path, counter: Counter
    ) -> Iterator[Path]:
        """The file that a blob of an entry has become here."""
        path = layout.blob_path(file.sha256)
        # Asked before it is read: what is put there meanwhile is not what is judged.
        stat = self._objects.stat(path)
        name = f"the file {file.sha256.short} of the {manifest.stage} entry {manifest.key.short}"
        if stat is None or stat.size != file.size:
            if stat is None or not stat.size:
                raise self._broken(manifest, f"{name} is missing")
            what = f"{name} has {stat.size} bytes, expected {file.size}"
            self._aside(path, stat.version, file.sha256, f"{what}, in '{self.url}'")
            raise self._broken(manifest, what)
        try:
            with downloaded(self._objects, path, file, partial, counter.add) as there:
                yield there
        except Mismatch as error:
            what = f"{name} is not what it was: {error}"
            self._aside(path, stat.version, error.digest, f"{what}, in '{self.url}'")
            raise self._broken(manifest, what) from error
        except FileNotFoundError as error:
            raise self._broken(manifest, f"{name} is missing") from error

    def _broken(self, manifest: Manifest, why: str) -> RemoteCorrupt:
        """Take an entry out whose files are not what it says, so that another may take its place:
        the error to raise."""
        path = layout.entry_path(manifest.stage, manifest.key)
        what = f"{manifest.stage} entry {manifest.key.short} in '{self.url}' is corrupt: {why}"
        found = self._objects.read(path)
        if found is not None and found.data == manifest.to_bytes():
            self._aside(path, found.version, digest_bytes(found.data), what)
        return RemoteCorrupt(what, hint="it is built again")

    def push(self, entry: Entry, progress: Progress | None = None) -> Manifest:
        """Give an entry, and have back the manifest that stands there: this one, or that of whoever
        was first. StoreCorrupt where a file is not what the manifest says: it is not given away."""
        self._writable()
        ours = entry.manifest
        path = layout.entry_path(ours.stage, ours.key)
        for _ in range(_TRIES):
            theirs, found = self._manifest(ours.stage, ours.key)
            wanted = theirs or ours
            lacking = self._lacking(wanted)
            have = {file: name for name, file in ours.files.items()}
            if theirs is not None and any(file not in have for file in lacking):
                self._broken(theirs, "a file of it is missing")
                continue
            self._give(entry, {file: have[file] for file in lacking}, progress)
            if theirs is not None:
                self._objects.settle(path)
                return theirs
            if self._stands(path, ours.to_bytes(), found):
                return ours
        raise self._busy(path)

    def _stands(self, path: str, data: bytes, found: Found | None) -> bool:
        """Whether it could be put there, where this was found before."""
        if found is None:
            return self._objects.create(path, data)
        return self._objects.swap(path, data, found.version)

    def _lacking(self, manifest: Manifest) -> list[StoredFile]:
        """Which files of an entry are not there with their size; the others will stay there."""
        wanted = list(dict.fromkeys(manifest.files.values()))

        def there(file: StoredFile) -> bool:
            path = layout.blob_path(file.sha256)
            stat = self._objects.stat(path)
            if stat is None or stat.size != file.size:
                return False
            self._objects.settle(path)
            return True

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="remote") as pool:
            asked = [pool.submit(copy_context().run, there, file) for file in wanted]
        return [file for file, each in zip(wanted, asked, strict=True) if not each.result()]

    def _give(
        self, entry: Entry, names: Mapping[StoredFile, str], progress: Progress | None
    ) -> None:
        counter = Counter(sum(file.size for file in names), progress)

        def one(file: StoredFile) -> None:
            # Closed by name: what an upload raises would keep it, and its thread, alive.
            with contextlib.closing(verified(entry.file(names[file]), file, counter.add)) as chunks:
                self._objects.upload(layout.blob_path(file.sha256), chunks, file.size)

        self._all(one, list(names), counter)

    def _all(
        self, one: Callable[[StoredFile], None], of: Sequence[StoredFile], counter: Counter
    ) -> None:
        """Several at once, the largest first; the first failure ends the others and is raised."""
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="remote")
        try:
            largest = sorted(of, key=lambda file: file.size, reverse=True)
            # In a copy of the context: who watches the disk is told of what these threads do.
            running = [pool.submit(copy_context().run, one, file) for file in largest]
            finished, _ = wait(running, return_when=FIRST_EXCEPTION)
            if any(each.exception() for each in finished):
                counter.stop()
            failed = [error for each in running if (error := each.exception()) is not None]
        except BaseException:
            counter.stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        for error in sorted(failed, key=lambda error: isinstance(error, Stopped)):
            raise error

    def put_record(self, record: PlanRecord) -> PlanRecord:
        """Put what a plan led to, after its entries, and have back what stands there: the first one
        wins, unless it names entries that are not there."""
        self._writable()
        path = layout.plan_path(record.key)
        for _ in range(_TRIES):
            theirs, found = self._record(record.key)
            if theirs is not None and (theirs == record or self._holds(theirs)):
                self._objects.settle(path)
                return theirs
            if self._stands(path, record.to_bytes(), found):
                return record
        raise self._busy(path)

    def _holds(self, record: PlanRecord) -> bool:
        return all(self.manifest(stage, key) for stage, key in record.entries.items())

    def push_record(
        self, store: LocalStore, record: PlanRecord, progress: Progress | None = None
    ) -> PlanRecord:
        """Give all that a plan led to: its entries, then its record; the record that stands there.
        StoreCorrupt where an entry is not here whole."""
        entries = []
        for stage, key in record.entries.items():
            if (entry := store.get(stage, key)) is None:
                raise StoreCorrupt(f"the {stage} entry {key.short} of a plan is not in the cache")
            entries.append(entry)
        total = sum(sum(f.size for f in entry.manifest.files.values()) for entry in entries)
        before = 0
        for entry in entries:
            base = before

            def moved(done: int, _total: int, base: int = base) -> None:
                if progress is not None:
                    progress(base + done, total)

            self.push(entry, moved)
            before += sum(file.size for file in entry.manifest.files.values())
            moved(before - base, total)
        return self.put_record(record)

    def last(self, label: str) -> Digest | None:
        """The plan that a variant last led to anywhere: a hint, and no promise."""
        found = self._objects.read(layout.last_path(label))
        try:
            return None if found is None else Digest(json.loads(found.data)["plan"])
        except (ValueError, TypeError, KeyError, RecursionError):
            return None

    def put_last(self, label: str, plan: Digest) -> None:
        self._writable()
        text = json.dumps({"label": label, "plan": plan}, ensure_ascii=False)
        self._objects.put(layout.last_path(label), text.encode())

    def _writable(self) -> None:
        if self._objects.read_only:
            raise UsageError(
                f"'{self.url}' is read over HTTP, and nothing can be put there",
                hint="push to the bucket or folder behind it, or not at all: --push never",
            )

    def _busy(self, path: str) -> RemoteUnavailable:
        return RemoteUnavailable(
            f"'{path}' in '{self.url}' is written by others all the time",
            hint="try again",
        )
