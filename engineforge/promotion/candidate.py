"""An engine that is to pass into an environment, and what is known of it: plain values, so that
gates can decide without reading anything. Verifying signatures and subjects is done before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from engineforge.digest import Digest
from engineforge.target import Gpu, gpu_differences


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An engine that is to pass, by digests: its artifact's `manifest`, the `engine` file, `plan`
    and `key` of its entry. `file` is its spec as commands take it; `gpu` or `compute_capabilities`
    (TensorRT-RTX), and the `driver` if one is pinned, are those of its target; without any of them,
    no measurement counts."""

    spec: str
    file: str
    variant: str
    target: str
    manifest: Digest
    engine: Digest
    plan: Digest
    key: Digest
    gpu: Gpu | None = None
    compute_capabilities: tuple[str, ...] = ()
    driver: str | None = None

    @property
    def label(self) -> str:
        return f"{self.spec}/{self.variant}@{self.target}"

    def why_not_on(self, gpu: Gpu | None, driver: str | None) -> str | None:
        """Why a GPU is none of its target, in words; None where it is one."""
        if gpu is None:
            return "it is not said on which GPU it ran"
        if self.gpu is None and not self.compute_capabilities:
            return f"it is not known what GPU target '{self.target}' has"
        if self.gpu is not None and (differences := gpu_differences(self.gpu, gpu)):
            return f"on '{gpu.name}', {' and '.join(map(str, differences))}"
        if self.gpu is None and gpu.compute_capability not in self.compute_capabilities:
            wanted = ", ".join(self.compute_capabilities)
            found = f"compute capability is '{gpu.compute_capability}'"
            return f"on '{gpu.name}', {found}, expected one of {wanted}"
        if self.driver is not None and driver != self.driver:
            return f"on '{gpu.name}', driver is {driver}, expected {self.driver}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A statement about one engine, with signatures that verify: of these names in the
    environment's `signers`, at this `time` by the statement itself. ValueError without a zone."""

    signers: tuple[str, ...]
    time: datetime

    def __post_init__(self) -> None:
        if self.time.tzinfo is None:
            raise ValueError(f"a time needs its zone: {self.time}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance(Signed):
    """Somebody says how it was built."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy(Signed):
    """What came of an accuracy check on `data`; `failures` are the missed thresholds in words, with
    value and limit. `gpu` and `driver` are those that ran it, where it is of the engine."""

    of: Literal["model", "engine"]
    data: Digest
    passed: bool
    failures: tuple[str, ...] = ()
    gpu: Gpu | None = None
    driver: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(Signed):
    """One measurement, in ms, at a `point` (profile and shapes) with `settings`, as a LatencyKey
    has them. Whether it is fast enough, a gate says by limits of its own, not the spec by its."""

    median_ms: float | None
    p99_ms: float | None
    gpu: Gpu
    driver: str
    point: Mapping[str, Any]
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTest(Signed):
    """Whether a fresh process could load and run it on a GPU, and what it said if not."""

    passed: bool
    why: str = ""
    gpu: Gpu
    driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval(Signed):
    """Its signers want it, as an engine of `spec`, in `environment`."""

    environment: str
    spec: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InSource:
    """The source environment has this very engine now, without a break since then."""

    environment: str
    since: datetime

    def __post_init__(self) -> None:
        if self.since.tzinfo is None:
            raise ValueError(f"a time needs its zone: {self.since}")


@dataclass(frozen=True, slots=True)
class NotInSource:
    why: str


@dataclass(frozen=True, slots=True)
class Fresh:
    pass


@dataclass(frozen=True, slots=True)
class Stale:
    why: str


@dataclass(frozen=True, slots=True)
class Unknown:
    why: str


Freshness = Fresh | Stale | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a candidate: statements whose signatures verify and whose subject it is."""

    provenance: tuple[Provenance, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    latency: tuple[Latency, ...] = ()
    load_tests: tuple[LoadTest, ...] = ()
    approvals: tuple[Approval, ...] = ()
    source: InSource | NotInSource = NotInSource("nothing is known of it there")
    freshness: Freshness = Unknown("nobody asked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """The engine whose place the candidate takes, by the digest of its file."""

    engine: Digest
    latency: tuple[Latency, ...] = ()
