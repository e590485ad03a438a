"""The store in a folder: immutable entries by stage and key, and plan records.

A reader sees a whole entry or none. What is broken is moved to `quarantine/`, said, and a miss.
What nobody needs is moved to `trash/`, and taken back from there when it is needed again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engineforge.digest import Digest, digest_file, digest_value
from engineforge.errors import HostUnfit, StoreCorrupt
from engineforge.store import disk, files, gate
from engineforge.store.file_system import FileSystem, file_system
from engineforge.store.known import ENTRIES, PLANS
from engineforge.store.manifest import BadManifest, Manifest, PlanRecord, StoredFile
from engineforge.store.uses import Notes, Ref, host_of, is_over, session_name, touch

MANIFEST = "manifest.json"
ENGINE = "model.engine"
"""In every entry, and in one of the stage `engine`."""

_HALF_WRITTEN_SECONDS = 86_400
# https://bford.info/cachedir/
_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# This folder is EngineForge's cache.\n"


Identity = tuple[int, int, int]
"""Device, inode and ctime_ns: an inode's number is used again when it is free. Of an entry, the
ctime is its manifest's: the folder's changes when the entry is used."""


@dataclass(frozen=True, slots=True)
class Entry:
    path: Path
    manifest: Manifest
    folder: Identity
    """Of the folder that was read: another may take its name."""

    def file(self, name: str) -> Path:
        return self.path / name


@dataclass(frozen=True, slots=True)
class Fault:
    """Something broken in the store, and where it was moved to."""

    what: str
    moved_to: Path | None

    def __str__(self) -> str:
        return f"{self.what}; moved to '{self.moved_to}'" if self.moved_to else self.what


def plan_path(root: Path, key: str) -> Path:
    """Where the record of a plan stands, by the digits of its key."""
    return Path(f"{root}/{PLANS}/{key[:2]}/{key}.json")


class LocalStore:
    """`said` is told of every fault at once, and `faults` keeps them."""

    def __init__(self, root: Path, said: Callable[[str], None] = lambda _: None) -> None:
        self.root = root
        self.faults: list[Fault] = []
        self._said = said
        self._file_system: FileSystem | None = None

    @property
    def file_system(self) -> FileSystem:
        """That of a store that was created; looked at once."""
        if self._file_system is None:
            self._file_system = file_system(self.root)
        return self._file_system

    def create(self) -> None:
        """Make the folder and its tag; HostUnfit where it cannot be written."""
        with self.writing():
            files.make_folder(self.root / "staging")
            if not (tag := self.root / "CACHEDIR.TAG").exists():
                files.replace(tag, _TAG, self.root / "staging")

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """What fails meanwhile is this cache's disk: HostUnfit."""
        try:
            yield
        except OSError as error:
            raise HostUnfit(
                f"the cache '{self.root}' cannot be written: {error.strerror}",
                hint="give another one with --cache, or make room",
            ) from error

    def entry_path(self, stage: str, key: Digest) -> Path:
        return Ref(stage, key).path(self.root)

    def plan_path(self, key: Digest) -> Path:
        return plan_path(self.root, key.hex)

    def get(self, stage: str, key: Digest) -> Entry | None:
        """The entry if it is there whole: manifest sound, files present and of their sizes."""
        path = self.entry_path(stage, key)
        folder = _identity(path)
        if folder is None:
            return None
        what = f"{stage} entry {key.short} is corrupt"
        try:
            manifest = Manifest.of_entry(stage, key, (path / MANIFEST).read_bytes())
            for name, file in manifest.files.items():
                size = (path / name).stat().st_size
                if size != file.size:
                    raise BadManifest(f"'{name}' has {size} bytes, expected {file.size}")
        except BadManifest as error:
            self._aside(path, folder, f"{what}: {error}")
            return None
        except OSError as error:
            name = Path(error.filename).name
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                self._aside(path, folder, f"{what}: '{name}' is missing")
            elif isinstance(error, IsADirectoryError):
                self._aside(path, folder, f"{what}: '{name}' is no file")
            else:
                raise StoreCorrupt(
                    f"'{error.filename}' cannot be read: {error.strerror}"
                ) from error
            return None
        return Entry(path, manifest, folder)

    def broken_files(self, entry: Entry) -> list[str]:
        """Every file of an entry hashed again: what does not match its manifest."""
        broken = []
        for name, file in entry.manifest.files.items():
            try:
                found = digest_file(entry.file(name))
            except OSError as error:
                broken.append(f"'{name}' cannot be read: {error.strerror}")
                continue
            if found != file.sha256:
                broken.append(f"'{name}' is {found.short}…, expected {file.sha256.short}…")
        return broken

    def quarantine(self, entry: Entry, why: str) -> None:
        """Move a broken entry out of the way, so that it is a miss from now on."""
        key = entry.manifest.key.short
        what = f"{entry.manifest.stage} entry {key} is corrupt: {why}"
        self._aside(entry.path, entry.folder, what)

    def quarantine_file(self, path: Path, what: str) -> None:
        """The same for a file that is no entry's."""
        self._aside(path, _identity(path), what)

    def _aside(self, path: Path, judged: Identity | None, what: str) -> None:
        quarantine = self.root / "quarantine"
        moved = None
        with contextlib.suppress(FileNotFoundError):
            try:
                files.make_folder(quarantine)
                if _identity(path) != judged:
                    return  # another process was here first, and put a sound one in its place
                moved = files.move_aside(path, quarantine)
                if not _is_same(moved, judged):  # it was so just now, after all
                    files.put_back(moved, path)
                    return
            except FileNotFoundError:
                raise
            except OSError as error:
                what += f" (and cannot be moved: {error.strerror})"
        fault = Fault(what, moved)
        self.faults.append(fault)
        self._said(str(fault))

    def plan_record(self, key: Digest) -> PlanRecord | None:
        """What a plan led to, if it was carried out here."""
        path = self.plan_path(key)
        judged = _identity(path)
        try:
            return PlanRecord.of_plan(key, path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except BadManifest as error:
            self._aside(path, judged, f"plan record {key.short} is corrupt: {error}")
            return None

    def plan_records(self, digits: str) -> Iterator[PlanRecord]:
        """Every plan record whose key begins with these hexadecimal digits."""
        for path in sorted((self.root / PLANS).glob(f"??/{digits}*.json")):
            try:
                key = Digest(f"sha256:{path.stem}")
            except ValueError:
                continue
            if (record := self.plan_record(key)) is not None:
                yield record

    def put_record(self, record: PlanRecord, staging: Path) -> None:
        """Publish what a plan led to; last, when its entries are published. StoreCorrupt where one
        of them is gone: a record never points to nothing."""
        path = self.plan_path(record.key)
        files.make_folder(path.parent)
        # A collection that has not seen this record must see that its entries are used.
        with gate.using(self.root):
            for stage, key in record.entries.items():
                if not touch(folder := self.entry_path(stage, key)) and not folder.is_dir():
                    raise StoreCorrupt(
                        f"the {stage} entry {key.short} is gone, which this plan led to",
                        hint="run again",
                    )
                files.sync_name(folder)  # its publisher may have been killed before it did that
            files.replace(path, record.to_bytes(), staging)

    def publish(
        self,
        staged: Path,
        *,
        stage: str,
        key_document: Mapping[str, object],
        digests: Mapping[str, StoredFile],
        record: Mapping[str, object],
    ) -> tuple[Entry, bool]:
        """The entry of this key, and whether it is the staged folder: one that is there already
        wins, and StoreCorrupt is raised where that is broken and cannot be moved. `digests` are of
        files hashed while they were written; the others are hashed here."""
        stored = dict(digests)
        for file in staged.iterdir():
            if file.name not in stored:
                stored[file.name] = StoredFile(file.stat().st_size, digest_file(file))
        key = digest_value(key_document)
        manifest = Manifest(
            stage=stage, key=key, key_document=key_document, files=stored, record=record
        )
        files.write_new(staged / MANIFEST, manifest.to_bytes())
        files.seal_folder(staged)
        final = self.entry_path(stage, key)
        folder = _identity_of(staged)  # to which its name makes no difference
        for _ in range(2):
            if files.publish_folder(staged, final):
                return Entry(final, manifest, folder), True
            with gate.using(self.root):
                touch(final)  # or it might be collected when it has just been adopted
            # Where that one is broken, this moves it aside.
            if (first := self.get(stage, key)) is not None:
                files.remove_folder(staged)
                return first, False
        raise StoreCorrupt(f"'{final}' is corrupt, and cannot be replaced", hint="remove it")

    def adopt(self, staged: Path, manifest: Manifest) -> tuple[Entry, bool]:
        """`publish` for an entry that was made elsewhere, its files verified already."""
        return self.publish(
            staged,
            stage=manifest.stage,
            key_document=manifest.key_document,
            digests=manifest.files,
            record=manifest.record,
        )

    def take_back(self, stage: str, key: Digest) -> bool:
        """Move an entry that was collected out of the trash; whether there was one."""
        ref = Ref(stage, key)
        trash = ref.trash(self.root)
        if not trash.is_dir():
            return False
        with gate.using(self.root):
            touch(trash)  # beforehand: it is never seen in its place as one that nobody uses
            try:
                return files.publish_folder(trash, ref.path(self.root))
            except FileNotFoundError:  # removed for good, or taken back by another process
                return False

    def entries(self, stage: str) -> Iterator[Entry]:
        """Every entry of a stage, by key. Broken ones are quarantined on the way."""
        for path in sorted((self.root / ENTRIES / stage).glob("??/*")):
            try:
                key = Digest(f"sha256:{path.name}")
            except ValueError:
                continue
            if (entry := self.get(stage, key)) is not None:
                yield entry

    def stages(self) -> list[str]:
        folder = self.root / ENTRIES
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Work in progress of this process, gone when it ends; that of dead ones goes first."""
        self.create()
        if self._file_system is None and self.file_system.note:
            self._said(f"note: {self.file_system.note}")
        name = session_name()
        folder = self.root / "staging" / name
        with contextlib.ExitStack() as stack:
            with self.writing():
                lock = folder.with_name(f"{name}.lock")
                if not stack.enter_context(files.lock(lock, name)):
                    # Without locks its file would stay, and say that this session lives.
                    stack.callback(_unlink, lock)
                began = lock.stat().st_mtime
                self._sweep(began, own=lock)
                disk.mkdir(folder)
            stack.callback(files.remove_folder, folder)
            session = Session(self.root, folder, began)
            stack.callback(session.end)
            yield session

    def _sweep(self, now: float, own: Path) -> None:
        """Remove the staging folders of processes that are gone, and half-written files; `now` by
        the clock of their file system."""
        for path in (self.root / "staging").iterdir():
            if path == own:
                continue  # where locks exclude nobody, it could be had
            if path.suffix == ".lock":
                reliable = self.file_system.locks == "reliable"
                if (handle := is_over(path, reliable=reliable, now=now)) is not None:
                    folder = path.with_suffix("")
                    files.remove_folder(folder)
                    # A child that outlives its process for a moment may still write there: then
                    # the lock stays, as the name by which the next session finds the folder.
                    if not folder.exists():
                        _unlink(path)
                    os.close(handle)
            elif not path.is_dir():
                files.remove_old(path, now - _HALF_WRITTEN_SECONDS)
            elif host_of(path.name) and not path.with_name(f"{path.name}.lock").exists():
                # A power cut kept the folder and lost the lock, or a disk refused to remove it. A
                # session has its lock from before it makes the folder until it has removed it.
                files.remove_folder(path)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone already, or another user's in a sticky folder
        disk.unlink(path)


def _identity(path: Path) -> Identity | None:
    try:
        return _identity_of(path)
    except OSError:
        return None


def _identity_of(path: Path) -> Identity:
    found = changed = path.stat()
    if stat.S_ISDIR(found.st_mode):
        with contextlib.suppress(OSError):
            changed = (path / MANIFEST).stat()
    return found.st_dev, found.st_ino, changed.st_ctime_ns


def _is_same(moved: Path, judged: Identity | None) -> bool:
    """Whether what was moved is what was judged. What is moved has another ctime, but not the
    manifest in it."""
    found = _identity(moved)
    if found is None or judged is None or (moved / MANIFEST).exists():
        return found == judged
    return found[:2] == judged[:2]


class Session:
    """One process's share of `staging/`, the entries that it relies on, and the locks that it
    takes on keys. `began` is in seconds, by the clock of the file system."""

    def __init__(self, root: Path, folder: Path, began: float) -> None:
        self.folder, self.began = folder, began
        self._locks = root / "staging" / "locks"
        self._notes = Notes(root, folder)

    def uses(self, stage: str, key: Digest) -> bool:
        """Rely on an entry until the session ends: no collection takes it from now on. To be
        called before one looks for it; whether there is one."""
        return self._notes.add(Ref(stage, key))

    def end(self) -> None:
        self._notes.end()

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """A new folder to fill and publish; what is left of it is removed."""
        folder = self.folder / secrets.token_hex(8)
        disk.mkdir(folder)
        try:
            yield folder
        finally:
            files.remove_folder(folder)

    @contextlib.contextmanager
    def building(
        self, stage: str, key: Digest, since: str, waiting: Callable[[str], None]
    ) -> Iterator[None]:
        """One builder per key: others wait here, and are told for whom."""
        holder = f"PID {os.getpid()} on {socket.gethostname()} since {since}"
        with files.lock(self._locks / f"{stage}-{key.hex}.lock", holder, waiting):
            yield

    @contextlib.contextmanager
    def leasing(
        self, names: Sequence[str], holder: str, waiting: Callable[[str], None]
    ) -> Iterator[int]:
        """One lease at a time for each name: gives the index of the first that is free, when one
        is; `waiting` is told for whom is waited. HostUnfit where the file system has no locks."""
        paths = [self._locks / f"lease-{name}.lock" for name in names]
        with files.lock_any(paths, holder, waiting) as index:
            if index is None:
                raise HostUnfit(
                    f"the file system of '{self._locks}' has no locks, and a GPU cannot be leased",
                    hint="put the cache on one that has: most have, and NFS with its lock service",
                )
            yield index
