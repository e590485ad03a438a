"""Entries that are there, or are made once: by this run, or by a process that is waited for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from engineforge.digest import Digest, digest_value, document
from engineforge.errors import StoreCorrupt
from engineforge.store.index import Index
from engineforge.store.local import Entry, LocalStore, Session
from engineforge.store.manifest import StoredFile
from engineforge.store.stats import folder_stats
from engineforge.store.trust import whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What making an entry left: digests of files that were hashed on the way, and the record."""

    record: Mapping[str, object]
    digests: Mapping[str, StoredFile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Obtained:
    """`why` says how an entry came to be there; None where it has just been made."""

    entry: Entry
    why: str | None


class Entries:
    """What the stages of a run obtain; for all its threads. What is not here is asked for
    `elsewhere` before it is made."""

    def __init__(
        self,
        store: LocalStore,
        session: Session,
        index: Index,
        now: Callable[[], datetime],
        elsewhere: Callable[[str, Digest], Obtained | None] | None = None,
    ) -> None:
        self._store, self._session, self.index, self._now = store, session, index, now
        self._elsewhere = elsewhere
        self._making: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def obtain(
        self,
        stage: str,
        key: object,
        make: Callable[[Path], Made],
        waiting: Callable[[str], None] = lambda _: None,
    ) -> Obtained:
        """The entry of a key, made in a staged folder by `make` where it is not there whole.

        `waiting` is told which process is waited for, again and again; what it raises ends that.
        """
        key_document = document(key)

        def made() -> Obtained:
            with self._session.staged() as staged:
                return Obtained(self._publish(staged, stage, key_document, make(staged)), None)

        with self._found(stage, digest_value(key_document), waiting) as obtained:
            return obtained or made()

    def found(
        self, stage: str, key: Digest, waiting: Callable[[str], None] = lambda _: None
    ) -> Obtained | None:
        """The same where nobody has to make it; None where somebody would have to."""
        with self._found(stage, key, waiting) as obtained:
            return obtained

    @contextlib.contextmanager
    def _found(
        self, stage: str, key: Digest, waiting: Callable[[str], None]
    ) -> Iterator[Obtained | None]:
        """The entry if it is here, in the trash or elsewhere; if it is nowhere, no other process
        makes it meanwhile."""
        self._session.uses(stage, key)  # before it is looked for, or it might be collected
        if (entry := whole(self._store, self.index, stage, key)) is not None:
            yield Obtained(entry, "nothing that it depends on has changed")
            return
        waited: list[str] = []

        def told(holder: str) -> None:
            waited.append(holder)
            waiting(holder)

        since = self._now().isoformat(timespec="seconds")
        with (
            self._one_of_this_run(f"{stage}/{key}"),
            self._session.building(stage, key, since, told),
        ):
            if (entry := whole(self._store, self.index, stage, key)) is not None:
                by = waited[-1] if waited else "another variant of this run"
                yield Obtained(entry, f"built by {by}")
            elif (entry := self._taken_back(stage, key)) is not None:
                yield Obtained(entry, "taken back from the trash")
            else:
                yield None if self._elsewhere is None else self._elsewhere(stage, key)

    def _taken_back(self, stage: str, key: Digest) -> Entry | None:
        """An entry that was collected, and is not removed for good yet."""
        if not self._store.take_back(stage, key):
            return None
        return whole(self._store, self.index, stage, key)

    def _one_of_this_run(self, name: str) -> threading.Lock:
        with self._lock:
            return self._making.setdefault(name, threading.Lock())

    def _publish(
        self, staged: Path, stage: str, key_document: Mapping[str, object], made: Made
    ) -> Entry:
        """The entry of this key: this one, or a sound one that another process was first with."""
        entry, ours = self._store.publish(
            staged,
            stage=stage,
            key_document=key_document,
            digests=made.digests,
            record=made.record,
        )
        key = entry.manifest.key
        if ours:
            self.index.know_entry(stage, key.hex, folder_stats(entry.path))
            return entry
        first = whole(self._store, self.index, stage, key)
        if first is None:
            raise StoreCorrupt(f"the {stage} entry {key.short} was published broken; run again")
        return first
