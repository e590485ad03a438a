"""The end of a night: what it leaves in its folder, and what it knows of the nights before."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engineforge.errors import EngineForgeError, HostUnfit
from engineforge.nightly import junit
from engineforge.nightly.folder import JUNIT, PAGE, REPORT, Nights, read_log
from engineforge.nightly.log import NightLog
from engineforge.nightly.night import Case, Night, unexpected
from engineforge.nightly.reporting import carried, newly_stale
from engineforge.report.events import Log
from engineforge.report.page.html import page
from engineforge.store import files


class End:
    """Of one night, in its folder; `keep` nights are kept, and `bug` is told of what nobody
    expected."""

    def __init__(
        self,
        nights: Nights,
        folder: Path,
        night: Night,
        log: NightLog,
        *,
        keep: int,
        bug: Callable[[Exception], None],
    ) -> None:
        self._nights, self._folder, self._keep, self._bug = nights, folder, keep, bug
        self._night, self._log = night, log
        self._before: Log | None = None

    def look_back(self) -> None:
        """Compare with the night before: whether it ended, and what is stale since."""
        night = self._night
        earlier = self._nights.earlier(self._folder)
        for folder in earlier[:1]:
            if (last := read_log(folder)) is None or not last.ended:
                night.notes.append(f"the night before, '{folder}', did not end: it was killed")
        # One that was killed may not have come to ask the environments.
        for folder in earlier:
            if (found := read_log(folder)) is not None and found.serving is not None:
                self._before = found
                break
        if night.serving is not None:
            night.newly_stale = newly_stale(night.serving, self._seen())

    def _seen(self) -> Sequence[Mapping[str, Any]] | None:
        return None if self._before is None else self._before.serving

    def write(self) -> None:
        """The report, and then JUnit, which says what of it could not be written."""
        document = self._night.document
        if document is not None:
            self._written(REPORT, lambda: json.dumps(document, indent=2).encode())
            self._written(PAGE, lambda: page(document).encode())
            if not any(each.step == "report" for each in self._night.cases):
                self._add(Case(step="report", verdict="passed"))
        self._written(JUNIT, lambda: junit.document(self._night))

    def _written(self, name: str, made: Callable[[], bytes]) -> None:
        path = self._folder / name
        try:
            files.replace(path, made(), self._folder)
        except EngineForgeError as error:  # what makes the page is not installed
            self._failed(error.exit_code, f"'{path}' is not made: {error}")
        except OSError as error:
            self._failed(HostUnfit.exit_code, f"'{path}' cannot be written: {error.strerror}")
        except Exception as error:  # what else there is, and who is to be told, go on
            self._bug(error)
            self._failed(EngineForgeError.exit_code, f"'{path}': {unexpected(error)}")

    def _failed(self, code: int, said: str) -> None:
        self._add(Case(step="report", verdict="failed", code=code, said=said))

    def _add(self, case: Case) -> None:
        self._night.cases.append(case)
        self._log.case(case)

    def close(self, seconds: float) -> None:
        """Say that the night is over, and let go of those that are not kept."""
        night = self._night
        if night.serving is not None:
            self._log.say("serving", {"engines": carried(night.serving, self._seen())})
        if (why := self._nights.end(self._folder)) is not None:
            night.notes.append(why)
        if gone := self._nights.forget(self._folder, self._keep):
            night.notes.append(f"nights that are kept no longer: {', '.join(gone)}")
        if self._log.fault is not None:
            self._failed(HostUnfit.exit_code, self._log.fault)
        for note in night.notes:
            self._log.say("noted", {"text": note})
        self._log.say(
            "ended",
            {
                "code": night.code,
                "cases": Counter(each.verdict for each in night.cases),
                "newly_stale": [each.as_json() for each in night.newly_stale],
                "seconds": round(seconds, 3),
            },
        )
