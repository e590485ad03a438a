"""Moving a tag only if nobody else did, in registries, which know no compare-and-swap: by timed
mutual exclusion between whoever moves it."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import UsageError
from engineforge.promotion.oci.answer import BrokenOff
from engineforge.promotion.oci.documents import (
    ANNOTATION,
    EMPTY_CONFIG,
    BadDocument,
    ImageManifest,
)

ARTIFACT_TYPE = "application/vnd.engineforge.claim.v1"
SUFFIX = ".claim"
_LONGEST_TAG = 128
_LEAST_SECONDS = 0.2
_TRIPS = 3
_ENDS_AFTER = timedelta(minutes=10)
_MOST_ROUNDS = 50
_MOST_BROKEN = 5
_NOTHING = "nothing"
_OF = f"{ANNOTATION}claim."


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """What a tag stands for."""

    digest: Digest
    data: bytes


class Tags(Protocol):
    """What of a registry is needed here."""

    @property
    def longest_trip(self) -> float:
        """Seconds that a request took, of late."""

    def resolve(self, tag: str) -> Digest | None: ...

    def tagged(self, tag: str) -> tuple[Tagged | None, datetime | None]:
        """What it stands for, and the registry's own clock."""

    def put_tag(self, tag: str, data: bytes, *, once: bool) -> None:
        """BrokenOff, if only `once`, where nobody knows whether it was done."""

    def put_empty_config(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A thread of a process, so that others on its machine can tell whether it still runs."""

    machine: str
    process: int
    thread: int
    began: str
    name: str

    @classmethod
    def this_thread(cls) -> Owner:
        process, thread = _here()
        return cls(
            machine=_machine(),
            process=process,
            thread=thread,
            began=_began(process, thread) or "",
            name=f"{socket.gethostname()}, process {process}",
        )

    @property
    def has_ended(self) -> bool:
        """False, too, where that cannot be told from here."""
        if not self.machine or self.machine != _machine():
            return False
        if (self.process, self.thread) == _here():
            return True  # whoever asks is in no other move
        return _began(self.process, self.thread) != self.began


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """That someone is about to move a tag from one manifest to another."""

    owner: Owner
    attempt: str
    since: str
    source: str
    to: Digest

    def to_bytes(self) -> bytes:
        owner = self.owner
        return ImageManifest(
            artifact_type=ARTIFACT_TYPE,
            config=EMPTY_CONFIG,
            layers=(EMPTY_CONFIG,),
            annotations={
                f"{_OF}attempt": self.attempt,
                f"{_OF}since": self.since,
                f"{_OF}from": self.source,
                f"{_OF}to": self.to,
                f"{_OF}machine": owner.machine,
                f"{_OF}process": str(owner.process),
                f"{_OF}thread": str(owner.thread),
                f"{_OF}began": owner.began,
                f"{_OF}by": owner.name,
            },
        ).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Claim | None:
        """None for what is no claim: nobody's, then."""
        try:
            said = ImageManifest.from_bytes(data).annotations
            return cls(
                owner=Owner(
                    machine=said[f"{_OF}machine"],
                    process=int(said[f"{_OF}process"]),
                    thread=int(said[f"{_OF}thread"]),
                    began=said[f"{_OF}began"],
                    name=said[f"{_OF}by"],
                ),
                attempt=said[f"{_OF}attempt"],
                since=said[f"{_OF}since"],
                source=said[f"{_OF}from"],
                to=Digest(said[f"{_OF}to"]),
            )
        except (BadDocument, KeyError, ValueError):
            return None


class Mover:
    """Moves tags of one repository.

    The algorithm is Fischer's (L. Lamport, "A fast mutual exclusion algorithm", 1987, section 2): a
    claim is the tag `<tag>.claim`. Whoever finds it free puts its own, waits for longer than
    anybody takes from finding to putting, and may go on if the claim is still its own. Here it then
    also looks at the tag once more, moves it, and reads it back.

    What that promises: of processes that run, and reach the registry in the times that they have
    measured, one moves the tag, and the others learn of it. What it does not: a process that is
    halted, or a request that the network keeps, for longer than the wait, between the last look
    at the tag and the moving of it, can undo another's move that happened meanwhile. Both then have
    been told that they won, and only the tags `<tag>--<n>` and the ledger show it. Nor does it help
    against what moves the tag without a claim, or a registry that shows what it had a while ago.

    Claims are not removed, since that cannot be done without removing another's: the next one takes
    its place, and its manifest is left to the registry's garbage collection. One counts no longer
    when the tag has moved on from where it begins, when its thread has ended (seen from the same
    machine only), or ten minutes after it was put, by the registry's own clock.
    """

    def __init__(
        self,
        tags: Tags,
        *,
        said: Callable[[str], None],
        wait: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tags, self._said, self._wait, self._clock = tags, said, wait, clock

    def move(self, tag: str, to: Digest, data: bytes, expected: Digest | None) -> bool:
        """`data` are the bytes of `to`. BrokenOff where trying again did not help."""
        claimed = f"{tag}{SUFFIX}"
        if len(claimed) > _LONGEST_TAG:
            raise UsageError(
                f"the tag '{tag}' is too long to be moved: '{claimed}' has to be one, too",
                hint=f"a name of at most {_LONGEST_TAG - len(SUFFIX)} characters",
            )
        if to == expected:
            return self._tags.resolve(tag) == expected
        self._tags.put_empty_config()
        owner, seen, sent, broken = Owner.this_thread(), _Seen(), False, 0
        for _ in range(_MOST_ROUNDS):
            while True:
                if (at := self._tags.resolve(tag)) != expected:
                    return sent and self._was_moved(claimed, at, to)
                delta = max(_LEAST_SECONDS, _TRIPS * self._tags.longest_trip)
                began = self._clock()
                found, date = self._tags.tagged(claimed)
                other = None if found is None else Claim.from_bytes(found.data)
                if other is None or not self._holds(other, date, expected, seen):
                    break
                self._wait(delta)
            mine = Claim(
                owner=owner,
                attempt=secrets.token_hex(16),
                since="" if date is None else date.isoformat(),
                source=expected or _NOTHING,
                to=to,
            ).to_bytes()
            self._tags.put_tag(claimed, mine, once=False)
            if self._clock() - began > delta:
                continue  # someone else may have found it free, and gone on, before it was ours
            self._wait(delta)
            looked = self._clock()
            if self._tags.resolve(claimed) != digest_bytes(mine):
                continue
            if self._tags.resolve(tag) != expected or self._clock() - looked > delta:
                continue
            sent = True
            try:
                # Once: a second time it might undo what another did after the first.
                self._tags.put_tag(tag, data, once=True)
            except BrokenOff:
                broken += 1
                if broken == _MOST_BROKEN:
                    raise
                self._wait(delta)
        raise BrokenOff(f"in {_MOST_ROUNDS} rounds '{claimed}' was never kept for long enough")

    def _was_moved(self, claimed: str, at: Digest | None, to: Digest) -> bool:
        """Whether a request that was sent has done it, although others may have gone on since."""
        if at == to:
            return True
        found, _ = self._tags.tagged(claimed)
        latest = None if found is None else Claim.from_bytes(found.data)
        return latest is not None and latest.source == to

    def _holds(
        self, claim: Claim, date: datetime | None, expected: Digest | None, seen: _Seen
    ) -> bool:
        """Whether somebody else's claim on a tag that stands for `expected` counts."""
        if claim.source != (expected or _NOTHING) or claim.owner.has_ended:
            return False
        try:
            age = (date or datetime.min) - datetime.fromisoformat(claim.since)
        except (ValueError, TypeError):
            age = timedelta(0)  # a registry that does not tell the time
        now = self._clock()
        if seen.attempt != claim.attempt:
            seen.attempt, seen.first = claim.attempt, now
            self._said(
                f"{claim.owner.name} is changing what this would change; waiting until it has"
                f" done so, or for at most {_ENDS_AFTER.seconds // 60} minutes"
            )
        return age <= _ENDS_AFTER and now - seen.first <= _ENDS_AFTER.total_seconds()


@dataclass(slots=True)
class _Seen:
    """The claim of another that was found last, and when first."""

    attempt: str = ""
    first: float = 0.0


def _here() -> tuple[int, int]:
    return os.getpid(), threading.get_native_id()


def _machine() -> str:
    """This boot of this kernel, and the processes that can be seen (proc(5)); empty where that
    cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(process: int, thread: int) -> str | None:
    """When a thread was started, in ticks since the machine was (proc(5), stat); None where there
    is no such thread, or none but in its parent's books."""
    try:
        said = Path(f"/proc/{process}/task/{thread}/stat").read_text(encoding="utf-8")
        fields = said.rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else fields[19]
    except (OSError, IndexError, UnicodeDecodeError):
        return None
