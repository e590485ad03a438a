"""The file operations that the store's promises rest on: durable writes, atomic publishing, locks.

All changes that the store makes on disk go through `disk`, nearly all of them from here. What a
power cut may leave of each sequence of them is enumerated in `tests/store/crash`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from engineforge.store import disk

READ_ONLY = 0o444
_POLL_SECONDS = 0.05
_PIECE = 1 << 16
"""What is written at once of a stream. For larger ones ext4 looks for memory that is as large and
in one piece (seen with Linux 6.18), which took three times as long, or eight times."""
_COPIED_AT_ONCE = 1 << 20
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that must not exist, and fsync it; a full disk leaves no file behind.

    Its name is durable once its folder is synced: `seal_folder` does that.
    """
    with _new_file(path, data, durable=True):
        pass


def replace(
    path: Path, data: bytes | Iterable[bytes], staging: Path, *, durable: bool = True
) -> None:
    """Write a whole file in place of another (or none): a reader sees the old one or the new."""
    temporary = staging / f"replace-{os.getpid()}-{secrets.token_hex(8)}"
    with _new_file(temporary, data, durable=durable):
        disk.rename(temporary, path)
    if durable:
        sync_name(path)


@contextlib.contextmanager
def _new_file(path: Path, data: bytes | Iterable[bytes], *, durable: bool) -> Iterator[None]:
    """Written and closed; gone where that fails, or what is then done with it."""
    handle = disk.create(path)
    try:
        # Keeps it locked after it is closed, until it has its name: `remove_old` sees that it is
        # not left over, whatever the clock of the file system says.
        with _guarded(handle):
            try:
                for piece in (data,) if isinstance(data, bytes) else data:
                    disk.write(handle, path, piece)
                if durable:
                    disk.sync_file(handle, path)
            finally:
                os.close(handle)  # where network file systems tell that the disk was full
            yield
    except OSError:
        with contextlib.suppress(OSError):
            disk.unlink(path)
        raise


@contextlib.contextmanager
def _guarded(handle: int) -> Iterator[None]:
    guard = os.dup(handle)
    try:
        with contextlib.suppress(OSError):
            _flocked(guard, blocking=False)
        yield
    finally:
        os.close(guard)


def write_on(handle: int, path: Path, chunk: bytes, at: int) -> None:
    """Write all of a chunk where the open file is, at its byte `at`, and let the disk begin with
    it: then there is little left to wait for when the file is fsynced. Its pages stay in memory,
    since only clean ones are dropped."""
    view = memoryview(chunk)
    for start in range(0, len(view), _PIECE):
        disk.write(handle, path, view[start : start + _PIECE])
    os.posix_fadvise(handle, at, len(chunk), os.POSIX_FADV_DONTNEED)


def copy(path: Path, to: Path) -> None:
    """Write a file that must not exist with the bytes of another; it is not fsynced."""
    with path.open("rb", buffering=0) as file:
        handle, at = disk.create(to), 0
        try:
            while chunk := file.read(_COPIED_AT_ONCE):
                write_on(handle, to, chunk, at)
                at += len(chunk)
        finally:
            os.close(handle)


def make_empty(path: Path) -> None:
    """Make a file that must not exist, of which a power cut may leave nothing."""
    os.close(disk.create(path))


def clock(folder: Path) -> float:
    """Seconds by the clock of a folder's file system, as a new file there is dated."""
    probe = folder / f"clock-{secrets.token_hex(8)}"
    make_empty(probe)
    try:
        return probe.stat().st_mtime
    finally:
        disk.unlink(probe)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        disk.sync_file(file.fileno(), path)


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut."""
    disk.sync_folder(path)


def sync_name(path: Path) -> None:
    """Make the name of a file or folder survive a power cut, whoever gave it that name.

    So does the name of the folder that it is in: another process may have made that a moment ago,
    and not have come to sync it, or have been killed before.
    """
    disk.sync_folder(path.parent)
    _sync_name_of_folder(path.parent)


def _sync_name_of_folder(folder: Path) -> None:
    # Somebody else's folder that must not be read cannot be synced either: they made the name.
    with contextlib.suppress(PermissionError):
        disk.sync_folder(folder.parent)


def make_folder(path: Path) -> None:
    """Make a folder and its parents, each name durable before anything is put below it.

    One that is there already is left as it is: `sync_name` of what is put there sees to its name.
    """
    if path.is_dir():
        return
    if path.parent.is_dir():
        _sync_name_of_folder(path.parent)
    else:
        make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        disk.mkdir(path)
    disk.sync_folder(path.parent)


def seal_folder(folder: Path) -> None:
    """fsync every file of a staged folder and the folder, and make the files read-only."""
    for file in folder.iterdir():
        disk.chmod(file, READ_ONLY)
        sync_file(file)
    disk.sync_folder(folder)


def publish_folder(staged: Path, final: Path) -> bool:
    """Move a sealed folder to its name, unless that is taken; False where another was first.

    Either way the name is durable: who was first may not have come to sync it yet.
    """
    make_folder(final.parent)
    try:
        # rename(2) refuses to replace a folder that holds something: the first one wins.
        disk.rename(staged, final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        sync_name(final)
        return False
    sync_name(final)
    return True


def move_aside(path: Path, folder: Path) -> Path:
    """Move a file or folder into `folder` under a free name, which is returned."""
    make_folder(folder)
    for number in range(10_000):
        aside = folder / (path.name if number == 0 else f"{path.name}.{number}")
        if aside.exists():
            continue
        try:
            disk.rename(path, aside)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            continue  # taken by another process since
        # The new name first: on a file system where a rename between folders is two changes,
        # what is moved then has two names for a moment, never none.
        sync_name(aside)
        disk.sync_folder(path.parent)
        return aside
    raise OSError(errno.EEXIST, "no free name", str(folder))


def put_back(aside: Path, path: Path) -> None:
    """Undo `move_aside`, unless something has taken the name since."""
    if aside.is_dir():
        publish_folder(aside, path)
    elif not path.exists():
        disk.rename(aside, path)
        sync_name(path)


def remove_file(path: Path) -> None:
    """Remove a file, if it is there, so that it stays removed after a power cut."""
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(path)
    disk.sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder with all that is in it, as far as that can be done."""
    with contextlib.suppress(OSError):
        if path.is_symlink():
            return
        with os.scandir(path) as found:
            inside = list(found)
        for each in inside:
            if each.is_dir(follow_symlinks=False):
                remove_folder(Path(each))
            else:
                with contextlib.suppress(OSError):
                    disk.unlink(Path(each))
        disk.rmdir(path)


def remove_old(path: Path, before: float) -> None:
    """Remove a file that was last written before then, if it is still there and nobody writes it.

    `before` is in seconds by the clock of the file system, which may have jumped meanwhile.
    """
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if path.stat().st_mtime >= before:
            return
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if _left_over(handle):
                disk.unlink(path)
        finally:
            os.close(handle)


def _left_over(handle: int) -> bool:
    try:
        return _flocked(handle, blocking=False)
    except OSError as error:
        if error.errno in _NO_LOCKS:  # then its age is all there is to go by
            return True
        raise


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
            disk.truncate(handle, paths[index])
            disk.write(handle, paths[index], text.encode())
        yield index
    finally:
        try:
            with contextlib.suppress(OSError):  # then it is an empty file, and free
                disk.unlink(paths[index])
        finally:
            os.close(handle)


@contextlib.contextmanager
def held(path: Path, *, shared: bool) -> Iterator[None]:
    """Wait for the lock on a file that stays, and hold it: with all others that share it, or
    alone. Where the file system has no locks it excludes nothing."""
    handle = _held(path, shared=shared)
    try:
        yield
    finally:
        os.close(handle)


def _held(path: Path, *, shared: bool) -> int:
    while True:
        handle = _opened(path)
        try:
            # Where somebody removed the folder meanwhile, this lock guards nothing any more.
            if _flocked(handle, blocking=True, shared=shared) and _still_named(handle, path):
                return handle
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return handle
            os.close(handle)
            raise
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _locked(paths: Sequence[Path], waiting: Callable[[str], None] | None) -> tuple[int, int] | None:
    """The index of the lock that was taken, and its handle; None where there are no locks."""
    make_folder(paths[0].parent)
    while True:
        holders: list[str] = []
        for index, path in enumerate(paths):
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
                if error.errno in _NO_LOCKS:
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
        return disk.open_or_create(path)
    except FileNotFoundError:
        make_folder(path.parent)
        return disk.open_or_create(path)
    except PermissionError:  # another user's, and flock needs no right to write
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _flocked(handle: int, *, blocking: bool, shared: bool = False) -> bool:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(handle, kind | (0 if blocking else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def try_lock(path: Path) -> int | None:
    """The handle of a lock if nobody holds it, else None. Close it to let go."""
    try:
        handle = _opened_as_it_is(path)
    except OSError:
        return None
    try:
        if _flocked(handle, blocking=False) and _still_named(handle, path):
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def _opened_as_it_is(path: Path) -> int:
    try:  # network file systems may want the right to write, for a lock that excludes
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _still_named(handle: int, path: Path) -> bool:
    # The holder before us removed the file when it was done: then this lock guards nothing.
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
