"""The lock between those who come to rely on entries, many at once, and a collection, which takes
it alone to decide on one entry and move it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from engineforge.store import disk, files

_GATE = Path("staging", "locks", "gc.lock")
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def using(root: Path) -> Iterator[None]:
    """Many at once, and no collection decides on an entry of this store meanwhile.

    Where the file system has no locks it excludes nothing: see `roots` for what holds then.
    """
    handle = _entered(root / _GATE, fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def deciding(root: Path) -> Iterator[None]:
    """One at once, while nobody comes to rely on an entry of this store."""
    handle = _entered(root / _GATE, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


def _entered(path: Path, kind: int) -> int:
    """The handle that holds the lock: the kernel lets go when it is closed, or the process ends."""
    while True:
        handle = _opened(path)
        try:
            # Where somebody removed `staging/` meanwhile, this lock guards nothing any more.
            if not flocked(handle, kind) or _still_named(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _opened(path: Path) -> int:
    try:
        return disk.open_or_create(path)
    except FileNotFoundError:
        files.make_folder(path.parent)
        return disk.open_or_create(path)
    except PermissionError:  # another user's; flock needs no right to write
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def flocked(handle: int, kind: int) -> bool:
    """Wait for the lock; False where the file system has none."""
    try:
        fcntl.flock(handle, kind)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _still_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
