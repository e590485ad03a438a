"""What every stage of a run stands on: entries obtained, children asked, and files that must be
found as they were planned."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engineforge.digest import Digest, digest_value
from engineforge.errors import EngineForgeError
from engineforge.store.local import Entry, LocalStore, Session
from engineforge.store.stats import Stat, stat_of
from engineforge.store.trust import whole
from engineforge.worker.conditions import Conditions
from engineforge.worker.entries import Entries, Made, Obtained
from engineforge.worker.gpus import Gpus, Lease
from engineforge.worker.job import Files, Job, StageFailed
from engineforge.worker.memory import Memory
from engineforge.worker.outcome import Event, Waiting
from engineforge.worker.process import Child, Crashed
from engineforge.worker.running import Running

_SPARE_BYTES = 64 << 20
_CHILD_BYTES = 512 << 20
_TIMES_WEIGHTS = 4


class Stage:
    """Shared by all threads of a run; StageFailed says what failed."""

    def __init__(
        self,
        store: LocalStore,
        session: Session,
        entries: Entries,
        *,
        running: Running,
        conditions: Conditions,
    ) -> None:
        self.store, self.session, self._entries = store, session, entries
        self.running, self.conditions = running, conditions
        self.gpus = Gpus(session, conditions.now)
        self._memory = Memory(conditions.memory)
        self._also_read: dict[Digest, Files] = {}

    def tell(self, event: Event) -> None:
        self.conditions.observe(event)

    def reads_too(self, onnx: Digest, files: Files) -> None:
        """The import of this key is made from these files, whichever variant asks for it."""
        self._also_read[onnx] = files

    def waiting(self, label: str, stage: str) -> Callable[[str], None]:
        """Says once for whom is waited; Halted ends that with the run."""
        waited: set[str] = set()

        def told(holder: str) -> None:
            self.running.go_on()
            if holder not in waited:
                waited.add(holder)
                self.tell(Waiting(label, stage, holder))

        return told

    def obtain(self, label: str, stage: str, key: object, make: Callable[[Path], Made]) -> Obtained:
        """The entry of a key: there, made now, or made by whoever is waited for meanwhile."""

        def unless_halted(staged: Path) -> Made:
            self.running.go_on()
            return make(staged)

        try:
            return self._entries.obtain(stage, key, unless_halted, self.waiting(label, stage))
        except EngineForgeError as error:
            raise StageFailed(stage, str(error)) from error

    def found(self, label: str, stage: str, key: Digest) -> Obtained | None:
        """The same for an entry that nobody has to make; None where somebody would have to."""
        try:
            return self._entries.found(stage, key, self.waiting(label, stage))
        except EngineForgeError as error:
            raise StageFailed(stage, str(error)) from error

    def there(self, stage: str, key: Digest) -> Entry | None:
        """The entry of a key, if it is there whole; nothing is made."""
        self.session.uses(stage, key)
        return whole(self.store, self._entries.index, stage, key)

    def record(self, more: Mapping[str, object]) -> dict[str, object]:
        """What a manifest says of how its entry came to be."""
        # To the microsecond: two builds of one second have an order too.
        finished = self.conditions.now().isoformat()
        return {**self.conditions.about, "finished": finished, **more}

    def ask(
        self,
        job: Job,
        stage: str,
        request: Mapping[str, object],
        log: Path,
        *,
        child: Child | None = None,
        lease: Lease | None = None,
    ) -> dict[str, Any]:
        """What a child of its own answers, if no file of the job changed meanwhile; it is started
        when there is memory for what it took before, or may take."""
        guess = _CHILD_BYTES + _TIMES_WEIGHTS * job.interface.weight_bytes
        name = f"{stage} {job.label}"
        try:
            answer = self.ask_about(
                name, stage, request, log, memory=guess, child=child, lease=lease
            )
        except StageFailed:
            self.unchanged(job, stage)  # which would be why
            raise
        self.unchanged(job, stage)
        return answer

    def ask_about(
        self,
        name: str,
        stage: str,
        request: Mapping[str, object],
        log: Path,
        *,
        memory: int,
        child: Child | None = None,
        lease: Lease | None = None,
        more: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The same of what is no job: `memory` in bytes is what it may take where nothing is known
        of `name`; its child sees `more` in its environment."""
        usual = self._entries.index.peak(name)
        with self._memory.room(usual or memory, self.running.go_on):
            given = self.conditions.environment
            made = child or Child(log, lease.environment(given) if lease else given, more)
            with self.running.child(made) as asked:
                answer = self._answer(asked, stage, {**request, "log": log})
        if "peak_memory" in answer:
            self._entries.index.know_peak(name, answer["peak_memory"])
        return answer

    def _answer(self, asked: Child, stage: str, request: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return asked.ask(request, timeout=self.conditions.timeout)
        except EngineForgeError as error:
            # What a library answered is in the error; a crash has only its last words.
            said = asked.log_tail(request["log"]) if isinstance(error, Crashed) else ()
            raise StageFailed(stage, str(error), said) from error

    def took(self, name: str, seconds: float) -> None:
        """Remember for the next run what something took that has a name, and no plan."""
        self._entries.index.know_history(name, "", round(seconds, 3))

    def room_for(self, job: Job, times: int, what: str) -> None:
        """Each is about as large as the weights; better to know before than after."""
        free = shutil.disk_usage(self.store.root).free
        needed = times * job.interface.weight_bytes + _SPARE_BYTES
        if free < needed:
            raise StageFailed(
                "store",
                f"the file system of '{self.store.root}' has {free >> 20} MiB free, and {what} "
                f"may need {needed >> 20}",
            )

    def unchanged(self, job: Job, stage: str) -> None:
        """StageFailed unless what a stage read is what was planned. An import may have read
        another variant's files, of the same content then."""
        shared = self._also_read.get(digest_value(job.key.onnx), {})
        files = dict.fromkeys({**job.source, **shared}.items(), "onnx")
        files |= dict.fromkeys(job.libraries.items(), "engine")
        if stage == "typed":
            files |= dict.fromkeys(job.calibrated_on.items(), "typed")
        elif stage in ("checks", "sensitivity", "engine-checks"):
            files |= dict.fromkeys(job.checked_on.items(), stage)
        for (path, (_, stat)), of in files.items():
            self.must_be(path, stat, of)

    @staticmethod
    def must_be(path: Path, stat: Stat, stage: str) -> None:
        """StageFailed unless a file that this stage read has the stat that it had when planned."""
        try:
            # Equal bytes now would not tell what was read meanwhile.
            same = stat_of(path) == stat
        except OSError:
            same = False
        if not same:
            message = f"'{path.name}' changed, or was touched, while it was being read"
            raise StageFailed(stage, f"{message}; run again")
