"""The digest of bytes that pass by, found beside what else is done with them."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from collections.abc import Iterator

_BESIDE_FROM = 4 << 20
"""Bytes; fewer are hashed sooner than a thread is started."""
_WAITING = 4
"""Chunks at most that wait to be hashed: some MiB."""


class Passing:
    """For one thread at a time. Large ones are hashed in a thread of their own: hashlib lets others
    run meanwhile, so that with two cores it costs no time. What was added must not be changed."""

    def __init__(self) -> None:
        self._found, self.size = hashlib.sha256(), 0
        self._waiting: queue.Queue[bytes | memoryview | None] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def add(self, chunk: bytes | memoryview) -> None:
        self.size += len(chunk)
        if self._thread is None:
            if self.size <= _BESIDE_FROM:
                self._found.update(chunk)
                return
            # Never waited for by an interpreter that ends.
            self._thread = threading.Thread(target=self._hash, daemon=True)
            self._thread.start()
        self._waiting.put(chunk)

    def _hash(self) -> None:
        while (chunk := self._waiting.get()) is not None:
            self._found.update(chunk)

    def end(self) -> None:
        """No more is added."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def hexdigest(self) -> str:
        """Of all; no more is added then."""
        self.end()
        return self._found.hexdigest()


@contextlib.contextmanager
def passing() -> Iterator[Passing]:
    """One that leaves no thread behind, whatever happens."""
    made = Passing()
    try:
        yield made
    finally:
        made.end()
