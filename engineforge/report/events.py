"""The event log: what happened in a run, a line of JSON for each event, so that a run that was
killed leaves what it had come to. Written and read here; no file is touched.

Version 1. Every line is an object with `v` (1), `time` (RFC 3339, UTC) and `event`:

    started    label, phase
    waiting    label, stage, holder
    noted      label, text
    finished   label, and what `build --json` says of a variant: outcome (built, reused, failed, …)
               with seconds and engine, or stage, error and log, or why

Readers skip events and fields that they do not know; another `v` is another format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from engineforge.errors import UsageError
from engineforge.report.data import outcome
from engineforge.worker.outcome import Event, Finished, Noted, Started, Waiting

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The `finished` events of a log, the last one of each label, by label; `cut` says that its
    last line is not whole."""

    finished: Mapping[str, Mapping[str, Any]]
    cut: bool = False


def line(event: Event, when: datetime) -> str | None:
    """An event as a line of a log, with its end; None for one that no log has (bytes on their
    way)."""
    match event:
        case Started(label=label, phase=phase):
            said: dict[str, Any] = {"event": "started", "label": label, "phase": phase}
        case Waiting(label=label, stage=stage, holder=holder):
            said = {"event": "waiting", "label": label, "stage": stage, "holder": holder}
        case Noted(label=label, text=text):
            said = {"event": "noted", "label": label, "text": text}
        case Finished(label=label, outcome=became):
            said = {"event": "finished", "label": label, **outcome(became)}
        case _:
            return None
    time = when.astimezone(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    # ASCII: what a model is called may hold what ends a line, or half a character.
    return json.dumps({"v": VERSION, "time": time, **said}) + "\n"


def read(text: str, called: str) -> Log:
    """The log in `text`, or what `build --json` printed; UsageError for anything else, where
    `called` is what people call it. A last line that is not whole belongs to a run that was
    killed; any other is an error."""
    whole = _object(text)
    if isinstance(whole, Mapping) and isinstance(whole.get("variants"), list):
        return Log(finished=dict(_of_build(whole["variants"], called)))
    finished: dict[str, Mapping[str, Any]] = {}
    lines = text.split("\n")
    cut = False
    for number, each in enumerate(lines, 1):
        if not each.strip():
            continue
        found = _object(each)
        if not isinstance(found, Mapping):
            if number == len(lines):
                cut = True
                continue
            raise UsageError(f"'{called}' is no event log: line {number} is no JSON object")
        if found.get("v") != VERSION:
            raise UsageError(
                f"'{called}' has events of version {found.get('v')!r} (line {number}), and this "
                f"version reads {VERSION}"
            )
        if found.get("event") == "finished":
            label = _label(found.get("label"), f"'{called}', line {number}")
            finished.pop(label, None)
            finished[label] = found
    return Log(finished=finished, cut=cut)


def _of_build(variants: list[Any], called: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for each in variants:
        if not isinstance(each, Mapping) or not isinstance(each.get("outcome"), str):
            raise UsageError(
                f"'{called}' has variants without outcomes",
                hint="expected an event log, or what `engineforge build --json` prints",
            )
        parts = [str(each.get(name, "")) for name in ("spec", "variant", "target")]
        yield "{}/{}@{}".format(*parts), each


def _label(found: object, where: str) -> str:
    if not isinstance(found, str) or not found:
        raise UsageError(f"{where}: 'finished' names no variant")
    return found


def _object(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
