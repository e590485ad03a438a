"""What became of a variant, and what is said on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engineforge.digest import Digest
from engineforge.spec.model import LatencyCheck

NOT_STARTED = "not started, since another variant failed; --keep-going goes on with the rest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    engine: Digest
    path: Path
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reused:
    """`why` says how, where it is more than "nothing changed"."""

    engine: Digest
    path: Path
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """All stages before the engine's are there, for a host that can build it: the key of the last
    of them."""

    stage: str
    entry: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    stage: str
    error: str
    log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    why: str
    unfit: bool = False
    """Whether it is this host that cannot build it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was measured, which thresholds it misses, and what would mend that."""

    entry: Digest
    measured: Mapping[str, Any]
    failures: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """How fast an engine is, and which thresholds of `check` it misses; `than` is what was measured
    of the variant that it is compared with. `kept` says whether this was measured before."""

    entry: Digest
    check: LatencyCheck
    measured: Mapping[str, Any]
    than: Mapping[str, Any] | None = None
    kept: bool = False
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """What each layer of a variant alone costs."""

    entry: Digest
    measured: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """How far an engine that was built once more is the one in the store: `level` is the strictest
    that holds (bytes, bytes but names, layers and tactics, layers, outputs, none), `said` what was
    seen; `seconds` are those of TensorRT's own build, now and `before`."""

    engine: Digest
    level: str
    said: str
    seconds: float
    before: float


Outcome = Built | Reused | Prepared | Rebuilt | Checked | Timed | Ranked | Failed | Skipped


@dataclass(frozen=True, slots=True)
class Started:
    """A variant has reached a phase: waiting for a node, fetching, importing, converting, building,
    loading, publishing, comparing, measuring."""

    label: str
    phase: str


@dataclass(frozen=True, slots=True)
class Moved:
    """So many bytes of a variant's entries were fetched, or pushed (`phase`), of so many in all."""

    label: str
    phase: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Another process carries out this stage for the same key, or (`gpu`) has the GPU that this
    one needs; `holder` is what it says of itself."""

    label: str
    stage: str
    holder: str


@dataclass(frozen=True, slots=True)
class Noted:
    """Something went otherwise than usual, and cost time at the most."""

    label: str
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    label: str
    outcome: Outcome


Event = Started | Moved | Waiting | Noted | Finished
