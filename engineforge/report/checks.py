"""What several kinds of checks came to, side by side. Pure: prints nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engineforge.project.plans import Plan
from engineforge.report import accuracy, data
from engineforge.worker.outcome import Outcome

Found = Mapping[str, Sequence[Outcome]]
"""Outcomes by kind of check (`accuracy`, `engine`, `latency`), each in the order of the plan."""


def check_lines(plan: Plan, found: Found) -> Iterator[str]:
    """For each variant a line of each kind, which is named where there are several."""
    lines = [list(accuracy.check_lines(plan, outcomes, kind)) for kind, outcomes in _named(found)]
    for of_variant in zip(*lines, strict=True):
        yield from of_variant


def failure_lines(plan: Plan, found: Found) -> Iterator[str]:
    """Why checks failed, kind by kind."""
    for kind, outcomes in _named(found):
        yield from accuracy.failure_lines(plan, outcomes, kind)


def as_json(plan: Plan, found: Found) -> dict[str, Any]:
    """What `--json` prints: an object for each kind of each variant."""
    whole = [(kind, data.build(plan, outcomes)) for kind, outcomes in found.items()]
    rows = zip(*(each["variants"] for _, each in whole), strict=True)
    kinds = [kind for kind, _ in whole]
    variants = [
        {"check": kind, **each} for row in rows for kind, each in zip(kinds, row, strict=True)
    ]
    return {**data.build(plan, next(iter(found.values()))), "variants": variants}


def _named(found: Found) -> Iterator[tuple[str, Sequence[Outcome]]]:
    width = max(map(len, found))
    for kind, outcomes in found.items():
        yield (f"{kind:{width}}" if len(found) > 1 else ""), outcomes
