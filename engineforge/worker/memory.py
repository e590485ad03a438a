"""Host memory that children may take together: each is started when what it took before fits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

_LOOK_SECONDS = 0.2


class Memory:
    """So many bytes for all children of a run; None is no limit."""

    def __init__(self, total: int | None) -> None:
        self._total, self._taken = total, 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def room(self, size: int, go_on: Callable[[], None]) -> Iterator[None]:
        """Wait until so many bytes are free, or nothing else runs: one that is too large for this
        host may still try. What `go_on` raises ends the wait."""
        with self._changed:
            while self._total is not None and self._taken and self._taken + size > self._total:
                go_on()
                self._changed.wait(_LOOK_SECONDS)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()
