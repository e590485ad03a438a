"""Files on their way to and from a remote store: each byte is hashed as it passes, and a download
that broke off goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from engineforge.digest import Digest
from engineforge.errors import StoreCorrupt
from engineforge.store import files
from engineforge.store.manifest import StoredFile
from engineforge.store.objects import CHUNK, Objects

Progress = Callable[[int, int], None]
"""Is told bytes so far and in all, by any thread; what it raises ends the transfer."""

_AHEAD = 8
_PIECE = 1 << 16
"""What is written at once. For larger ones ext4 looks for memory that is as large and in one piece
(seen with Linux 6.18), which took three times as long, or eight times."""
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


def verified(path: Path, stored: StoredFile, add: Callable[[int], None]) -> Iterator[bytes]:
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
    FileNotFoundError where there is nothing, OSError where there is no room."""
    with _claimed(partial, stored.sha256.hex) as claimed:
        begun = claimed.stat().st_size
        done = 0

        def moved(size: int) -> None:
            nonlocal done
            done += size
            add(size)

        try:
            _fill(objects, path, stored, claimed, moved)
        except Mismatch:
            if not begun:
                claimed.unlink()
                raise
            # What lay here may be what is wrong: a power cut may leave anything in it.
            os.truncate(claimed, 0)
            add(-done)
            try:
                _fill(objects, path, stored, claimed, add)
            except Mismatch:
                claimed.unlink()
                raise
        yield claimed


def _fill(
    objects: Objects, path: str, stored: StoredFile, partial: Path, add: Callable[[int], None]
) -> None:
    sha, size = hashlib.sha256(), 0
    with partial.open("r+b", buffering=0) as file:
        while chunk := file.read(CHUNK):
            sha.update(chunk)
            size += len(chunk)
            add(len(chunk))
        if size < stored.size:
            with _hashing(sha.update) as hashed:
                for chunk in objects.stream(path, size, stored.size):
                    hashed(chunk)
                    write_on(file.fileno(), chunk, size)
                    size += len(chunk)
                    add(len(chunk))
                    if size > stored.size:
                        break
    digest = Digest("sha256:" + sha.hexdigest())
    if (size, digest) != (stored.size, stored.sha256):
        raise Mismatch(size, digest)


def write_on(handle: int, chunk: bytes, at: int) -> None:
    """Write all of a chunk where the file is, at its byte `at`, and let the disk begin with it:
    then there is little left to wait for when the file is fsynced. Its pages stay in memory, since
    only clean ones are dropped."""
    view = memoryview(chunk)
    while view:
        view = view[os.write(handle, view[:_PIECE]) :]
    os.posix_fadvise(handle, at, len(chunk), os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def _hashing(update: Callable[[bytes], None]) -> Iterator[Callable[[bytes], None]]:
    """A thread that hashes while this one reads and writes: neither waits for the other."""
    chunks: queue.Queue[bytes | None] = queue.Queue(_AHEAD)

    def run() -> None:
        while (chunk := chunks.get()) is not None:
            update(chunk)

    thread = threading.Thread(target=run, name="hash")
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
        path.touch(exist_ok=False)
    handle = files.try_lock(path)
    if handle is not None:
        try:
            yield path
        finally:
            os.close(handle)
        return
    path = folder / f"{name}.{secrets.token_hex(4)}"
    path.touch(exist_ok=False)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def forget_old(partial: Path) -> None:
    """Remove downloads that nobody has gone on with for a week."""
    with contextlib.suppress(OSError):
        probe = partial / f"clock.{secrets.token_hex(4)}"
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        for path in partial.iterdir():
            files.remove_old(path, now - _OLD_SECONDS)
