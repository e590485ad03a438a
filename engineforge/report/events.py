"""The event log: what happened in a run, a line of JSON for each event, so that a run that was
killed leaves what it had come to. Written and read here; no file is touched.

Version 1. Every line is an object with `v` (1), `time` (RFC 3339, UTC) and `event`:

    started    label, phase
    waiting    label, stage, holder
    noted      label, text
    finished   label, and what `build --json` says of a variant: outcome (built, reused, failed, …)
               with seconds and engine, or stage, error and log, or why; `check` says which check
               (accuracy, engine, latency) it came to that in, if it was one

and those of a night, around them:

    night      project, version, git, host
    step       step: it begins
    case       step, verdict (passed, failed, skipped), label or spec, code, said
    serving    engines: what each environment has, and whether that is fresh
    ended      code: the exit code; cases, by verdict; newly_stale; seconds

`engineforge schema events` prints the JSON Schema of a line (events.schema.json). Readers skip
events and fields that they do not know; another `v` is another format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import resources
from typing import Any

from engineforge.errors import UsageError
from engineforge.report.data import outcome
from engineforge.worker.outcome import Event, Finished, Noted, Started, Waiting

VERSION = 1


def schema() -> dict[str, Any]:
    """The JSON Schema 2020-12 of one line."""
    text = resources.files("engineforge.report").joinpath("events.schema.json").read_bytes()
    found: dict[str, Any] = json.loads(text)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The `finished` events of a log, the last one of each label, by label; of a variant that
    failed, in its build or a check, the one that says so. `cut` says that the last line is not
    whole. `serving` are the engines that environments had, if it says; `ended` is whether the night
    that it is of came to its end."""

    finished: Mapping[str, Mapping[str, Any]]
    cut: bool = False
    serving: Sequence[Mapping[str, Any]] | None = None
    ended: bool = False


def line(event: Event, when: datetime, check: str | None = None) -> str | None:
    """An event as a line of a log, with its end; None for one that no log has (bytes on their
    way). `check` is which one a variant `finished`, if it was none of building it."""
    match event:
        case Started(label=label, phase=phase):
            said: dict[str, Any] = {"event": "started", "label": label, "phase": phase}
        case Waiting(label=label, stage=stage, holder=holder):
            said = {"event": "waiting", "label": label, "stage": stage, "holder": holder}
        case Noted(label=label, text=text):
            said = {"event": "noted", "label": label, "text": text}
        case Finished(label=label, outcome=became):
            of = {} if check is None else {"check": check}
            said = {"event": "finished", "label": label, **of, **outcome(became)}
        case _:
            return None
    return written(said, when)


def written(said: Mapping[str, Any], when: datetime) -> str:
    """An event with its fields as a line of a log, with its end."""
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
    finished: dict[str, dict[str, Mapping[str, Any]]] = {}
    serving, ended = None, False
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
        match found.get("event"):
            case "finished":
                label = _label(found.get("label"), f"'{called}', line {number}")
                if (check := str(found.get("check", ""))) == "":
                    finished.pop(label, None)
                finished.setdefault(label, {})[check] = found
            case "serving":
                serving = _engines(found.get("engines"))
            case "ended":
                ended = True
    last = {label: _telling(list(each.values())) for label, each in finished.items()}
    return Log(finished=last, cut=cut, serving=serving, ended=ended)


def _telling(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of the build of a variant and the checks after it, the one that failed first, else the
    build: that a check was passed says nothing of another."""
    failed = (each for each in events if each.get("outcome") == "failed")
    return next(failed, events[0])


def _engines(found: object) -> Sequence[Mapping[str, Any]] | None:
    if not isinstance(found, list):
        return None
    return [each for each in found if isinstance(each, Mapping)]


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
