"""What the stat of a file tells: when, and on which file systems, equal stats are equal bytes."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from engineforge.store.file_system import file_system

Stat = tuple[int, int, int, int, int]
"""device, inode, size, mtime_ns, ctime_ns: ctime cannot be set by hand (bazel#14723)."""

FolderStats = list[tuple[str, Stat]]
"""The files of a folder by name."""

_COARSE_NS = 2_000_000_000
_SECOND_NS = 1_000_000_000
_TICKS, _TICK_SECONDS = 20, 0.002

# Where the kernel takes the right to write from a page when it reaches the disk, and stamps the
# file when the next store through a mapping asks for it again: tests/store/test_remembered.py.
_STAMPS_MAPPED_STORES = ("ext2", "ext3", "ext4", "xfs", "btrfs")
_STACKED = ("overlay",)
"""The same, but a lease may not see who has mapped the file below."""


class Stats:
    """Judges stats for one cache. `root` is where a probe tells the time of its file system; `now`
    is this host's clock, in ns, and `mounts` what is mounted, as `file_system` takes it."""

    def __init__(
        self, root: Path, *, now: Callable[[], int] = time.time_ns, mounts: str | None = None
    ) -> None:
        self._root, self._now, self._mounts = root, now, mounts
        self._kinds: dict[int, str] = {}

    def settled(self, stats: Iterable[Stat]) -> bool:
        """Whether any change from now on must give these files other stats. On the cache's own
        file system that is waited for, since its clock ticks within milliseconds."""
        newest = max(stats, key=lambda stat: stat[4], default=None)
        if newest is None:
            return True
        for _ in range(_TICKS):
            now, own = self._clock(newest[0])
            if _past(newest, now, own=own):
                return True
            if not own:
                return False
            time.sleep(_TICK_SECONDS)
        return False

    def _clock(self, device: int) -> tuple[int, bool]:
        """The time of the file system that holds `device`: a new file's own ctime if the cache is
        on it (then True), else this host's clock."""
        probe = self._root / "staging" / f"clock-{os.getpid()}-{time.monotonic_ns()}"
        try:
            probe.touch(exist_ok=False)
            made = probe.stat()
            probe.unlink()
        except OSError:
            return self._now(), False
        return (made.st_ctime_ns, True) if made.st_dev == device else (self._now(), False)

    def tells_of_changes(self, handle: int, path: Path, stat: Stat) -> bool:
        """Whether from now on the stat of this open file shows every change to its bytes, those of
        writers included that have it open or mapped already.

        A write stamps the file when it begins, not when it ends, and a store through a mapping
        does when it is the first to its page. So nobody may have the file open for writing, which
        a lease tells (fcntl(2), F_SETLEASE). Only its owner is told: for others, a file counts
        that has reached the disk and is not young. False on file systems that do not stamp mapped
        stores (tmpfs), are written to from elsewhere (NFS), or are unknown.
        """
        kind = self._kind(path, stat[0])
        if kind not in _STAMPS_MAPPED_STORES + _STACKED or _whole_seconds(stat):
            return False
        if not self.settled([stat]):
            return False
        unwritten = _nobody_writes(handle)
        if unwritten is None:
            unwritten = _past(stat, self._now(), own=False)
        elif kind not in _STACKED:
            return unwritten
        return unwritten and _on_disk(handle)

    def sealed(self, folder: Path, stats: FolderStats) -> bool:
        """The same of a folder of read-only files, an entry's; on tmpfs and others too, as nobody
        but root can write to them without another stat."""
        if not self.settled(stat for _, stat in stats):
            return False
        return all(self._is_sealed(folder / name, stat) for name, stat in stats)

    def _is_sealed(self, path: Path, stat: Stat) -> bool:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if stat_of(handle) != stat or os.fstat(handle).st_mode & 0o222:
                return False
            return _nobody_writes(handle) is not False and _on_disk(handle)
        finally:
            os.close(handle)

    def _kind(self, path: Path, device: int) -> str | None:
        if device not in self._kinds:
            try:
                self._kinds[device] = file_system(path, self._mounts).kind
            except (OSError, RuntimeError):  # it is gone, or a loop of links
                return None
        return self._kinds[device]


def stat_of(file: Path | int) -> Stat:
    """Of a path, or of an open file."""
    found = os.stat(file)  # noqa: PTH116 - an open file has no path
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def stat_or_none(path: Path) -> Stat | None:
    try:
        return stat_of(path)
    except OSError:
        return None


def folder_stats(folder: Path) -> FolderStats:
    return [(name, stat_of(folder / name)) for name in sorted(p.name for p in folder.iterdir())]


def _past(stat: Stat, now: int, *, own: bool) -> bool:
    """On the cache's own file system: whether its clock has moved on past the file's; elsewhere
    its granularity is unknown, and 2 s (FAT's) are taken, by this host's clock."""
    return stat[4] < now if own else max(stat[3], stat[4]) + _COARSE_NS <= now


def _whole_seconds(stat: Stat) -> bool:
    # Stamps without fractions (ext4 with small inodes) come again when the clock is put back.
    return stat[4] % _SECOND_NS == 0


def _nobody_writes(handle: int) -> bool | None:
    """Whether no process has the file open for writing, or mapped; None where that is not told."""
    try:
        # Who opens the file meanwhile waits for the lease to end, and this process is sent a
        # signal: one that is ignored unless it is asked for, where SIGIO would end it.
        fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return False
    except OSError:  # it is another user's, or there are no leases here
        return None
    fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return True


def _on_disk(handle: int) -> bool:
    try:
        os.fsync(handle)
    except OSError:
        return False
    return True
