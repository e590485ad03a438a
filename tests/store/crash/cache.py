"""What is done to a cache in these tests, each with the promises that it comes back with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from engineforge.digest import Digest, digest_value
from engineforge.store import gc
from engineforge.store.far import archive, layout
from engineforge.store.far.remote import Remote
from engineforge.store.index import Index
from engineforge.store.local import MANIFEST, LocalStore, Session
from engineforge.store.manifest import PlanRecord
from engineforge.store.timings import Timings
from engineforge.store.uses import Living, Ref

BLOBS = tuple(number.to_bytes(2, "big") * 20 for number in range(5000))
"""The versions of the timing cache, in the order in which they are written."""
PLANS = tuple(letter * 64 for letter in "abcd")
"""The plans that the index is told of, in that order."""
STAGE = "engine"
FAR = "far"
"""The folder in the cache's own that is a remote store to it."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What is there from now on: an entry or a record by its name, at least a version of the timing
    cache, a file aside. Or no longer, where it is not `kept`."""

    kind: str
    name: str
    kept: bool = True


def kept(promises: Iterable[Promise]) -> set[tuple[str, str]]:
    """What of all that was promised is to be there."""
    now: set[tuple[str, str]] = set()
    for each in promises:
        if each.kept:
            now.add((each.kind, each.name))
        else:
            now.discard((each.kind, each.name))
    return now


def entry_key(name: str) -> dict[str, object]:
    return {"format": 1, "entry": name}


def key_of(name: str) -> Digest:
    return digest_value(entry_key(name))


def record_of(name: str) -> PlanRecord:
    plan = {"format": 1, "plan": name}
    return PlanRecord(key=digest_value(plan), key_document=plan, entries={STAGE: key_of(name)})


class Cache:
    """A cache that is worked on; `promised` is told what each step has promised."""

    def __init__(self, root: Path, promised: Callable[[Promise], None] = lambda _: None) -> None:
        self.root, self.promised = root, promised
        self.store = LocalStore(root)

    def stage_and_publish(self, session: Session, name: str, text: str = "engine") -> None:
        before = len(self.store.faults)
        with session.staged() as staged:
            # Written by a child process: unknown to the store until it is sealed.
            (staged / "model.engine").write_text(text)
            # The same bytes: a remote store has them once, so that one thread puts them there.
            (staged / "build.log").write_text(text)
            self.store.publish(
                staged, stage=STAGE, key_document=entry_key(name), digests={}, record={"by": text}
            )
        self._promise_aside(before)
        self.promised(Promise("entry", name))

    def _promise_aside(self, before: int) -> None:
        for fault in self.store.faults[before:]:
            if fault.moved_to is not None:
                self.promised(Promise("quarantine", fault.moved_to.name))

    def put_record(self, session: Session, name: str) -> None:
        self.store.put_record(record_of(name), session.folder)
        self.promised(Promise("record", name))

    def build(self, name: str, text: str = "engine") -> None:
        """As a run does it: the entry, and then the record that points to it."""
        with self.store.session() as session:
            self.stage_and_publish(session, name, text)
            self.put_record(session, name)

    def adopt(self, name: str) -> None:
        """As a run does that finds the entry: only the record is written."""
        with self.store.session() as session:
            if self.store.get(STAGE, key_of(name)) is not None:
                self.put_record(session, name)
                self.promised(Promise("entry", name))

    def push(self, name: str) -> None:
        """Give the remote store what a plan led to."""
        remote = Remote.open(str(self.root / FAR), environment={}, said=self._said_far)
        entry = self.store.get(STAGE, key_of(name))
        assert entry is not None
        remote.push(entry)
        self.promised(Promise("far entry", name))
        remote.push_record(self.store, record_of(name))
        self.promised(Promise("far record", name))

    def _said_far(self, said: str) -> None:
        _, moved, to = said.partition("moved to '")
        if moved:
            self.promised(Promise("far quarantine", to.partition("'")[0]))

    def damage_far(self, name: str) -> None:
        """As bit rot would: the manifest of an entry of the remote store."""
        manifest = self.root / FAR / layout.entry_path(STAGE, key_of(name))
        manifest.write_text("rotten")
        self.promised(Promise("far record", name, kept=False))
        self.promised(Promise("far entry", name, kept=False))

    def export(self, name: str, file: Path) -> None:
        archive.export(self.store, [record_of(name)], file)
        self.promised(Promise("archive", file.name))

    def elsewhere(self) -> Path:
        """An archive that another cache, on a disk that is well, exported before."""
        file = self.root.with_name(f"{self.root.name}.tar")
        if not file.exists():
            other = Cache(self.root.with_name(f"{self.root.name}-elsewhere"))
            other.build("a")
            other.export("a", file)
        return file

    def import_(self, name: str, file: Path) -> None:
        """What was exported from another cache."""
        with self.store.session() as session:
            archive.import_(file, self.store, session)
        self.promised(Promise("entry", name))
        self.promised(Promise("record", name))

    def collect(self, name: str) -> None:
        """As garbage collection does when nothing holds the entry: to the trash."""
        ref = Ref(STAGE, key_of(name))
        self.promised(Promise("record", name, kept=False))
        self.promised(Promise("entry", name, kept=False))
        seen = gc.survey(self.store, lambda _: ())
        decision = gc.Decision(held={}, left={}, gone={ref: "a test"}, rooted=frozenset())
        living = Living(self.root, reliable=True, now=time.time() + 10)
        for _, spared in gc.collect(self.store, seen, decision, living):
            if spared is None:
                self.promised(Promise("trash", f"{STAGE}/{ref.key.hex}"))

    def purge(self) -> None:
        """As a later collection does with all that is in the trash, for good."""
        for path in sorted((self.root / "trash" / STAGE).glob("*")):
            self.promised(Promise("trash", f"{STAGE}/{path.name}", kept=False))
        with self.store.session() as session:
            for _ in gc.purge(self.store, session, time.time() + 10, 0):
                pass

    def take_back(self, name: str) -> None:
        self.promised(Promise("trash", f"{STAGE}/{key_of(name).hex}", kept=False))
        if self.store.take_back(STAGE, key_of(name)):
            self.promised(Promise("entry", name))

    def collect_if_there(self, name: str) -> None:
        if self.store.entry_path(STAGE, key_of(name)).is_dir():
            self.collect(name)

    def merge_timings(self, version: int) -> None:
        timings = Timings(self.root, "h200")
        with timings.changing("a test"):
            timings.read()
            timings.write(BLOBS[version])
        self.promised(Promise("timings", str(version)))

    def merge_next_timings(self) -> None:
        """The version after the one that is there."""
        timings = Timings(self.root, "h200")
        with timings.changing("a test"):
            blob = timings.read()
            version = 0 if blob is None else BLOBS.index(blob) + 1
            timings.write(BLOBS[version])
        self.promised(Promise("timings", str(version)))

    def save_index(self, version: int) -> None:
        """Promises nothing: it is dropped at any doubt."""
        index = Index(self.root)
        index.know_history("net", PLANS[version], None)
        index.save(self.root / "staging")

    def damage(self, name: str) -> None:
        """As bit rot would: not through the store."""
        manifest = self.store.entry_path(STAGE, key_of(name)) / MANIFEST
        manifest.chmod(0o644)
        manifest.write_text("rotten")

    def set_aside(self, name: str) -> None:
        """As a reader does who finds it broken."""
        with self.store.session():
            self.promised(Promise("record", name, kept=False))
            self.promised(Promise("entry", name, kept=False))
            before = len(self.store.faults)
            self.store.get(STAGE, key_of(name))
            self._promise_aside(before)
