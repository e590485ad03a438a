"""What need not be found out again: digests of files, parsed specs, known plans, durations.

One file, written whole, that may be deleted at any time and is dropped at any doubt. Each record
proves itself by what it is filed under, so two processes that save lose work at the worst. What is
known of whole specs (`known.py`) stands before it, and is read without it.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from engineforge.digest import Digest, digest_stream
from engineforge.store import files
from engineforge.store.folders import FolderNews, changed_folder
from engineforge.store.index_file import FORMAT, IndexFile, Part, written
from engineforge.store.local import plan_path
from engineforge.store.manifest import BadManifest, PlanRecord
from engineforge.store.stats import (
    FolderStats,
    Stat,
    Stats,
    stat_of,
    stat_or_none,
)
from engineforge.store.uses import Ref

_KEPT = 1_000_000
_AS_SMALL = 2
"""What is there is written anew with what is new where it is not so many times as large."""

_TRIES = 3


class PlannedSpec(msgspec.Struct, array_like=True, frozen=True):
    """What planning a spec came to: name, target and plan key of each of its variants.

    `unfit` says of those that were never built why `host` cannot, and is empty for the others;
    `stages` are those that such a variant would run.
    """

    variants: list[str]
    targets: list[str]
    keys: list[str]
    unfit: list[str]
    stages: list[list[str]]
    host: str


class SpecFacts(msgspec.Struct, array_like=True, frozen=True):
    """What of a spec's text names other files: its source, as (package or '', path) of an ONNX
    file, as JSON where a `framework` makes the model, or whether it is pinned in the lock file; and
    the data sets that its variants are calibrated on, as JSON."""

    package: str
    path: str
    framework: str
    locked: bool
    samples: list[str]


class KnownEntry(msgspec.Struct, array_like=True, frozen=True):
    """An entry whose files were hashed: their names and stats at that time."""

    key: str
    files: FolderStats


class History(msgspec.Struct, array_like=True, frozen=True):
    """Of one variant: the plan key that it last had, and how long its last builds took."""

    plan: str
    seconds: list[float]


class _Data(msgspec.Struct, array_like=True):
    format: int = FORMAT
    digests: dict[str, tuple[Stat, str]] = {}
    specs: dict[str, SpecFacts] = {}
    planned: dict[str, PlannedSpec] = {}
    models: dict[str, bytes] = {}
    inspected: dict[str, bool] = {}
    entries: dict[str, KnownEntry] = {}
    history: dict[str, History] = {}
    peaks: dict[str, int] = {}

    def add(self, new: _Data) -> None:
        for name in _TABLES:
            table, found = getattr(self, name), getattr(new, name)
            for key, value in found.items():
                table.pop(key, None)  # what was written last stands last
                table[key] = value
            if (over := len(table) - _KEPT) > 0:
                for key in list(table)[:over]:
                    del table[key]

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in _TABLES)


_TABLES = _Data.__struct_fields__[1:]


class Index:
    """In memory from when it is first asked to `save`. Counts what had to be hashed, in files and
    bytes."""

    def __init__(self, root: Path, stats: Stats | None = None) -> None:
        self._root = root
        self._stats = stats or Stats(root)
        self._file = root / "index"
        self._loaded: _Data | None = None
        self._new = _Data()
        self._news: FolderNews | None = None
        self._planned_anew, self._folders_anew, self._broken = False, False, False
        self.files_hashed = 0
        self.bytes_hashed = 0

    @property
    def _data(self) -> _Data:
        """What was remembered; read when it is first asked for."""
        if self._loaded is None:
            self._loaded = self._read()
        return self._loaded

    def _read(self) -> _Data:
        try:
            with opened(self._file) as file:
                # Where one part is not sound, none is believed.
                for part in (part for each in file.folders.values() for part in each.blocks):
                    file.read(part)
                return _records(file, file.records)
        except ValueError:
            self._broken = True
        except OSError:  # there is none
            pass
        return _Data()

    def save(self, staging: Path) -> None:
        """Write what is new over what is there, also where another process wrote meanwhile."""
        with files.lock(self._root / "staging" / "locks" / "index.lock", "index"):
            before = None
            with contextlib.suppress(OSError, ValueError):
                before = None if self._broken else IndexFile(str(self._file))
            try:
                self._write(before, staging)
            finally:
                if before is not None:
                    before.close()

    def _write(self, before: IndexFile | None, staging: Path) -> None:
        folders = {} if before is None or self._folders_anew else dict(before.folders)
        if self._news is not None:
            changed_folder(self._news, folders, before)
        records = self._records(before)
        files.replace(self._file, written(folders, records, before), staging, durable=False)

    def _records(self, before: IndexFile | None) -> list[Part]:
        """What is new is put after what is there, which is not even read, unless it is as small:
        then the two are made one. So what a save costs is what is new, and copying the rest."""
        kept = [] if before is None else list(before.records)
        body = msgspec.msgpack.encode(self._new)
        if before is None:
            return [Part.of(body)]
        old: list[Part] = []
        size = len(body) if self._new else 0
        while kept and (self._planned_anew or kept[-1].size < _AS_SMALL * size):
            old.insert(0, kept.pop())
            size += old[0].size
        if old:
            merged = _Data()
            with contextlib.suppress(ValueError):
                merged = _records(before, old)
            if self._planned_anew:
                merged.planned.clear()
            merged.add(self._new)
            return [*kept, Part.of(msgspec.msgpack.encode(merged))]
        return [*kept, Part.of(body)] if self._new else kept

    @property
    def changed(self) -> bool:
        return bool(self._new) or self._news is not None or self._folders_anew

    def forget(self) -> None:
        """Trust nothing of what was remembered, but the durations of builds."""
        # What is there already is kept on disk, for those who do trust it; but not what is known of
        # whole specs, which would hide from them what is found out now.
        self._folders_anew = True
        self._loaded = _Data(history=self._data.history, peaks=self._data.peaks)
        self._new = _Data(history=self._new.history, peaks=self._new.peaks)

    def digest(self, path: Path) -> Digest:
        """A file's sha256: remembered if its stat is the same, else hashed. OSError as `hashed`."""
        return self.hashed(path)[0]

    def hashed(self, path: Path) -> tuple[Digest, Stat]:
        """A file's sha256, and the stat that it had before and after it was read.

        OSError as `open` raises it, and where the file is written to all the time.
        """
        for _ in range(_TRIES):
            stat = stat_of(path)
            known = self._known_digest(stat)
            if known is not None:
                return known, stat
            # Opened once: a name may come to mean another file, and then this one again.
            with path.open("rb", buffering=0) as file:
                handle = file.fileno()
                if stat_of(handle) != stat:
                    continue
                will_tell = self._stats.tells_of_changes(handle, path, stat)
                digest = digest_stream(file)
                self.count(1, stat[2])
                if stat_of(handle) == stat:
                    if will_tell:
                        self._new.digests[f"{stat[0]}:{stat[1]}"] = (stat, str(digest))
                    return digest, stat
        raise OSError(errno.EBUSY, "it changes while it is read", str(path))

    def count(self, files: int, size: int) -> None:
        """That so much was hashed."""
        self.files_hashed += files
        self.bytes_hashed += size

    def knows(self, path: Path) -> bool:
        """Whether `digest` would hash nothing."""
        return self._known_digest(stat_of(path)) is not None

    def remembers(self, digest: Digest, stat: Stat) -> bool:
        """Whether a file with this stat will be taken for these bytes from now on."""
        return self._known_digest(stat) == digest

    def _known_digest(self, stat: Stat) -> Digest | None:
        name = f"{stat[0]}:{stat[1]}"
        known = self._new.digests.get(name) or self._data.digests.get(name)
        return Digest(known[1]) if known and tuple(known[0]) == stat else None

    def entry_is_known(self, stage: str, key: str, folder: Path) -> bool:
        """Whether an entry's files were hashed before, and none was touched since."""
        known = self._entry(f"{stage}/{key}")
        return known is not None and _untouched(known, folder)

    def know_entry(self, stage: str, key: str, stats: FolderStats) -> None:
        """Remember an entry whose files match its manifest, and had `stats` when they did: written
        by this process, or hashed after `will_tell`."""
        folder = Ref(stage, Digest(f"sha256:{key}")).path(self._root)
        if self.will_tell(folder, stats):
            self._new.entries[f"{stage}/{key}"] = KnownEntry(key, stats)

    def settled(self, stat: Stat) -> bool:
        """Whether a file that is only ever replaced by others would be another by its stat."""
        return self._stats.settled([stat])

    def will_tell(self, folder: Path, stats: FolderStats) -> bool:
        """Whether any change to an entry's files from now on gives them other stats than these."""
        return self._stats.sealed(folder, stats)

    def engine_of(self, plan: str) -> str | None:
        """The engine key that a plan is known to have led to, if its record was not touched."""
        known = self._entry(f"plan/{plan}")
        record = plan_path(self._root, plan).parent
        return known.key if known and _untouched(known, record) else None

    def stats_of(self, plan: str, engine: str) -> tuple[Stat, FolderStats] | None:
        """Of a plan's record, and of the files of the engine's entry, when they were known."""
        record, entry = self._entry(f"plan/{plan}"), self._entry(f"engine/{engine}")
        if record is None or entry is None or record.key != engine:
            return None
        return record.files[0][1], entry.files

    def _entry(self, name: str) -> KnownEntry | None:
        return self._new.entries.get(name) or self._data.entries.get(name)

    def know_engine_of(self, plan: str, engine: str) -> None:
        """Remember a plan whose record has just been read or written."""
        record = plan_path(self._root, plan)
        stat = stat_or_none(record)
        if stat is None or not self._stats.settled([stat]):
            return
        # Read after its stat was taken: another process may have put another one in its place.
        try:
            found = PlanRecord.from_bytes(record.read_bytes())
        except (OSError, BadManifest):
            return
        if found.key.hex == plan and found.entries.get("engine") == f"sha256:{engine}":
            self._new.entries[f"plan/{plan}"] = KnownEntry(engine, [(record.name, stat)])

    def spec(self, fingerprint: str, *, new: bool = False) -> SpecFacts | None:
        """What is known of a spec's text; with `new` also what this process found out."""
        known = self._new.specs.get(fingerprint) if new else None
        return known or self._data.specs.get(fingerprint)

    def know_spec(self, fingerprint: str, facts: SpecFacts) -> None:
        self._new.specs[fingerprint] = facts

    def planned(self, fingerprint: str, *, new: bool = False) -> PlannedSpec | None:
        known = self._new.planned.get(fingerprint) if new else None
        return known or self._data.planned.get(fingerprint)

    def know_folder(self, news: FolderNews) -> None:
        """What was found out of the specs of a folder, to be saved."""
        self._news = news

    def know_planned(self, fingerprint: str, planned: PlannedSpec) -> None:
        self._new.planned[fingerprint] = planned

    def forget_planned(self) -> None:
        """Plan every spec anew: what their stages find is no longer what it was."""
        self._new.planned.clear()
        self._data.planned.clear()
        self._planned_anew = self._folders_anew = True

    def is_inspected(self, files: str) -> bool:
        """Whether a model with just these files was found to be sound."""
        return files in self._new.inspected or files in self._data.inspected

    def know_inspected(self, files: str) -> None:
        self._new.inspected[str(files)] = True

    def model(self, digest: str) -> bytes | None:
        """What inspecting the model with this digest said, as JSON."""
        return self._new.models.get(digest) or self._data.models.get(digest)

    def know_model(self, digest: str, interface: bytes) -> None:
        self._new.models[str(digest)] = interface

    def history(self, label: str) -> History | None:
        return self._new.history.get(label) or self._data.history.get(label)

    def know_history(self, label: str, plan: str, seconds: float | None) -> None:
        before = self.history(label)
        times = [*(before.seconds if before else []), *([] if seconds is None else [seconds])]
        if before is None or before.plan != plan or seconds is not None:
            self._new.history[label] = History(plan, times[-5:])

    def peak(self, name: str) -> int | None:
        """The most memory, in bytes, that a stage of a variant took the last time."""
        return self._new.peaks.get(name) or self._data.peaks.get(name)

    def know_peak(self, name: str, size: int) -> None:
        self._new.peaks[name] = size


@contextlib.contextmanager
def opened(file: Path) -> Iterator[IndexFile]:
    """OSError or ValueError where it is not there, or not what was written."""
    found = IndexFile(str(file))
    try:
        yield found
    finally:
        found.close()


def _records(file: IndexFile, parts: Sequence[Part]) -> _Data:
    """What these parts remember. ValueError where one of them is not what was written."""
    found = _Data()
    for part in parts:
        try:
            read = msgspec.msgpack.decode(file.read(part), type=_Data)
        except msgspec.MsgspecError as error:
            raise ValueError("it is not what was written") from error
        if read.format != FORMAT:
            raise ValueError("of another format")
        if part is parts[0]:
            found = read
        else:
            found.add(read)
    return found


def _untouched(known: KnownEntry, folder: Path) -> bool:
    try:
        return all(stat_of(folder / name) == tuple(stat) for name, stat in known.files)
    except OSError:
        return False
