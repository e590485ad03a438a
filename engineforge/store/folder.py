"""Objects in a folder, on this machine's disk or a mounted one: durable once they are put, which
they are not through obstore (it never fsyncs)."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from engineforge.store import files
from engineforge.store.objects import CHUNK, Found, RemoteUnavailable, Stat, Version
from engineforge.store.transfer import write_on

_HALF_WRITTEN_SECONDS = 86_400
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Folder:
    """Creating is one link(2): the first one wins, on NFS too. Swapping holds a lock, which keeps
    out those who see it; on a file system without locks a swap may undo another's of the moment
    before, and what that put is put again by whoever misses it."""

    read_only = False

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / "staging"
        self._swept = False

    @property
    def url(self) -> str:
        return str(self._root)

    def read(self, path: str) -> Found | None:
        with self._told(), self._or_none(), (self._root / path).open("rb") as file:
            return Found(file.read(), _version(os.fstat(file.fileno())))
        return None

    def stat(self, path: str) -> Stat | None:
        with self._told(), self._or_none():
            found = (self._root / path).stat()
            return Stat(found.st_size, _version(found))
        return None

    def stream(self, path: str, start: int, size: int) -> Iterator[bytes]:
        left = size - start
        with self._told(), (self._root / path).open("rb", buffering=0) as file:
            file.seek(start)
            os.posix_fadvise(file.fileno(), start, left, os.POSIX_FADV_SEQUENTIAL)
            while left > 0 and (chunk := file.read(min(left, CHUNK))):
                left -= len(chunk)
                yield chunk

    def create(self, path: str, data: bytes) -> bool:
        with self._told(), self._temporary() as temporary:
            files.write_new(temporary, data)
            return self._link(temporary, self._root / path)

    def _link(self, temporary: Path, final: Path) -> bool:
        files.make_folder(final.parent)
        try:
            final.hardlink_to(temporary)
        except FileExistsError:
            files.sync_name(final)  # whoever was first may not have yet
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with self._lock():
                if final.exists():
                    files.sync_name(final)
                    return False
                temporary.replace(final)
        files.sync_name(final)
        return True

    def swap(self, path: str, data: bytes, version: Version) -> bool:
        with self._told(), self._lock():
            found = self.stat(path)
            if found is None or found.version != version:
                return False
            files.replace(self._root / path, data, self._staging)
            return True

    def put(self, path: str, data: bytes) -> None:
        with self._told():
            files.make_folder(self._staging)
            files.make_folder((self._root / path).parent)
            files.replace(self._root / path, data, self._staging)

    def upload(self, path: str, chunks: Iterable[bytes], size: int) -> None:
        final = self._root / path
        with self._told(), self._temporary() as temporary:
            with temporary.open("xb", buffering=0) as file:
                at = 0
                for chunk in chunks:
                    write_on(file.fileno(), chunk, at)
                    at += len(chunk)
                temporary.chmod(files.READ_ONLY)
                os.fsync(file.fileno())
            files.make_folder(final.parent)
            temporary.replace(final)
            files.sync_name(final)

    def copy(self, path: str, to: str) -> None:
        final = self._root / to
        with self._told(), self._temporary() as temporary:
            shutil.copyfile(self._root / path, temporary)
            files.sync_file(temporary)
            files.make_folder(final.parent)
            temporary.replace(final)
            files.sync_name(final)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A free name in `staging/`, where nothing is left."""
        files.make_folder(self._staging)
        path = self._staging / f"put-{secrets.token_hex(8)}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what those left who were killed while they put something, once."""
        if self._swept:
            return
        self._swept = True
        with contextlib.suppress(OSError):  # others may, where this user may not
            probe = self._staging / f"put-{secrets.token_hex(8)}"
            probe.touch()
            now = probe.stat().st_mtime
            probe.unlink()
            for path in self._staging.glob("put-*"):
                files.remove_old(path, now - _HALF_WRITTEN_SECONDS)

    def _lock(self) -> contextlib.AbstractContextManager[bool]:
        return files.lock(self._staging / "locks" / "swap.lock", "swap")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise RemoteUnavailable(
                f"the remote store '{self.url}' cannot be used: {error.strerror}",
                hint="is it mounted, is there room, and may this user write there?",
            ) from error

    @contextlib.contextmanager
    def _or_none(self) -> Iterator[None]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            yield


def _version(stat: os.stat_result) -> Version:
    return Version(f"{stat.st_ino}-{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}")
