"""Entries and plan records as one file, for machines that no network joins: an uncompressed tar
with what a remote store would hold, manifests first, so that it is read once from start to end."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import stat
import tarfile
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from engineforge.digest import Digest
from engineforge.errors import StoreCorrupt, UsageError
from engineforge.store import disk, files
from engineforge.store.far import layout
from engineforge.store.far.objects import CHUNK
from engineforge.store.far.transfer import Counter, Progress
from engineforge.store.local import Entry, LocalStore, Session
from engineforge.store.manifest import BadManifest, Manifest, PlanRecord, StoredFile
from engineforge.store.uses import Ref

_LARGEST_DOCUMENT = 64 << 20
_LONGEST_NAME = 200


class BadArchive(StoreCorrupt):
    """The file is not what was exported; the message says which member is wrong. A file that could
    not be any archive, since it is a folder or cannot be read, is a UsageError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was written, or what was new here, and what was here already; `bytes` of files."""

    entries: int
    records: int
    bytes: int
    known: int = 0


def export(
    store: LocalStore,
    records: Sequence[PlanRecord],
    file: Path,
    *,
    progress: Progress | None = None,
) -> Counts:
    """Write these plan records with their entries to a file that is there whole or not at all. The
    same ones come to the same bytes. StoreCorrupt where an entry is missing or is not what its
    manifest says (then it is quarantined), UsageError where the file cannot be written."""
    wanted: dict[tuple[str, Digest], Entry] = {}
    for record in records:
        for stage, key in record.entries.items():
            if (stage, key) not in wanted:
                wanted[stage, key] = _present(store, stage, key)
    blobs: dict[StoredFile, tuple[Entry, str]] = {}
    documents: dict[str, bytes] = {}
    for (stage, key), entry in wanted.items():
        documents[layout.entry_path(stage, key)] = entry.manifest.to_bytes()
        for name, stored in entry.manifest.files.items():
            blobs.setdefault(stored, (entry, name))
    plans = {layout.plan_path(record.key): record.to_bytes() for record in records}
    total = sum(stored.size for stored in blobs)
    counter = Counter(total, progress)
    with (
        _written(file) as out,
        tarfile.TarFile(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, copybufsize=CHUNK) as tar,
    ):
        for path, data in (*sorted(documents.items()), *sorted(plans.items())):
            tar.addfile(_member(path, len(data)), io.BytesIO(data))
        for stored in sorted(blobs, key=lambda each: each.sha256):
            entry, name = blobs[stored]
            _add(store, tar, entry, name, counter)
    return Counts(entries=len(documents), records=len(plans), bytes=total)


def _present(store: LocalStore, stage: str, key: Digest) -> Entry:
    entry = store.get(stage, key)
    if entry is None:
        raise StoreCorrupt(
            f"the {stage} entry {key.short} of a plan is not in the cache",
            hint="build it again",
        )
    return entry


def _member(path: str, size: int) -> tarfile.TarInfo:
    # Neither times nor users: the same entries are the same archive, wherever it was made.
    member = tarfile.TarInfo(path)
    member.size = size
    return member


class _Hashing:
    """A reader for tarfile that hashes what it hands on."""

    def __init__(self, file: IO[bytes], counter: Counter) -> None:
        self.sha = hashlib.sha256()
        self._file, self._counter = file, counter

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.sha.update(data)
        self._counter.add(len(data))
        return data


def _add(
    store: LocalStore, tar: tarfile.TarFile, entry: Entry, name: str, counter: Counter
) -> None:
    stored, path = entry.manifest.files[name], entry.file(name)
    try:
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != stored.size:
                why = f"'{name}' has another size than its manifest says"
            else:
                reader = _Hashing(file, counter)
                member = _member(layout.blob_path(stored.sha256), stored.size)
                tar.addfile(member, cast("IO[bytes]", reader))
                if reader.sha.hexdigest() == stored.sha256.hex:
                    return
                why = f"'{name}' is not what its manifest says"
    except FileNotFoundError:
        why = f"'{name}' is missing"
    store.quarantine(entry, why)
    raise StoreCorrupt(
        f"the {entry.manifest.stage} entry {entry.manifest.key.short} is corrupt: {why}",
        hint="nothing was exported: build it again",
    )


class _Out:
    """A new file as tarfile writes one."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle
        self._at = 0

    def write(self, data: bytes) -> int:
        files.write_on(self._handle, self._path, data, self._at)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at


@contextlib.contextmanager
def _written(file: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is whole and on the disk."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    if file.exists() and not file.is_file():  # a device would be replaced
        raise UsageError(f"'{file}' is there, and no file", hint="give another path")
    try:
        handle = disk.create(temporary)
        try:
            yield cast("IO[bytes]", _Out(temporary, handle))
            disk.sync_file(handle, temporary)
        finally:
            os.close(handle)
        disk.rename(temporary, file)
        files.sync_folder(file.parent)
    except OSError as error:
        raise UsageError(
            f"'{file}' cannot be written: {error.strerror or error}",
            hint="give another path, or make room",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            disk.unlink(temporary)


@dataclass(slots=True)
class _Contents:
    """What an archive holds, as far as it was read."""

    manifests: dict[str, Manifest] = field(default_factory=dict)
    records: dict[str, PlanRecord] = field(default_factory=dict)
    blobs: dict[str, int] = field(default_factory=dict)
    """Sizes by path."""
    lacking: list[Manifest] | None = None
    """What this store did not have when the first blob was come to."""
    wanted: frozenset[Digest] = frozenset()

    def compare(self, store: LocalStore, session: Session) -> None:
        """Find out, once, what is to be published, and of which blobs."""
        if self.lacking is None:
            every = self.manifests.values()
            # Relied on before it is looked for: else a collection might take what is here.
            for each in every:
                session.uses(each.stage, each.key)
            self.lacking = [each for each in every if store.get(each.stage, each.key) is None]
            self.wanted = frozenset(
                stored.sha256 for each in self.lacking for stored in each.files.values()
            )


def import_(
    file: Path, store: LocalStore, session: Session, *, progress: Progress | None = None
) -> Counts:
    """Publish what an archive holds and this store lacks, entries before records, after every
    digest and seal of the archive was checked. BadArchive where anything is wrong with it, and
    UsageError where it is no file or cannot be read: then nothing was published. OSError where this
    disk is full."""
    contents = _Contents()
    with session.staged() as staged, _opened(file) as tar:
        size = file.stat().st_size
        for member in _members(tar):
            match layout.parse(member.name):
                case Ref(stage, key) if not contents.blobs:
                    data = _document(tar, member)
                    with _named(member):
                        contents.manifests[member.name] = Manifest.of_entry(stage, key, data)
                case layout.PlanName(key) if not contents.blobs:
                    data = _document(tar, member)
                    with _named(member):
                        contents.records[member.name] = PlanRecord.of_plan(key, data)
                case layout.Blob(digest):
                    contents.compare(store, session)
                    to = staged / digest.hex if digest in contents.wanted else None
                    _extract(tar, member, digest, to)
                    contents.blobs[member.name] = member.size
                case None:
                    raise BadArchive(f"{_shown(member)} does not belong in an archive of entries")
                case _:
                    raise BadArchive(f"{_shown(member)} is out of order")
            if progress is not None:
                progress(min(tar.offset, size), size)
        contents.compare(store, session)
        _complete(store, session, contents, file)
        return _publish(store, session, contents, staged)


def _shown(member: tarfile.TarInfo) -> str:
    """Its name, whatever is in it."""
    name = ascii(member.name)
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…'"


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        # Not waiting, as for somebody who writes into a pipe.
        handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise UsageError(f"there is no '{file}'") from error
    except OSError as error:
        raise UsageError(
            f"'{file}' cannot be read: {error.strerror}", hint="may this user read it?"
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UsageError(
                f"'{file}' is no file", hint="give one that `engineforge cache export` wrote"
            )
        with (
            open(handle, "rb", closefd=False) as opened,
            tarfile.TarFile(fileobj=opened) as tar,
        ):
            yield tar
    except tarfile.TarError as error:
        raise BadArchive(
            f"'{file}' is cut off, or no archive of entries: {error}",
            hint="copy it again",
        ) from error
    finally:
        os.close(handle)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    seen: set[str] = set()
    for member in tar:
        if not member.isreg() or member.issparse():
            raise BadArchive(f"{_shown(member)} is no plain file")
        if member.name in seen:
            raise BadArchive(f"{_shown(member)} is there twice")
        seen.add(member.name)
        yield member


@contextlib.contextmanager
def _named(member: tarfile.TarInfo) -> Iterator[None]:
    try:
        yield
    except BadManifest as error:
        raise BadArchive(f"{_shown(member)} is corrupt: {error}", hint="copy it again") from error


def _document(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _LARGEST_DOCUMENT:
        raise BadArchive(f"{_shown(member)} has {member.size} bytes, which none has")
    return b"".join(_pieces(tar, member))


def _pieces(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    reader, left = tar.extractfile(member), member.size
    while reader is not None and left:
        piece = reader.read(min(left, CHUNK))
        if not piece:
            raise BadArchive(f"{_shown(member)} is cut off", hint="copy it again")
        left -= len(piece)
        yield piece


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, digest: Digest, to: Path | None
) -> None:
    sha = hashlib.sha256()
    handle, at = None if to is None else disk.create(to), 0
    try:
        for piece in _pieces(tar, member):
            sha.update(piece)
            if to is not None and handle is not None:
                files.write_on(handle, to, piece, at)
                at += len(piece)
    finally:
        if handle is not None:
            os.close(handle)
    if sha.hexdigest() != digest.hex:
        raise BadArchive(
            f"{_shown(member)} is corrupt: its digest is {sha.hexdigest()[:12]}…",
            hint="copy it again",
        )


def _complete(store: LocalStore, session: Session, contents: _Contents, file: Path) -> None:
    """Whether all that is named is there."""
    if not contents.manifests and not contents.records:
        raise BadArchive(f"'{file}' holds no entry")
    for path, manifest in contents.manifests.items():
        for name, stored in manifest.files.items():
            if contents.blobs.get(layout.blob_path(stored.sha256)) != stored.size:
                raise BadArchive(f"'{path}' names '{name}', which is not in the archive")
    for path, record in contents.records.items():
        for stage, key in record.entries.items():
            inside = layout.entry_path(stage, key) in contents.manifests
            session.uses(stage, key)
            if not inside and store.get(stage, key) is None:
                raise BadArchive(
                    f"'{path}' names the {stage} entry {key.short}, which is not in the archive"
                )


def _publish(store: LocalStore, session: Session, contents: _Contents, blobs: Path) -> Counts:
    lacking = contents.lacking or []
    uses = Tally(stored.sha256 for each in lacking for stored in each.files.values())
    entries = records = size = 0
    for manifest in lacking:
        with session.staged() as staged:
            for name, stored in manifest.files.items():
                # Copied, not linked: what happens to one entry must not happen to another.
                uses[stored.sha256] -= 1
                move = files.copy if uses[stored.sha256] else disk.rename
                move(blobs / stored.sha256.hex, staged / name)
            _, ours = store.adopt(staged, manifest)
        if ours:
            entries += 1
            size += sum(stored.size for stored in manifest.files.values())
    for record in contents.records.values():
        if store.plan_record(record.key) is None:
            store.put_record(record, session.folder)
            records += 1
    known = len(contents.manifests) - entries
    return Counts(entries=entries, records=records, bytes=size, known=known)
