"""What TensorRT says: it keeps one logger for the whole process, the first, whoever makes more.
So there is one here, and engines listen to it."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from functools import cache
from typing import Any, TextIO

from engineforge.backends.library import load, make_logger

_LINES = 32


class Messages:
    """Lines that one engine heard: all go to `log`, errors are kept for who asks."""

    def __init__(self, log: TextIO | None) -> None:
        self._log = log
        self._errors: deque[tuple[int, str]] = deque(maxlen=_LINES)

    def hear(self, line: str) -> None:
        if self._log is not None:
            self._log.write(line)
        if line.startswith(("[ERROR]", "[INTERNAL_ERROR]")):
            # The library calls in the thread whose call it answers.
            self._errors.append((threading.get_ident(), line.partition("] ")[2].rstrip()))

    def errors(self) -> list[str]:
        """What this thread's calls made it say since this was asked the last time."""
        mine = [each for each in tuple(self._errors) if each[0] == threading.get_ident()]
        for each in mine:
            with contextlib.suppress(ValueError):  # pushed out by later ones meanwhile
                self._errors.remove(each)
        return list(dict.fromkeys(line for _, line in mine))

    def told(self) -> str:
        """The same, as the end of a message."""
        return "".join(f"\n  {line}" for line in self.errors()[:8])


class Speaker:
    """The one logger of a process, and who listens. Never closed: the library keeps its address."""

    def __init__(self, backend: str) -> None:
        self._listeners: tuple[Messages, ...] = ()
        self._lock = threading.Lock()
        self.logger: Any = make_logger(load(backend), self)

    def write(self, line: str) -> None:
        """What the logger calls with each line."""
        self.logger.errors.clear()  # kept by the listeners; a process may run for months
        for each in self._listeners:
            each.hear(line)

    def listen(self, listener: Messages) -> None:
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def leave(self, listener: Messages) -> None:
        with self._lock:
            self._listeners = tuple(each for each in self._listeners if each is not listener)


@cache
def speaker(backend: str) -> Speaker:
    """The process's own, made when it is first asked for."""
    return Speaker(backend)
