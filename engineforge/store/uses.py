"""What running processes rely on, so that no collection takes it from under them.

A session notes each entry, and touches it, before it looks whether it is there (`gate.using`).
Each of the two protects it where the other cannot be: on a full disk, in another user's folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engineforge.digest import Digest
from engineforge.store import disk, files, gate
from engineforge.store.known import ENTRIES

TRASH = "trash"

_NOTES = "uses"
_LEFT = "uses-"
"""Notes of a session, in its folder; and those that it left in `staging/`."""

_ABSENT_SECONDS = 86_400
_SESSION = re.compile(r"(?P<host>.+)-[0-9]+-[0-9a-f]{8}")


def host_of(session: str) -> str | None:
    """The host of a session by its name; None for what is no such name."""
    found = _SESSION.fullmatch(session)
    return None if found is None else found["host"]


def session_name() -> str:
    """A new one, which says of what host it is."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Which entry is meant; as text, a line of notes."""

    stage: str
    key: Digest

    def __str__(self) -> str:
        return f"{self.stage} {self.key.hex}"

    def path(self, root: Path) -> Path:
        digits = self.key.hex  # one path is made, not four: there may be very many entries
        return Path(f"{root}/{ENTRIES}/{self.stage}/{digits[:2]}/{digits}")

    def trash(self, root: Path) -> Path:
        """Where a collection moves it to."""
        return root / TRASH / self.stage / self.key.hex


def touch(folder: Path) -> bool:
    """Say of an entry's folder that it is used now; False where that cannot be said, as it is not
    there, or another user's.

    Its mtime is what it was last used; those of its files, by which they are known, stay.
    """
    try:
        os.utime(folder)
    except OSError:
        return False
    return True


def last_used(folder: Path) -> float:
    """In seconds since the epoch, by the clock of the file system. FileNotFoundError."""
    return folder.stat().st_mtime


class Notes:
    """What one session, all its threads, relies on."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._file = root, folder / _NOTES
        self._untouched = False
        self._noted: set[Ref] = set()
        self._lock = threading.Lock()

    def add(self, ref: Ref) -> bool:
        """Rely on an entry from now on, until the session ends; whether it is there."""
        with gate.using(self._root):
            with self._lock:
                if ref not in self._noted:
                    # Where there is no room for it, that it is touched has to do.
                    with contextlib.suppress(OSError):
                        self._append(f"{ref}\n".encode())
                    self._noted.add(ref)
            if touch(path := ref.path(self._root)):
                return True
            there = path.is_dir()
            self._untouched |= there
            return there

    def end(self) -> None:
        """Where something could only be noted, leave the notes: what names it may have been written
        since a collection looked that still goes on. They are swept with half-written files."""
        if self._untouched:
            left = self._root / "staging" / f"{_LEFT}{self._file.parent.name}"
            with gate.using(self._root), contextlib.suppress(OSError):
                disk.rename(self._file, left)

    def _append(self, line: bytes) -> None:
        # Opened each time: network file systems show others what was written when it is closed.
        handle = disk.open_or_create(self._file)
        try:
            os.lseek(handle, 0, os.SEEK_END)
            disk.write(handle, self._file, line)
        finally:
            os.close(handle)


def is_over(lock: Path, *, reliable: bool, now: float) -> int | None:
    """The handle of a session's lock, to close, where the session has ended; None while it lives.

    Where locks do not hold between hosts (not `reliable`), one of another host counts as living
    for a day after it last wrote; `now` is by the clock of the file system.
    """
    if not reliable and host_of(lock.stem) != socket.gethostname():
        with contextlib.suppress(OSError):
            written = _written(lock)
            with contextlib.suppress(FileNotFoundError):  # the folder is made after its lock
                written = max(written, _written(lock.with_suffix("")))
            if now - written < _ABSENT_SECONDS:
                return None
    return files.try_lock(lock)


def _written(path: Path) -> float:
    """When a session last wrote there; of a folder, also to its notes."""
    found = path.stat().st_mtime
    with contextlib.suppress(OSError):
        found = max(found, (path / _NOTES).stat().st_mtime)
    return found


class Living:
    """What the sessions of a store that live, or lived when this was made, rely on.

    `since` is when the oldest of them began, by the clock of the file system: what was used or
    published after that is relied on, noted or not.
    """

    def __init__(self, root: Path, *, reliable: bool, now: float) -> None:
        self._staging, self._reliable, self._now = root / "staging", reliable, now
        self._read: dict[str, int] = {}
        self._over: set[str] = set()
        self._held: dict[Ref, str] = {}
        self.since = min((began for _, began in self._sessions()), default=now)
        self.look()

    def holder(self, ref: Ref) -> str | None:
        """The session that relies on an entry, as far as was looked."""
        return self._held.get(ref)

    def look(self) -> None:
        """Read what was noted since."""
        for session, notes in self._notes():
            if session in self._over:
                continue
            try:
                with notes.open("rb") as file:
                    if notes.name != _NOTES and os.fstat(file.fileno()).st_mtime < self.since:
                        continue  # left before any of those who live now began
                    file.seek(self._read.get(session, 0))
                    new = file.read()
            except (FileNotFoundError, NotADirectoryError):
                continue
            whole = new[: new.rfind(b"\n") + 1]
            if not whole:
                continue
            new_to_us = session not in self._read and notes.name == _NOTES
            if new_to_us and self._is_over(self._staging / f"{session}.lock"):
                self._over.add(session)
                continue
            self._read[session] = self._read.get(session, 0) + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                stage, _, digits = line.partition(" ")
                with contextlib.suppress(ValueError):  # a line that a crash left half
                    self._held.setdefault(Ref(stage, Digest(f"sha256:{digits}")), session)

    def _notes(self) -> Iterator[tuple[str, Path]]:
        """The names of sessions, and where their notes may be."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._staging):  # noqa: PTH208 - names, and no paths
                if name.startswith(_LEFT):
                    yield name.removeprefix(_LEFT), self._staging / name
                elif not name.endswith(".lock"):
                    yield name, self._staging / name / _NOTES

    def _sessions(self) -> Iterator[tuple[str, float]]:
        """Those that live, and when they began."""
        for lock in self._staging.glob("*.lock"):
            with contextlib.suppress(FileNotFoundError):
                began = lock.stat().st_mtime
                if not self._is_over(lock):
                    yield lock.stem, began

    def _is_over(self, lock: Path) -> bool:
        handle = is_over(lock, reliable=self._reliable, now=self._now)
        if handle is None:
            return not lock.exists()
        os.close(handle)
        return True
