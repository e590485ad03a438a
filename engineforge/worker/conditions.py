"""What the command line decides and reads from the world for a run of the worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from engineforge.worker.outcome import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """`jobs` builds at once, each at most `timeout` seconds, with so many bytes of host `memory`
    for all; `cold` builds know no timings of others; `about` goes into manifests."""

    jobs: int
    keep_going: bool
    timeout: float | None
    memory: int | None
    cold: bool
    environment: Mapping[str, str]
    about: Mapping[str, object]
    now: Callable[[], datetime]
    observe: Callable[[Event], None]
