"""Two stores as one: a near one, and a far one that it is filled from and that is given what the
near one has made. Near first, and far only what is missing near."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from engineforge.digest import Digest
from engineforge.store.far.objects import RemoteUnavailable
from engineforge.store.far.remote import Remote, RemoteCorrupt
from engineforge.store.far.transfer import Progress
from engineforge.store.index import Index
from engineforge.store.local import Entry, LocalStore, Session
from engineforge.store.manifest import Manifest, PlanRecord
from engineforge.store.stats import folder_stats
from engineforge.store.trust import whole

T = TypeVar("T")


class Overlay:
    """`far` behind `near`, for all threads of a run. What is wrong with the far store costs time
    and is said; when it cannot be reached once, this run goes on without it."""

    def __init__(
        self,
        near: LocalStore,
        far: Remote,
        *,
        index: Index,
        push: bool,
        said: Callable[[str], None],
    ) -> None:
        self._near, self._far, self._index = near, far, index
        self._push, self._said = push, said
        self._lock = threading.Lock()
        self._down = False

    @property
    def where(self) -> str:
        return self._far.url

    @property
    def pushes(self) -> bool:
        return self._push

    def record(self, plan: Digest) -> PlanRecord | None:
        """What the plan led to elsewhere."""
        return self._reached(lambda: self._far.record(plan))

    def manifest(self, stage: str, key: Digest) -> Manifest | None:
        """That of an entry, near or far; its files are another matter."""
        if (entry := self._near.get(stage, key)) is not None:
            return entry.manifest
        return self._reached(lambda: self._far.manifest(stage, key))

    def nearest(self, label: str) -> PlanRecord | None:
        """What the variant of this label last led to elsewhere, whatever its plan was."""

        def found() -> PlanRecord | None:
            plan = self._far.last(label)
            return None if plan is None else self._far.record(plan)

        return self._reached(found)

    def fetch(
        self, stage: str, key: Digest, session: Session, partial: Path, progress: Progress
    ) -> Entry | None:
        """The entry of a key, on which the session relies already, from far, published near with
        every byte verified; None where there is none, or none that can be used."""

        def fetched() -> Entry | None:
            manifest = self._far.manifest(stage, key)
            if manifest is None:
                return None
            progress(0, sum(file.size for file in manifest.files.values()))
            with session.staged() as staged:
                self._far.fetch(manifest, staged, partial, progress)
                entry, ours = self._near.adopt(staged, manifest)
            if not ours:  # another process was first
                return whole(self._near, self._index, stage, key)
            self._index.know_entry(stage, key.hex, folder_stats(entry.path))
            return entry

        return self._reached(fetched)

    def push(self, plan: Digest, label: str, progress: Progress) -> bool:
        """Give the far store what a plan led to here; whether that is there now."""

        def pushed() -> bool:
            record = self._near.plan_record(plan)
            if record is None:
                return False
            self._far.push_record(self._near, record, progress)
            self._far.put_last(label, plan)
            return True

        return bool(self._reached(pushed))

    def give(self, entry: Entry, progress: Progress) -> None:
        """Give the far store one entry, that need not be near. Who asks for this cannot go on
        without it: RemoteUnavailable is raised."""
        self._far.push(entry, progress)

    def _reached(self, ask: Callable[[], T]) -> T | None:
        if self._down:
            return None
        try:
            return ask()
        except RemoteCorrupt:
            return None  # it was said where it was found
        except RemoteUnavailable as error:
            with self._lock:
                first, self._down = not self._down, True
            if first:
                hint = f"\nhint: {error.hint}" if error.hint else ""
                self._said(f"{error.args[0]}; this run goes on without it{hint}")
            return None
