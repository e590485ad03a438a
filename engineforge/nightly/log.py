"""The event log of one night, written while it happens. A log that cannot be written any more does
not end the night."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from engineforge.nightly.night import Case
from engineforge.report import events
from engineforge.worker.outcome import Event, Finished

_Tell = Callable[[Event], None]


class NightLog:
    """For all threads. `fault` is why it is not whole, if it is not."""

    def __init__(self, path: Path, now: Callable[[], datetime]) -> None:
        """The file must not exist; OSError where it cannot be made."""
        self.path, self._now = path, now
        self.fault: str | None = None
        self.finished: set[tuple[str, str | None]] = set()
        """Labels, and the checks that they finished, or None for their builds."""
        self._lock = threading.Lock()
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def __enter__(self) -> NightLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)

    def tell(self, event: Event, check: str | None = None) -> None:
        """What the worker says, of building or (`check`) of that check."""
        if isinstance(event, Finished):
            self.finished.add((event.label, check))
        if (line := events.line(event, self._now(), check)) is not None:
            self._write(line)

    def telling(self, shown: Callable[[Event], None], check: str | None = None) -> _Tell:
        """Tells two of what the worker says: this log, and `shown`."""

        def tell(event: Event) -> None:
            self.tell(event, check)
            shown(event)

        return tell

    def say(self, event: str, fields: Mapping[str, Any]) -> None:
        """One of the night's own events."""
        self._write(events.written({"event": event, **fields}, self._now()))

    def case(self, case: Case) -> None:
        """What a step came to."""
        found: dict[str, Any] = {
            "step": case.step,
            "verdict": case.verdict,
            "code": case.code,
            "said": case.said,
        }
        about: dict[str, Any] = {"label": case.label, "spec": case.spec}
        if case.at is not None:
            about |= {"file": case.at.file, "line": case.at.line}
        self.say("case", {**found, **{name: each for name, each in about.items() if each}})

    def text(self) -> str:
        """What was written so far."""
        return self.path.read_text(encoding="utf-8", errors="replace")

    def _write(self, line: str) -> None:
        with self._lock:
            if self.fault is not None:
                return
            left = line.encode()
            try:
                # Not buffered: what was said is there when this process is killed.
                while left:
                    left = left[os.write(self._handle, left) :]
            except OSError as error:
                self.fault = f"'{self.path}' cannot be written: {error.strerror}"
