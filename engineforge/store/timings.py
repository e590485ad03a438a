"""The timing caches that builds share: one file per GPU identity and toolchain, merged into and
never trusted unread. They save time, and are in no key; losing one loses nothing else."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Iterator
from pathlib import Path

from engineforge.digest import digest_bytes
from engineforge.store import files

_FOLDER = "timing-v1"
_PATIENCE_SECONDS = 60
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
    def changing(self, holder: str) -> Iterator[None]:
        """Nobody else writes it meanwhile; OSError where somebody does so for far too long."""
        end = time.monotonic() + _PATIENCE_SECONDS

        def waiting(who: str) -> None:
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, f"{who} writes it all the time")

        with files.lock(self._lock, holder, waiting):
            yield

    def write(self, blob: bytes) -> None:
        """Put this in place of what was there; a reader sees the one or the other."""
        files.make_folder(self.path.parent)
        line = _HEADER + str(digest_bytes(blob)).encode() + b"\n"
        files.replace(self.path, line + blob, self._root / "staging")

    def set_aside(self) -> None:
        """Move it out of the way, for people to look at, if it can be moved."""
        with contextlib.suppress(OSError):
            files.move_aside(self.path, self._root / "quarantine")


def all_timings(root: Path) -> list[Timings]:
    """Those of a store, by name."""
    return [Timings(root, path.stem) for path in sorted((root / _FOLDER).glob("*.cache"))]
