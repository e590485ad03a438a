"""Garbage collection: which entries nothing holds, and taking those away, while others build.

What goes is moved to `trash/`, a plan record before the entries that it names, and is removed for
good by a later collection; until then whoever needs it takes it back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engineforge.digest import Digest
from engineforge.store import disk, files, gate
from engineforge.store.local import LocalStore, Session
from engineforge.store.manifest import Manifest, PlanRecord
from engineforge.store.uses import TRASH, Living, Ref, last_used, touch

_PLANS = "plans"
"""In the trash, beside the folders of stages."""

_COURTESY_SECONDS = 0.001

About = Callable[[Manifest], Sequence[Digest] | None]
"""Which files, by content, an entry is about, and is kept with; none for what records name; None
where that is not known, and the entry is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """What holds a plan, and `entries` that it may not name: `by` says so to people."""

    by: str
    plan: Digest | None = None
    entries: tuple[Ref, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What of that which nothing holds may go: all conditions must allow it. `older_than` is in
    seconds, `max_size` in bytes of all entries together."""

    keep_last: int = 0
    older_than: float | None = None
    max_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An entry as a collection sees it: `label` is the variant that it was first made for, `used`
    when it was last published, obtained, recorded or held, in seconds since the epoch."""

    ref: Ref
    label: str
    size: int
    used: float
    finished: str
    files: frozenset[Digest]
    about: tuple[Digest, ...] | None


@dataclass(frozen=True, slots=True)
class Survey:
    """All entries and plan records of a store, at one time or another while it was looked at."""

    entries: Mapping[Ref, Found]
    records: Mapping[Digest, PlanRecord]


@dataclass(frozen=True, slots=True)
class Decision:
    """`held` says by what; `left` why they may stay, though nothing holds them; `gone` why they
    go, in this order. `rooted` are those that the roots alone hold."""

    held: Mapping[Ref, Sequence[str]]
    left: Mapping[Ref, str]
    gone: Mapping[Ref, str]
    rooted: frozenset[Ref]


def survey(store: LocalStore, about: About) -> Survey:
    """Reads every manifest and record; what is broken is quarantined on the way."""
    records = {record.key: record for record in store.plan_records("")}
    entries = {}
    for stage in store.stages():
        for entry in store.entries(stage):
            manifest = entry.manifest
            of = about(manifest)
            with contextlib.suppress(FileNotFoundError):
                found = Found(
                    ref=Ref(stage, manifest.key),
                    label=_label(manifest.record),
                    size=sum(file.size for file in manifest.files.values()),
                    used=last_used(entry.path),
                    finished=str(manifest.record.get("finished", "")),
                    files=frozenset(file.sha256 for file in manifest.files.values()),
                    about=None if of is None else tuple(of),
                )
                entries[found.ref] = found
    return Survey(entries, records)


def _label(record: Mapping[str, object]) -> str:
    if record.keys() >= {"spec", "variant", "target"}:
        return "{spec}/{variant}@{target}".format(**record)
    return str(record.get("label", record.get("source", "")))


def decide(
    seen: Survey, roots: Iterable[Root], policy: Policy, living: Living, now: float
) -> Decision:
    """Pure. `now` is in seconds since the epoch."""
    kept = _Kept(seen)
    for root in roots:
        kept.hold(root.entries, root.by)
        if root.plan is not None:
            kept.hold_plan(root.plan, root.by)
    kept.hold_what_is_about()
    rooted = frozenset(kept.by)
    for found in seen.entries.values():
        if found.about is None:
            kept.hold([found.ref], f"stage '{found.ref.stage}' is not known to this version")
        if (holder := living.holder(found.ref)) is not None:
            kept.hold([found.ref], f"in use by {holder}")
        elif found.used >= living.since:
            kept.hold([found.ref], "used since the oldest running process began")
    named_by = _named_by(seen)
    for found in _newest(seen, policy.keep_last):
        by = f"one of the last {policy.keep_last} of {found.label}"
        kept.hold([found.ref], by)
        for plan in named_by.get(found.ref, ()):
            kept.hold_plan(plan, by)
    kept.hold_what_is_about()
    used = _used_with_what_it_is_about(seen)
    size = sum(found.size for found in seen.entries.values())
    left, gone = {}, {}
    for ref in sorted(seen.entries.keys() - kept.by.keys(), key=lambda ref: (used[ref], ref)):
        age = now - used[ref]
        if policy.older_than is not None and age < policy.older_than:
            left[ref] = f"nothing holds it, but it was last used {_ago(age)}"
        elif policy.max_size is not None and size <= policy.max_size:
            left[ref] = "nothing holds it, but there is room"
        else:
            size -= seen.entries[ref].size
            gone[ref] = f"nothing holds it; last used {_ago(age)}"
    return Decision(kept.by, left, gone, rooted)


class _Kept:
    def __init__(self, seen: Survey) -> None:
        self._seen = seen
        self.by: dict[Ref, list[str]] = {}

    def hold(self, refs: Iterable[Ref], by: str) -> None:
        for ref in refs:
            if ref in self._seen.entries and by not in (said := self.by.setdefault(ref, [])):
                said.append(by)

    def hold_plan(self, plan: Digest, by: str) -> None:
        if (record := self._seen.records.get(plan)) is not None:
            self.hold(_named(record), by)

    def hold_what_is_about(self) -> None:
        """What was measured of files is kept with all of them."""
        held = {digest for ref in self.by for digest in self._seen.entries[ref].files}
        for found in self._seen.entries.values():
            if found.about and found.ref not in self.by and held.issuperset(found.about):
                self.hold([found.ref], "what it was measured of is kept")


def _named(record: PlanRecord) -> list[Ref]:
    return [Ref(stage, key) for stage, key in record.entries.items()]


def _named_by(seen: Survey) -> Mapping[Ref, Sequence[Digest]]:
    """The plans whose records name an entry."""
    found: dict[Ref, list[Digest]] = {}
    for record in seen.records.values():
        for ref in _named(record):
            found.setdefault(ref, []).append(record.key)
    return found


def _newest(seen: Survey, count: int) -> Iterator[Found]:
    """The last engines of each variant, by when they were made."""
    by: dict[str, list[Found]] = {}
    for found in seen.entries.values():
        if found.ref.stage == "engine" and found.label:
            by.setdefault(found.label, []).append(found)
    for each in by.values():
        yield from sorted(each, key=lambda f: (f.finished, f.used), reverse=True)[:count]


def _used_with_what_it_is_about(seen: Survey) -> dict[Ref, float]:
    """When each was last used; what was measured of a file is, when the file is."""
    of_files: dict[Digest, float] = {}
    for found in seen.entries.values():
        if found.about == ():
            for digest in found.files:
                of_files[digest] = max(of_files.get(digest, 0.0), found.used)
    return {
        ref: max([found.used, *(of_files.get(each, 0.0) for each in found.about or ())])
        for ref, found in seen.entries.items()
    }


def _ago(seconds: float) -> str:
    days, rest = divmod(max(0, round(seconds)), 86_400)
    if days:
        return f"{days} d ago"
    hours, rest = divmod(rest, 3_600)
    return f"{hours} h ago" if hours else f"{rest // 60} min ago"


def collect(
    store: LocalStore, seen: Survey, decision: Decision, living: Living
) -> Iterator[tuple[Ref, str | None]]:
    """Move what is to go into the trash, one entry after the other; with each, what kept it after
    all (None where it went). What roots hold is touched: it was of use until now."""
    for ref in decision.rooted:
        touch(ref.path(store.root))
    named_by = _named_by(seen)
    for ref in decision.gone:
        with gate.deciding(store.root):
            spared = _take(store, ref, named_by.get(ref, ()), living)
        yield ref, spared
        # Those who wait for the lock come first: it goes to whoever asks, not to who asked first.
        time.sleep(_COURTESY_SECONDS)


def _take(store: LocalStore, ref: Ref, plans: Sequence[Digest], living: Living) -> str | None:
    path = ref.path(store.root)
    living.look()
    if (holder := living.holder(ref)) is not None:
        return f"in use by {holder}"
    try:
        if last_used(path) >= living.since:
            return "used meanwhile"
        for plan in plans:
            # It may be another one by now, which names other entries.
            record = store.plan_record(plan)
            if record is not None and ref in _named(record):
                files.move_aside(store.plan_path(plan), store.root / TRASH / _PLANS)
        if (older := ref.trash(store.root)).exists():
            files.move_aside(older, older.parent)  # what is taken back is the last that was taken
        files.move_aside(path, older.parent)
    except FileNotFoundError:
        return "taken by another process"
    return None


def in_trash(store: LocalStore) -> Iterator[tuple[Path, float]]:
    """What is in the trash, and since when, in seconds since the epoch."""
    for path in sorted((store.root / TRASH).glob("*/*")):
        with contextlib.suppress(FileNotFoundError):
            yield path, path.stat().st_ctime  # a rename changes it, and nothing can set it


def is_due(since: float, now: float, grace: float) -> bool:
    """Whether what is in the trash since then has been there long enough."""
    return not grace or now - since >= grace


def purge(
    store: LocalStore, session: Session, now: float, grace: float
) -> Iterator[tuple[Path, int]]:
    """Remove for good what has been in the trash for `grace` seconds or longer; with each its
    bytes. None of it is ever seen half."""
    for path, since in in_trash(store):
        if not is_due(since, now, grace):
            continue
        with session.staged() as folder:
            try:
                with gate.deciding(store.root):
                    disk.rename(path, folder / path.name)
                    # Or a power cut may bring it back with some of its files removed.
                    files.sync_folder(folder)
                    files.sync_folder(path.parent)
            except FileNotFoundError:  # taken back
                continue
            yield path, size_of(folder)


def size_of(path: Path) -> int:
    """Bytes of all files of a folder, or of a file."""
    if not path.is_dir():
        return path.stat().st_size
    total = 0
    for each in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if each.is_file():
                total += each.stat().st_size
    return total
