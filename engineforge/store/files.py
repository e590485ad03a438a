"""The file operations that the store's promises rest on: durable writes, atomic publishing, locks.

All changes that the store makes on disk go through this file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

READ_ONLY = 0o444
_POLL_SECONDS = 0.05


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist, and fsync it; a full disk leaves no file behind."""
    with path.open("xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise


def replace(path: Path, data: bytes, staging: Path, *, durable: bool = True) -> None:
    """Write a whole file in place of another (or none): a reader sees the old one or the new."""
    temporary = staging / f"replace-{os.getpid()}-{time.monotonic_ns()}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, each name fsynced in the one above."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        sync_folder(path.parent)


def seal_folder(folder: Path) -> None:
    """fsync every file of a staged folder and the folder, and make the files read-only."""
    for file in folder.iterdir():
        file.chmod(READ_ONLY)
        sync_file(file)
    sync_folder(folder)


def publish_folder(staged: Path, final: Path) -> bool:
    """Move a sealed folder to its name, unless that is taken; False where another was first."""
    make_folder(final.parent)
    try:
        # rename(2) refuses to replace a folder that holds something: the first one wins.
        staged.rename(final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    sync_folder(final.parent)
    return True


def move_aside(path: Path, folder: Path) -> Path:
    """Move a file or folder into `folder` under a free name, which is returned."""
    make_folder(folder)
    for number in range(10_000):
        aside = folder / (path.name if number == 0 else f"{path.name}.{number}")
        if aside.exists():
            continue
        path.rename(aside)
        sync_folder(folder)
        sync_folder(path.parent)
        return aside
    raise OSError(errno.EEXIST, "no free name in quarantine", str(folder))


def remove_folder(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)


def remove_old(path: Path, before: float) -> None:
    """Remove a file that was last written before then, if it is still there."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_mtime < before:
            path.unlink()


@contextlib.contextmanager
def lock(path: Path, text: str, waiting: Callable[[str], None] | None = None) -> Iterator[bool]:
    """Hold an exclusive lock on a file made for it; yields False where the file system has none.

    The kernel frees it when this process ends, however it ends. `waiting` is told again and again
    what the holder wrote into the file (`text`); what it raises ends the wait. Locks save work;
    they are never what makes it correct.
    """
    with _holding([path], text, waiting) as index:
        yield index is not None


@contextlib.contextmanager
def lock_any(
    paths: Sequence[Path], text: str, waiting: Callable[[str], None]
) -> Iterator[int | None]:
    """The same for whichever of several locks is free first: yields its index, or None where the
    file system has no locks."""
    with _holding(paths, text, waiting) as index:
        yield index


@contextlib.contextmanager
def _holding(
    paths: Sequence[Path], text: str, waiting: Callable[[str], None] | None
) -> Iterator[int | None]:
    held = _locked(paths, waiting)
    if held is None:
        yield None
        return
    index, handle = held
    try:
        with contextlib.suppress(OSError):  # on a full disk the holder has no name
            os.ftruncate(handle, 0)
            os.write(handle, text.encode())
        yield index
    finally:
        try:
            with contextlib.suppress(OSError):  # then it is an empty file, and free
                paths[index].unlink(missing_ok=True)
        finally:
            os.close(handle)


def _locked(paths: Sequence[Path], waiting: Callable[[str], None] | None) -> tuple[int, int] | None:
    """The index of the lock that was taken, and its handle; None where there are no locks."""
    make_folder(paths[0].parent)
    while True:
        holders: list[str] = []
        for index, path in enumerate(paths):
            # Another user of the cache may have made it, and flock needs no right to write.
            handle = _opened(path)
            try:
                if _flocked(handle, blocking=waiting is None):
                    if _still_named(handle, path):
                        return index, handle
                else:
                    said = os.pread(handle, 200, 0).decode(errors="replace")
                    holders.append(said or "another process")
            except OSError as error:
                os.close(handle)
                if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                    return None
                raise
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)
        if waiting is not None and holders:
            waiting(holders[0])
            time.sleep(_POLL_SECONDS)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _flocked(handle: int, *, blocking: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def try_lock(path: Path) -> int | None:
    """The handle of a lock if nobody holds it, else None. Close it to let go."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    if not _still_named(handle, path):
        os.close(handle)
        return None
    return handle


def _still_named(handle: int, path: Path) -> bool:
    # The holder before us removed the file when it was done: then this lock guards nothing.
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
