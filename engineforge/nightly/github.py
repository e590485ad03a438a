"""A night as GitHub Actions shows it: annotations at lines of specs, and a summary of the step.
Pure; untrusted text stays text.

Formats: docs.github.com/actions, "Workflow commands" (escapes as in actions/toolkit,
core/command.ts) and "Adding a job summary" (1 MiB at most).
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterator

from engineforge.nightly.night import STEPS, Case, Night

_MOST_ANNOTATIONS = 10
"""GitHub shows no more of one kind and step, and drops the rest without a word."""
_MOST_CHARACTERS = 4000
_MOST_SUMMARY_BYTES = 1_000_000
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|~:@])")
_ENDS = re.compile(r"[\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+")


def commands(night: Night, below: str) -> Iterator[str]:
    """Workflow commands, the worst first, each one line. `below` is the folder of the repository:
    paths are given from there."""
    failed = night.failed
    shown = failed if len(failed) <= _MOST_ANNOTATIONS else failed[: _MOST_ANNOTATIONS - 1]
    for each in shown:
        yield _command("error", each.said, f"{each.step}: {each.name}", each, below)
    if len(shown) < len(failed):
        text = f"{len(failed) - len(shown)} more failed: they are in the summary and in junit.xml"
        yield _command("error", text, "engineforge nightly", None, below)
    if stale := night.newly_stale:
        text = "\n".join(f"{each.name}: {each.why or ''}" for each in stale)
        yield _command("warning", text, "served, and stale since tonight", None, below)


def _command(kind: str, text: str, title: str, case: Case | None, below: str) -> str:
    at = None if case is None else case.at
    properties = {}
    if at is not None:
        properties["file"] = os.path.relpath(at.file, below)
        if at.line:
            properties |= {"line": str(at.line), "col": str(at.column)}
    properties["title"] = title
    said = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{kind} {said}::{_data(text)}"


def _data(text: str) -> str:
    text = text[:_MOST_CHARACTERS]
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def summary(night: Night, told: str) -> str:
    """Markdown: what each step came to, what failed, what is stale; `told` is the night in one
    line."""
    lines = [
        f"## {_markdown(told)}",
        "",
        "| step | passed | failed | skipped |",
        "|---|--:|--:|--:|",
    ]
    for step in STEPS:
        if found := night.counted(step):
            lines.append(f"| {step} | {found['passed']} | {found['failed']} | {found['skipped']} |")
    lines += _table("Failed", ("step", "", "why"), _failed(night))
    stale = ((each.name, each.why or "") for each in night.newly_stale)
    lines += _table("Stale since tonight", ("serves", "why"), stale)
    notes = [f"* {_markdown(each)}" for each in night.notes]
    lines += ["", "### Notes", "", *notes] if notes else []
    return _cut(lines, "… there is more in junit.xml and the report")


def _failed(night: Night) -> Iterator[tuple[str, ...]]:
    yield from ((each.step, each.name, each.said) for each in night.failed)


def _table(title: str, head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> list[str]:
    made = [f"| {' | '.join(map(_markdown, row))} |" for row in rows]
    if not made:
        return []
    return ["", f"### {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|", *made]


def _markdown(text: str) -> str:
    """The same text, whatever it holds: no markup, no HTML, one line."""
    text = _ENDS.sub(" ", text[:_MOST_CHARACTERS])
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return _SPECIAL.sub(r"\\\1", html.escape(text, quote=False))


def _cut(lines: list[str], rest: str) -> str:
    size = 0
    kept: list[str] = []
    for line in lines:
        size += len(line.encode()) + 1
        if size > _MOST_SUMMARY_BYTES:
            return "\n".join([*kept, "", rest]) + "\n"
        kept.append(line)
    return "\n".join(kept) + "\n"
