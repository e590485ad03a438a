"""What the command line decides and reads from the world for a night."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime

from engineforge.errors import Problem
from engineforge.project.plans import Running, Selection
from engineforge.project.project import Project
from engineforge.project.promotion import Environments
from engineforge.project.specs import Specs
from engineforge.promotion.attest.keys import SigningKey
from engineforge.promotion.promoting import Who
from engineforge.report.page.document import About
from engineforge.worker.outcome import Event

Observe = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """`project` is that of `specs`, which are open; `lock` gives what the lock file says too little
    or too much; `watch` shows how something goes for the labels that it is given, with what they
    took before; `to` is the environment that is promoted to (None: the one that takes engines from
    the cache), `not_promoted` why nothing is; `collect` does the gc and says what came of it, and
    is None where that is not wanted; `bug` is told of what nobody expected, where it can still be
    traced."""

    specs: Specs
    project: Project
    selection: Selection
    running: Running
    about: About
    lock: Callable[[], Sequence[Problem]]
    watch: Callable[[Mapping[str, float | None]], AbstractContextManager[Observe]]
    environments: Callable[[], Environments]
    not_promoted: str | None
    to: str | None
    signer: Callable[[], tuple[SigningKey, Who]] | None
    collect: Callable[[], str] | None
    now: Callable[[], datetime]
    clock: Callable[[], float]
    bug: Callable[[Exception], None]

    def told(self, observe: Observe) -> Running:
        """How to run, and who is told of it."""
        return {**self.running, "observe": observe}
