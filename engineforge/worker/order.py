"""What is sent to a node of a cluster, and what comes back: small, and never an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engineforge.digest import Digest
from engineforge.worker.job import Job
from engineforge.worker.labels import Need
from engineforge.worker.outcome import Failed, Skipped
from engineforge.worker.parcel import Parcel


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One engine to build, of the model that is `digest` with `external` by content. `job` has no
    files: they lie in the `parcel`, in the store at `remote`, which takes the engine as well.
    `version` is this package's, `about` goes into the manifest."""

    job: Job
    digest: Digest
    external: tuple[Digest, ...]
    engine: Digest
    parcel: Parcel
    need: Need
    remote: str
    version: str
    timeout: float | None
    cold: bool
    about: Mapping[str, object]

    @property
    def label(self) -> str:
        return self.job.label


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The engine is in the remote store; `made` says whether this order had it built."""

    engine: Digest
    made: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A node is not what its labels say. `node` is its id, as the cluster has it."""

    node: str = ""
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The node, or its process, is gone, and with it what it was building."""

    why: str


Answer = Delivered | Refused | Failed | Skipped
