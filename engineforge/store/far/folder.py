"""Objects in a folder, on this machine's disk or a mounted one: durable once they are put, which
they are not through obstore (it never fsyncs)."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from engineforge.store import disk, files
from engineforge.store.far.objects import CHUNK, Found, RemoteUnavailable, Stat, Version

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
        return os.path.normpath(self._root)

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
            disk.link(temporary, final)
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
                disk.rename(temporary, final)
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
            handle, at = disk.create(temporary), 0
            try:
                for chunk in chunks:
                    files.write_on(handle, temporary, chunk, at)
                    at += len(chunk)
                disk.chmod(temporary, files.READ_ONLY)
                disk.sync_file(handle, temporary)
            finally:
                os.close(handle)
            self._name(temporary, final)

    def settle(self, path: str) -> None:
        with self._told(), contextlib.suppress(FileNotFoundError):
            files.sync_name(self._root / path)

    def names(self) -> list[str]:
        with self._told(), self._or_none():
            return sorted(each.name for each in self._root.iterdir())
        return []

    def copy(self, path: str, to: str) -> None:
        final = self._root / to
        with self._told(), self._temporary() as temporary:
            files.copy(self._root / path, temporary)
            files.sync_file(temporary)
            self._name(temporary, final)

    def _name(self, temporary: Path, final: Path) -> None:
        files.make_folder(final.parent)
        disk.rename(temporary, final)
        files.sync_name(final)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A free name in `staging/`, where nothing is left."""
        files.make_folder(self._staging)
        path = self._staging / f"put-{secrets.token_hex(8)}"
        try:
            yield path
        finally:
            with contextlib.suppress(OSError):  # gone to its name, or swept when it is old
                disk.unlink(path)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what those left who were killed while they put something, once."""
        if self._swept:
            return
        self._swept = True
        with contextlib.suppress(OSError):  # others may, where this user may not
            before = files.clock(self._staging) - _HALF_WRITTEN_SECONDS
            for path in self._staging.iterdir():
                if not path.is_dir():
                    files.remove_old(path, before)

    def _lock(self) -> contextlib.AbstractContextManager[bool]:
        return files.lock(self._staging / "locks" / "swap.lock", "swap")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        if not self._root.parent.is_dir():
            raise RemoteUnavailable(
                f"'{self.url}' is in no folder that is there",
                hint="is it mounted? Its own folder is made, those above it are not",
            )
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
