"""The timing caches that builds share: one file per GPU identity and toolchain, merged into and
never trusted unread. They save time, and are in no key; losing one loses nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from engineforge.digest import digest_bytes
from engineforge.store import files

_FOLDER = "timing-v1"
_HEADER = b"engineforge timing cache 1 "


class BadTimings(ValueError):
    """The file is not what was written; the message says what is wrong."""


class Timings:
    """One shared timing cache. Its bytes are TensorRT's own, behind one line with their digest."""

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / _FOLDER / f"{name}.cache"
        self._root = root
        self._lock = root / "staging" / "locks" / f"timing-{name}.lock"

    def read(self) -> bytes | None:
        """What is there, None if nothing is; BadTimings where it is broken."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BadTimings(f"it cannot be read: {error.strerror}") from error
        line, _, blob = data.partition(b"\n")
        if not line.startswith(_HEADER):
            raise BadTimings("it does not begin as one")
        if line[len(_HEADER) :] != str(digest_bytes(blob)).encode():
            raise BadTimings("its bytes are not those that were written")
        return blob

    @contextlib.contextmanager
    def changing(self, holder: str, waiting: Callable[[str], None]) -> Iterator[None]:
        """Nobody else writes it meanwhile; `waiting` is told who does, and may raise."""
        with files.lock(self._lock, holder, waiting):
            yield

    def write(self, blob: bytes) -> None:
        """Put this in place of what was there; a reader sees the one or the other."""
        files.make_folder(self.path.parent)
        line = _HEADER + str(digest_bytes(blob)).encode() + b"\n"
        files.replace(self.path, line + blob, self._root / "staging")

    def set_aside(self) -> Path | None:
        """Move it out of the way, for people to look at; None where it is gone already."""
        try:
            return files.move_aside(self.path, self._root / "quarantine")
        except FileNotFoundError:
            return None
