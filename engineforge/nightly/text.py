"""A night in lines for people, and as JSON: what `engineforge nightly` prints. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from engineforge.errors import printable
from engineforge.nightly.night import STEPS, Night
from engineforge.report.promotion import plain
from engineforge.report.text import counted

FORMAT = 1


def headline(night: Night) -> str:
    """The night in one line."""
    failed = len(night.failed)
    parts = [f"{failed} failed" if failed else "all went well"]
    if night.interrupted:
        parts = [f"interrupted, {failed} failed until then"]
    if night.newly_stale:
        parts.append(f"{counted(len(night.newly_stale), 'served engine')} stale since")
    when = night.started.strftime("%Y-%m-%d %H:%M")
    return printable(f"night of {when} UTC, {night.project}: {', '.join(parts)}")


def lines(night: Night) -> Iterator[str]:
    """What failed, with the end of its log; what is stale; what each step came to."""
    yield from plain(_lines(night))


def _lines(night: Night) -> Iterator[str]:
    for each in night.failed:
        first, *more = each.said.splitlines() or [""]
        yield f"failed   {each.step:9}  {each.name}: {first}"
        yield from (f"  | {line}" for line in (*more, *each.detail))
    for served in night.newly_stale:
        yield f"stale    serving    {served.name}: {served.why}"
    for step in STEPS:
        if found := night.counted(step):
            counts = ", ".join(f"{found[word]} {word}" for word in _WORDS if found[word])
            yield f"{step:9}  {counts}{_alone(night, step)}"


_WORDS = ("passed", "failed", "skipped")


def _alone(night: Night, step: str) -> str:
    """What there is to say of a step that is one case, or was skipped for one reason."""
    said = {each.said for each in night.cases if each.step == step and each.verdict != "failed"}
    return f": {said.pop()}" if len(said) == 1 and "" not in said else ""


def as_json(night: Night, folder: str, webhook: str | None) -> dict[str, Any]:
    """`webhook` is what became of telling it, None where nothing was to be told."""
    return {
        "format": FORMAT,
        "kind": "engineforge-night",
        "folder": folder,
        "started": night.started.isoformat(timespec="seconds"),
        "exit_code": night.code,
        "interrupted": night.interrupted,
        "counts": dict(Counter(each.verdict for each in night.cases)),
        "cases": [
            {
                "step": each.step,
                "verdict": each.verdict,
                "label": each.label or None,
                "spec": each.spec or None,
                "code": each.code,
                "said": each.said,
                "detail": list(each.detail),
                "seconds": each.seconds,
                "file": None if each.at is None else each.at.file,
                "line": None if each.at is None else each.at.line or None,
            }
            for each in night.cases
        ],
        "newly_stale": [each.as_json() for each in night.newly_stale],
        "notes": list(night.notes),
        "webhook": webhook,
    }
