"""How a build or a check is going: a live table on a terminal, a line per event elsewhere."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TextIO

from engineforge.report.text import duration, outcome
from engineforge.worker.outcome import (
    Built,
    Event,
    Failed,
    Finished,
    Moved,
    Noted,
    Started,
    Waiting,
)

if TYPE_CHECKING:
    from rich.table import Table


# What takes long enough for a line of its own.
_SAID = ("fetching", "downloading", "exporting", "preparing", "converting", "building", "measuring")
_MEANWHILE = {
    "source": "makes the same model",
    "prepared": "prepares the same model",
    "onnx": "imports the same model",
    "typed": "converts the same model",
    "engine": "builds the same engine",
    "gpu": "has the GPU",
    "checks": "measures the same",
    "sensitivity": "measures the same",
    "engine-checks": "measures the same",
}
"""What another process does that is waited for, by stage."""


@contextlib.contextmanager
def progress(
    stream: TextIO, environment: Mapping[str, str], expected: Mapping[str, float | None]
) -> Iterator[Callable[[Event], None]]:
    """Gives what events are to be told to. `expected` are seconds by label, from earlier builds."""
    plain = environment.get("CI") or environment.get("TERM") == "dumb" or not stream.isatty()
    if plain:
        yield _Lines(stream).tell
        return
    from rich.console import Console
    from rich.live import Live

    table = _Live(expected)
    console = Console(file=stream, no_color="NO_COLOR" in environment)
    with Live(console=console, get_renderable=table.render, refresh_per_second=8, transient=True):
        yield table.tell


class _Lines:
    """One line when what takes long begins or is waited for, and when a build ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def tell(self, event: Event) -> None:
        match event:
            case Started(label=label, phase=phase) if phase in _SAID:
                self._write(f"{label}: {phase}")
            case Waiting(label=label, stage=stage, holder=holder):
                self._write(f"{label}: waiting for {holder}, which {_MEANWHILE[stage]}")
            case Noted(label=label, text=text):
                self._write(f"{label}: {text}")
            case Finished(label=label, outcome=Built(seconds=seconds)):
                self._write(f"{label}: built in {duration(seconds)}")
            case Finished(label=label, outcome=Failed(stage=stage)):
                self._write(f"{label}: failed in stage {stage}")

    def _write(self, line: str) -> None:
        # Nobody need be listening: the build goes on.
        with self._lock, contextlib.suppress(BrokenPipeError):
            self._stream.write(line + "\n")
            self._stream.flush()


class _Live:
    """A row for each build under way: phase, elapsed, what it took before; then the counts."""

    def __init__(self, expected: Mapping[str, float | None]) -> None:
        self._expected = expected
        self._rows: dict[str, tuple[str, float]] = {}
        self._said: list[tuple[str, str]] = []
        self._done = 0
        self._lock = threading.Lock()

    def tell(self, event: Event) -> None:
        with self._lock:
            match event:
                case Started(label=label, phase=phase):
                    self._rows[label] = (phase, self._began(label))
                case Moved(label=label, phase="pushing", done=done, total=total) if done == total:
                    self._rows.pop(label, None)
                case Moved(label=label, phase=phase, done=done, total=total):
                    share = 100 * done // max(total, 1)
                    self._rows[label] = (f"{phase} {share} %", self._began(label))
                case Waiting(label=label, holder=holder):
                    self._rows[label] = (f"waiting for {holder}", self._began(label))
                case Noted(label=label, text=text):
                    self._said.append((label, text))
                case Finished(label=label, outcome=found):
                    self._rows.pop(label, None)
                    self._said.append((label, outcome(found).splitlines()[0]))
                    self._done += 1

    def _began(self, label: str) -> float:
        return self._rows[label][1] if label in self._rows else time.monotonic()

    def render(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        with self._lock:
            for label, said in self._said[-5:]:
                table.add_row(Text(label, style="dim"), Text(said.split("  ")[0], style="dim"), "")
            for label, (phase, began) in self._rows.items():
                elapsed = duration(time.monotonic() - began)
                before = self._expected.get(label)
                usual = f"of about {duration(before)}" if before else "first time"
                table.add_row(Text(label), Text(phase), Text(f"{elapsed} {usual}"))
            count = f"{self._done} of {len(self._expected)} done"
            table.add_row(Text(count, style="bold"), "", "")
        return table
