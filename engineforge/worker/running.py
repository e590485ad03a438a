"""What the threads of a run share: whether it goes on, and the children that end with it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from engineforge.worker.process import Child

INTERRUPTED = "interrupted"


class Halted(Exception):
    """The run was stopped while this variant waited."""


class Running:
    """`why` is why no variant is to be started any more; None while the run goes on."""

    def __init__(self) -> None:
        self.why: str | None = None
        self._children: set[Child] = set()
        self._lock = threading.Lock()

    def halt(self, why: str) -> None:
        """Start nothing more; what runs may end."""
        with self._lock:
            self.why = self.why or why

    def interrupt(self) -> None:
        """Start nothing more, and kill what runs."""
        self.halt(INTERRUPTED)
        with self._lock:
            for child in self._children:
                child.kill(INTERRUPTED)

    def go_on(self) -> None:
        """Halted where the run was stopped."""
        if self.why is not None:
            raise Halted

    @contextlib.contextmanager
    def child(self, child: Child) -> Iterator[Child]:
        """A child that is killed when the run is interrupted, and collected at the end."""
        with self._lock:
            self._children.add(child)
            stopped = self.why == INTERRUPTED
        try:
            if stopped:
                child.kill(INTERRUPTED)
            yield child
        finally:
            with self._lock:
                self._children.discard(child)
            child.close()
