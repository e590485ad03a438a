"""Nights made by hand: nothing is carried out."""

from __future__ import annotations

from datetime import datetime, timezone

from engineforge.errors import Problem
from engineforge.nightly.night import Case, Night, Serving

STARTED = datetime(2026, 10, 1, 3, 17, tzinfo=timezone.utc)
HOSTILE = "a\x00b\x1b[31m\ud800 <script>&\"' ]]> \n::error::x%0A,|`*"


def night(*cases: Case, **more: object) -> Night:
    return Night(started=STARTED, project="models", cases=list(cases), **more)  # type: ignore[arg-type]


def failed(step: str = "build", code: int = 1, **more: object) -> Case:
    said = {"said": "no tactic", "label": "net/fp32@ada", "spec": "net", **more}
    return Case(step=step, verdict="failed", code=code, **said)  # type: ignore[arg-type]


def passed(step: str = "build", label: str = "net/fp16@ada") -> Case:
    return Case(step=step, verdict="passed", label=label, spec="net", said="built", seconds=1.5)


def skipped(step: str = "latency") -> Case:
    return Case(step=step, verdict="skipped", label="net/fp16@ada", spec="net", said="no GPU")


def at(file: str, line: int) -> Problem:
    return Problem(file=file, line=line, column=3, message="")


def serving(
    spec: str = "net", *, fresh: bool | None = True, environment: str = "dev", engine: str = "1"
) -> Serving:
    return Serving(
        environment=environment,
        spec=spec,
        variant="fp32",
        target="ada",
        engine=f"sha256:{engine * 64}",
        fresh=fresh,
        why="the model changed" if fresh is False else None,
    )
