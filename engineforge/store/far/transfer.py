"""Files on their way to and from a remote store: each byte is hashed as it passes, and a download
that broke off goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import secrets
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

from engineforge.digest import Digest
from engineforge.errors import StoreCorrupt
from engineforge.store import disk, files
from engineforge.store.far.objects import CHUNK, Objects
from engineforge.store.manifest import StoredFile

Progress = Callable[[int, int], None]
"""Is told bytes so far and in all, by any thread; what it raises ends the transfer."""

_AHEAD = 8
_OLD_SECONDS = 7 * 86_400


class Mismatch(Exception):
    """What came is not what was asked for: its size, and its digest."""

    def __init__(self, size: int, digest: Digest) -> None:
        super().__init__(f"it is {size} bytes with {digest.short}…")
        self.size, self.digest = size, digest


class Counter:
    """Adds up what several threads move; once stopped, each of them ends at its next step."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress = total, progress
        self._done = 0
        self._lock = threading.Lock()
        self._stopped = False

    def add(self, size: int) -> None:
        with self._lock:
            if self._stopped:
                raise Stopped
            self._done += size
            if self._progress is not None:
                self._progress(self._done, self._total)

    def stop(self) -> None:
        self._stopped = True


class Stopped(Exception):
    """Another part of the same transfer failed."""


def verified(
    path: Path, stored: StoredFile, add: Callable[[int], None]
) -> Generator[bytes, None, None]:
    """A file of an entry in pieces; StoreCorrupt before the last one where it is not what its
    manifest says, so that nobody ever has all of it."""
    sha, left = hashlib.sha256(), stored.size
    held: bytes | None = None
    try:
        with path.open("rb", buffering=0) as file, _hashing(sha.update) as hashed:
            while chunk := file.read(CHUNK):
                hashed(chunk)
                left -= len(chunk)
                if held is not None:
                    yield held
                    add(len(held))
                held = chunk
    except OSError as error:
        raise StoreCorrupt(f"'{path}' cannot be read: {error.strerror}") from error
    if left or sha.hexdigest() != stored.sha256.hex:
        raise StoreCorrupt(
            f"'{path}' is not what its manifest says, and is not given away",
            hint="engineforge verify",
        )
    if held is not None:
        yield held
        add(len(held))


@contextlib.contextmanager
def downloaded(
    objects: Objects, path: str, stored: StoredFile, partial: Path, add: Callable[[int], None]
) -> Iterator[Path]:
    """The file that a blob has become, not fsynced, to be moved away; it lies in `partial`, where
    also stays what came until the connection broke. Mismatch where what came is something else,
    twice, FileNotFoundError where there is nothing, OSError where there is no room."""
    with _claimed(partial, stored.sha256.hex) as claimed:
        done = 0

        def moved(size: int) -> None:
            nonlocal done
            done += size
            add(size)

        try:
            _fill(objects, path, stored, claimed, moved)
        except Mismatch:
            # What lay here may be what is wrong, as a power cut may leave anything in it, or what
            # happened on the way. The blob is judged, for all who share it, by a second request.
            add(-done)
            try:
                _fill(objects, path, stored, claimed, add, afresh=True)
            except Mismatch:
                disk.unlink(claimed)
                raise
        yield claimed


def _fill(
    objects: Objects,
    path: str,
    stored: StoredFile,
    partial: Path,
    add: Callable[[int], None],
    *,
    afresh: bool = False,
) -> None:
    sha, size = hashlib.sha256(), 0
    with partial.open("r+b", buffering=0) as file:
        if afresh:
            disk.truncate(file.fileno(), partial)
        while chunk := file.read(CHUNK):
            sha.update(chunk)
            size += len(chunk)
            add(len(chunk))
        if size < stored.size:
            with _hashing(sha.update) as hashed:
                for chunk in objects.stream(path, size, stored.size):
                    hashed(chunk)
                    files.write_on(file.fileno(), partial, chunk, size)
                    size += len(chunk)
                    add(len(chunk))
                    if size > stored.size:
                        break
    digest = Digest("sha256:" + sha.hexdigest())
    if (size, digest) != (stored.size, stored.sha256):
        raise Mismatch(size, digest)


@contextlib.contextmanager
def _hashing(update: Callable[[bytes], None]) -> Iterator[Callable[[bytes], None]]:
    """A thread that hashes while this one reads and writes: neither waits for the other."""
    chunks: queue.Queue[bytes | None] = queue.Queue(_AHEAD)

    def run() -> None:
        while (chunk := chunks.get()) is not None:
            update(chunk)

    # No process is to wait for it whose transfer nobody finished.
    thread = threading.Thread(target=run, name="hash", daemon=True)
    thread.start()
    try:
        yield chunks.put
    finally:
        chunks.put(None)
        thread.join()


@contextlib.contextmanager
def _claimed(folder: Path, name: str) -> Iterator[Path]:
    """The file of this name, for this process alone. Where another one has it, or the file system
    has no locks, another name: that download cannot be gone on with, and is gone afterwards."""
    files.make_folder(folder)
    path = folder / name
    with contextlib.suppress(FileExistsError):
        files.make_empty(path)
    handle = files.try_lock(path)
    if handle is not None:
        try:
            yield path
        finally:
            os.close(handle)
        return
    path = folder / f"{name}.{secrets.token_hex(4)}"
    files.make_empty(path)
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(path)


def forget_old(partial: Path) -> None:
    """Remove downloads that nobody has gone on with for a week."""
    with contextlib.suppress(OSError):
        before = files.clock(partial) - _OLD_SECONDS
        for path in partial.iterdir():
            files.remove_old(path, before)
