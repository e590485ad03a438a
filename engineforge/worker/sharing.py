"""What a run takes from the store that machines share before it builds, and gives it afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from engineforge.digest import Digest
from engineforge.errors import EngineForgeError
from engineforge.store.far.overlay import Overlay
from engineforge.store.local import Entry, Session
from engineforge.store.uses import Ref
from engineforge.worker.chain import planned
from engineforge.worker.entries import Obtained
from engineforge.worker.job import Job
from engineforge.worker.outcome import Event, Moved, Noted, Started
from engineforge.worker.running import INTERRUPTED, Halted, Running

_AT_ONCE = 2
PARTIAL = Path("staging", "partial")
_WORTH_IT = ("source", "prepared", "typed", "engine")


class Sharing:
    """For all threads of a run. Whatever goes wrong with the far store is said, and costs time."""

    def __init__(
        self,
        overlay: Overlay,
        root: Path,
        session: Session,
        *,
        running: Running,
        tell: Callable[[Event], None],
    ) -> None:
        self._overlay, self._session = overlay, session
        self._running, self._tell = running, tell
        self._partial = root / PARTIAL
        self._pushing: list[tuple[str, Future[bool]]] = []
        self._pool: ThreadPoolExecutor | None = None
        self._labels: dict[Digest, str] = {}
        self._lock = threading.Lock()

    @property
    def where(self) -> str:
        return self._overlay.where

    @property
    def why(self) -> str:
        """How an entry that was fetched came to be here."""
        return f"built elsewhere, from {self.where}"

    def planned(self, job: Job) -> list[Ref]:
        """The entries that this job's plan comes to, as far as what was left elsewhere tells: with
        that of its engine last, where other machines have made what it is made of."""
        found = list(planned(job, self._overlay.manifest))
        with self._lock:
            self._labels |= {ref.key: job.variant.label for ref in found}
        return found

    def fetch(self, stage: str, key: Digest) -> Obtained | None:
        """The entry of a key from there; None where there is none, or where making it is as quick
        as asking for it."""
        if stage not in _WORTH_IT:
            return None
        told = self._telling(self._labels.get(key, ""), "fetching")
        entry = self._overlay.fetch(stage, key, self._session, self._partial, told)
        return None if entry is None else Obtained(entry, self.why)

    def push(self, job: Job) -> None:
        """Begin to give what this job's plan led to; `finish` waits for it."""
        if not self._overlay.pushes:
            return
        plan, label = job.key.digest(), job.variant.label
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="push")
            given = self._pool.submit(
                self._overlay.push, plan, label, self._telling(label, "pushing")
            )
            self._pushing.append((label, given))

    def give(self, entry: Entry, label: str) -> None:
        """Give an entry now, for others to go on with; RemoteUnavailable where that fails."""
        self._overlay.give(entry, self._telling(label, "sending"))

    def finish(self) -> None:
        """Wait for what is being pushed; a run that was interrupted gives it up."""
        if self._pool is not None:
            interrupted = self._running.why == INTERRUPTED
            self._pool.shutdown(wait=True, cancel_futures=interrupted)
        pushing, self._pushing, self._pool = self._pushing, [], None
        for label, given in pushing:
            error = None if given.cancelled() else given.exception()
            if error is not None and not isinstance(error, EngineForgeError | OSError | Halted):
                raise error
            if given.cancelled() or error is not None or not given.result():
                why = f": {error.args[0]}" if isinstance(error, EngineForgeError) else ""
                later = "`engineforge cache push` gives it later"
                self._tell(Noted(label, f"not pushed to {self.where}{why}; {later}"))

    def _telling(self, label: str, phase: str) -> Callable[[int, int], None]:
        """Says how a transfer goes, and ends it when the run is interrupted; where a variant
        failed, what others built is given all the same."""

        def told(done: int, total: int) -> None:
            if self._running.why == INTERRUPTED:
                raise Halted
            if label and phase == "fetching" and done == 0:
                self._tell(Started(label, phase))
            elif label:
                self._tell(Moved(label, phase, done, total))

        return told
