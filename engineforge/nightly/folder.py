"""The folder that nights are kept in: one folder for each, by the time (UTC) when it began, and
`latest`, a link to the one that ended last. One night at a time; nothing is ever overwritten."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from engineforge.errors import EngineForgeError, HostUnfit, UsageError
from engineforge.report import events
from engineforge.report.events import Log
from engineforge.store import files

EVENTS, JUNIT, PAGE, REPORT = "events.jsonl", "junit.xml", "report.html", "report.json"
LATEST = "latest"
_LOCK = ".lock"
_NAME = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(-\d+)?")
_MOST_AT_ONE_TIME = 1000


class NightUnderWay(EngineForgeError):
    """Another process has a night there."""


class Nights:
    """Those in `root`, which is made where its parent is there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextlib.contextmanager
    def begun(self, now: datetime, me: str) -> Iterator[Path]:
        """The new folder of a night, while no other one is begun there: NightUnderWay with what the
        other one says of itself (`me`). HostUnfit where it cannot be written."""

        def taken(holder: str) -> None:
            raise NightUnderWay(
                f"a night is under way in '{self.root}': {holder}",
                hint="wait for it, or keep the nights of other specs in another folder: -o",
            )

        if not self.root.absolute().parent.is_dir():
            raise UsageError(f"-o: there is no folder to make '{self.root}' in")
        with contextlib.ExitStack() as stack:
            try:
                self.root.mkdir(exist_ok=True)
                stack.enter_context(files.lock(self.root / _LOCK, me, taken))
                folder = self._made(now)
            except FileExistsError as error:
                raise UsageError(f"-o: '{self.root}' is no folder") from error
            except OSError as error:
                where = error.filename or self.root
                raise HostUnfit(f"'{where}' cannot be written: {error.strerror}") from error
            yield folder

    def _made(self, now: datetime) -> Path:
        name = now.astimezone(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")
        for number in range(1, _MOST_AT_ONE_TIME):
            folder = self.root / (name if number == 1 else f"{name}-{number}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return folder
        raise EngineForgeError(f"'{self.root}' has no free name for the night of {name}")

    def earlier(self, than: Path) -> list[Path]:
        """The nights before one, the newest first."""
        found = [
            each
            for each in self.root.iterdir()
            if _NAME.fullmatch(each.name) and each.is_dir() and _age(each) < _age(than)
        ]
        return sorted(found, key=_age, reverse=True)

    def end(self, folder: Path) -> str | None:
        """Have `latest` be this one; why that cannot be, where it cannot."""
        link = self.root / LATEST
        temporary = self.root / f".{LATEST}-{os.getpid()}"
        try:
            if link.exists() and not link.is_symlink():
                return f"'{link}' is no link, and stays as it is"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(folder.name)
            temporary.replace(link)
        except OSError as error:  # there are file systems without links
            return f"'{link}' cannot be made: {error.strerror}"
        return None

    def forget(self, folder: Path, keep: int) -> list[str]:
        """Remove the nights before the last `keep`, this one being one of them: the files that a
        night leaves, and their folder where it holds no others. The names of those that went."""
        gone = []
        for each in self.earlier(folder)[keep - 1 :]:
            with contextlib.suppress(OSError):
                for name in (EVENTS, JUNIT, PAGE, REPORT):
                    (each / name).unlink(missing_ok=True)
                each.rmdir()
                gone.append(each.name)
        return gone


def _age(folder: Path) -> tuple[str, int]:
    time, _, number = folder.name.partition("Z")
    return time, int(number[1:] or 1)


def log_file(path: Path) -> Path:
    """The event log of a night whose folder is named; else what is named."""
    within = path / EVENTS
    return within if within.is_file() else path


def read_log(folder: Path) -> Log | None:
    """The log of a night; None where there is none that can be read."""
    try:
        text = (folder / EVENTS).read_text(encoding="utf-8", errors="replace")
        return events.read(text, str(folder / EVENTS))
    except (OSError, EngineForgeError):
        return None
