"""Where things lie in a remote store and in an archive: blobs by their bytes, manifests and plan
records by key. Paths have `/` on every system."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engineforge.digest import Digest, digest_bytes
from engineforge.store.uses import Ref

_BLOBS, _ENTRIES, _PLANS, _LAST = "blobs-v1/sha256", "entries-v1", "plans-v1", "last-v1"
QUARANTINE = "quarantine"
_MEMBER = re.compile(
    rf"(?:(?P<blobs>{_BLOBS})|{_ENTRIES}/(?P<stage>[a-z0-9][a-z0-9-]*)|(?P<plans>{_PLANS}))"
    r"/(?P<ab>[0-9a-f]{2})/(?P<hex>(?P=ab)[0-9a-f]{62})(?P<end>\.json)?"
)


@dataclass(frozen=True, slots=True)
class Blob:
    digest: Digest


@dataclass(frozen=True, slots=True)
class PlanName:
    key: Digest


def blob_path(digest: Digest) -> str:
    return f"{_BLOBS}/{digest.hex[:2]}/{digest.hex}"


def entry_path(stage: str, key: Digest) -> str:
    return f"{_ENTRIES}/{stage}/{key.hex[:2]}/{key.hex}.json"


def plan_path(key: Digest) -> str:
    return f"{_PLANS}/{key.hex[:2]}/{key.hex}.json"


def last_path(label: str) -> str:
    return f"{_LAST}/{digest_bytes(label.encode()).hex}.json"


def quarantine_path(path: str, found: Digest) -> str:
    """Where an object with these bytes goes: the same for all who find it."""
    return f"{QUARANTINE}/{path}-{found.short}"


def parse(path: str) -> Blob | Ref | PlanName | None:
    """What lies at a path that one of the functions above wrote; None for any other."""
    match = _MEMBER.fullmatch(path)
    if match is None or (match["end"] is None) != (match["blobs"] is not None):
        return None
    digest = Digest(f"sha256:{match['hex']}")
    if match["blobs"]:
        return Blob(digest)
    return PlanName(digest) if match["plans"] else Ref(match["stage"], digest)
