"""That the enumeration of power cuts finds what it is for: each fsync left out, each step moved."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engineforge.digest import digest_bytes, digest_file
from engineforge.store import disk, files
from engineforge.store.disk import Change
from engineforge.store.local import MANIFEST
from engineforge.store.manifest import Manifest, StoredFile
from tests.store.crash.cache import BLOBS, STAGE, Cache, Promise, entry_key, key_of, record_of
from tests.store.crash.model import Tree, states
from tests.store.crash.places import quick_folder
from tests.store.crash.recorder import Log, Recorder
from tests.store.crash.recovery import broken_after, read_tree
from tests.store.crash.scenarios import SCENARIOS, Recording

_BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.fixture
def quick() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


def _found(recording: Recording, log: Log, after: Path, *, damaged: bool = False) -> bool:
    """Whether some power cut breaks a promise."""
    return any(
        broken_after(state, after, damaged=damaged)
        for state in states(recording.base, log, recording.promised)
    )


def _says(change: Change) -> str:
    """A change in words that are the same in every run."""
    text = str(change.path)
    for pattern, name in (
        (r"[0-9a-f]{64}", "KEY"),
        (r"^(far/)?staging/(put|replace)-.*", "NEW"),
        (r"^\.engines\.tar\.[0-9a-f]+", "NEW"),
        (r"^staging/[^/]*-\d+-[0-9a-f]{8}/replace-.*", "NEW"),
        (r"^staging/[^/]*-\d+-[0-9a-f]{8}/[0-9a-f]{16}", "STAGED"),
        (r"/[0-9a-f]{2}$", "/AB"),
    ):
        text = re.sub(pattern, name, text)
    return f"{change.kind} {text}"


def _syncs(log: Log) -> Iterator[tuple[int, str]]:
    """Where each fsync stands in the log, and its name with its number among those of that name."""
    seen: Counter[str] = Counter()
    for at, change in enumerate(log):
        if isinstance(change, Change) and change.kind.startswith("sync"):
            says = _says(change)
            seen[says] += 1
            yield at, f"{says} #{seen[says]}"


AGAIN = "it is synced again, for another reason: left out each time, a promise breaks"
OTHERS = "for what another process has made and not synced: NEEDED has the scenarios"
STAGING = "staging/ may be lost"
MOVED = (
    "a rename is one change, and certain when its new folder is synced; where it is two, on file "
    "systems without a journal, the old name has to go too"
)
SEEN_AGAIN = "what is broken is found to be so again, and moved again"
WHOLE = "what is removed is one file, a plan record"
EMPTY = "no bytes stand for what was taken out, and none of them can be lost"
SAME = "the record has the same bytes as the one that it replaces"

# Without these nothing breaks, for these reasons. What is not here must break something.
HARMLESS = {
    "the first entry of a cache, and its record": {
        "sync file STAGED/manifest.json #1": AGAIN,
        "sync file STAGED/manifest.json #2": AGAIN,
        "sync folder entries-v1/engine #1": AGAIN,
        "sync folder entries-v1/engine #2": AGAIN,
        "sync folder entries-v1/engine/AB #2": OTHERS,
        "sync folder entries-v1/engine #3": AGAIN,
        "sync folder . #2": AGAIN,
        "sync folder . #3": STAGING,
        "sync folder staging #1": STAGING,
        "sync folder plans-v1 #1": AGAIN,
        "sync folder plans-v1 #2": AGAIN,
    },
    "a second entry beside it": {
        "sync file STAGED/manifest.json #1": AGAIN,
        "sync file STAGED/manifest.json #2": AGAIN,
        "sync folder entries-v1 #1": OTHERS,
        "sync folder entries-v1/engine #1": AGAIN,
        "sync folder entries-v1/engine #2": AGAIN,
        "sync folder entries-v1/engine/AB #2": OTHERS,
        "sync folder entries-v1/engine #3": AGAIN,
        "sync folder . #1": OTHERS,
        "sync folder plans-v1 #1": AGAIN,
        "sync folder plans-v1 #2": AGAIN,
    },
    "a broken entry moved aside": {
        "sync folder . #1": AGAIN,
        "sync folder . #2": AGAIN,
        "sync folder quarantine #1": SEEN_AGAIN,
        "sync folder entries-v1/engine/AB #1": MOVED,
    },
    "a broken entry moved aside and replaced": {
        "sync file STAGED/manifest.json #1": AGAIN,
        "sync file STAGED/manifest.json #2": AGAIN,
        "sync folder entries-v1/engine/AB #1": OTHERS,
        "sync folder entries-v1/engine #1": OTHERS,
        "sync folder . #1": AGAIN,
        "sync folder . #2": AGAIN,
        "sync folder entries-v1/engine/AB #2": MOVED,
        "sync folder entries-v1/engine #2": OTHERS,
        "sync folder entries-v1/engine/AB #4": OTHERS,
        "sync folder entries-v1/engine #3": OTHERS,
        "sync folder plans-v1/AB #1": SAME,
        "sync folder plans-v1 #1": OTHERS,
    },
    "the first timing cache": {
        "sync folder . #1": STAGING,
        "sync folder staging #1": STAGING,
        "sync folder . #2": AGAIN,
        "sync folder . #3": AGAIN,
    },
    "a timing cache over an old one": {"sync folder . #1": OTHERS},
    "an index over an old one": {},
    "an entry collected as garbage": {
        "sync folder trash #1": AGAIN,
        "sync folder trash #2": AGAIN,
        "sync folder trash #3": AGAIN,
        "sync folder trash #4": AGAIN,
        "sync folder plans-v1/AB #1": MOVED,
        "sync folder . #1": AGAIN,
        "sync folder . #2": AGAIN,
        "sync folder entries-v1/engine/AB #1": MOVED,
    },
    "an entry removed from the trash for good": {
        "sync folder STAGED #2": WHOLE,
        "sync folder trash/plans #1": MOVED,
        "sync folder trash/engine #1": MOVED,
    },
    "an entry taken back from the trash": {"sync folder entries-v1/engine #1": OTHERS},
    "a first push into a folder that is a remote store": {
        "sync folder . #1": AGAIN,
        "sync folder . #2": AGAIN,
        "sync folder . #3": AGAIN,
        "sync folder . #4": AGAIN,
        "sync folder far #1": STAGING,
        "sync folder far #2": AGAIN,
        "sync folder far/blobs-v1/sha256 #1": AGAIN,
        "sync folder far/blobs-v1/sha256 #2": AGAIN,
        "sync folder far/blobs-v1/sha256 #3": OTHERS,
        "sync folder far/blobs-v1/sha256/AB #2": OTHERS,
        "sync folder far/entries-v1/engine #1": AGAIN,
        "sync folder far/entries-v1/engine #2": AGAIN,
        "sync folder far/entries-v1/engine #3": OTHERS,
        "sync folder far/entries-v1/engine/AB #2": OTHERS,
        "sync folder far/plans-v1 #1": AGAIN,
        "sync folder far/plans-v1 #2": AGAIN,
    },
    "a broken manifest of a remote store moved aside and replaced": {
        "sync folder . #1": OTHERS,
        "sync folder far #1": AGAIN,
        "sync folder far #2": AGAIN,
        "sync folder far/quarantine/entries-v1/engine #1": AGAIN,
        "sync folder far/quarantine/entries-v1/engine #2": AGAIN,
        "sync folder far/staging #1": STAGING,
        "sync file NEW #2": EMPTY,
        "sync folder far/entries-v1/engine/AB #1": SEEN_AGAIN,
        "sync folder far/entries-v1/engine #1": OTHERS,
        "sync folder far/blobs-v1/sha256/AB #1": OTHERS,
        "sync folder far/blobs-v1/sha256 #1": OTHERS,
        "sync folder far/entries-v1/engine #2": OTHERS,
        "sync folder far/blobs-v1/sha256/AB #2": OTHERS,
        "sync folder far/blobs-v1/sha256 #2": OTHERS,
        "sync folder far/entries-v1/engine/AB #3": OTHERS,
        "sync folder far/entries-v1/engine #3": OTHERS,
        "sync folder far/plans-v1/AB #1": OTHERS,
        "sync folder far/plans-v1 #1": OTHERS,
    },
    "an archive imported": {
        "sync folder . #1": STAGING,
        "sync folder staging #1": STAGING,
        "sync file STAGED/manifest.json #1": AGAIN,
        "sync file STAGED/manifest.json #2": AGAIN,
        "sync folder . #2": AGAIN,
        "sync folder entries-v1/engine #1": AGAIN,
        "sync folder entries-v1/engine/AB #1": AGAIN,
        "sync folder entries-v1/engine #2": AGAIN,
        "sync folder plans-v1 #1": AGAIN,
        "sync folder entries-v1/engine/AB #2": AGAIN,
        "sync folder entries-v1/engine #3": AGAIN,
        "sync folder plans-v1 #2": AGAIN,
    },
    "an archive exported": {},
}
# What the scenarios with another process show to be needed.
NEEDED = (
    (
        "an entry below a folder whose maker was killed before it was durable",
        "sync folder . #1",
    ),
    (
        "an entry in a folder whose maker was killed before it was durable",
        "sync folder entries-v1/engine #1",
    ),
    (
        "a record in a folder whose maker was killed before it was durable",
        "sync folder plans-v1 #1",
    ),
    (
        "a timing cache in a folder whose maker was killed before it was durable",
        "sync folder . #2",
    ),
    (
        "a publisher who comes second to one that has not synced yet",
        "sync folder entries-v1/engine/AB #1",
    ),
    (
        "a record of an entry whose publisher was killed before it synced",
        "sync folder entries-v1/engine/AB #1",
    ),
    (
        "a push that comes second to one that was killed before it synced its blob",
        "sync folder far/blobs-v1/sha256/AB #1",
    ),
    (
        "a push that comes second to one that was killed before it synced its manifest",
        "sync folder far/entries-v1/engine/AB #1",
    ),
    (
        "a push that comes second to one that was killed before it synced its record",
        "sync folder far/plans-v1/AB #1",
    ),
)


@pytest.mark.parametrize("name", HARMLESS)
def test_each_fsync_is_needed_or_is_said_not_to_be(name: str, quick: Path) -> None:
    scenario = _BY_NAME[name]
    recording = scenario.record(quick / "cache")
    harmless = set()
    for at, says in _syncs(recording.log):
        without = recording.log[:at] + recording.log[at + 1 :]
        if not _found(recording, without, quick / "after", damaged=scenario.damaged):
            harmless.add(says)
    assert harmless == set(HARMLESS[name])


_AGAIN = sorted(
    {
        (name, says.partition(" #")[0])
        for name, reasons in HARMLESS.items()
        for says, reason in reasons.items()
        if reason == AGAIN
    }
)


@pytest.mark.parametrize(("name", "says"), _AGAIN)
def test_an_fsync_that_is_made_twice_is_needed_once(name: str, says: str, quick: Path) -> None:
    scenario = _BY_NAME[name]
    recording = scenario.record(quick / "cache")
    twice = {at for at, each in _syncs(recording.log) if each.partition(" #")[0] == says}
    without = [item for at, item in enumerate(recording.log) if at not in twice]
    assert _found(recording, without, quick / "after", damaged=scenario.damaged)


@pytest.mark.parametrize(("name", "says"), NEEDED)
def test_the_fsync_of_what_another_process_made_is_needed(
    name: str, says: str, quick: Path
) -> None:
    recording = _BY_NAME[name].record(quick / "cache")
    (at,) = [at for at, each in _syncs(recording.log) if each == says]
    without = recording.log[:at] + recording.log[at + 1 :]
    assert _found(recording, without, quick / "after")


def _stage(cache: Cache, *, manifest: bool = True) -> Path:
    staged = cache.root / "staging" / "mine"
    staged.mkdir()
    (staged / "model.engine").write_text("engine")
    if manifest:
        (staged / MANIFEST).write_bytes(_manifest(staged).to_bytes())
    return staged


def _manifest(staged: Path) -> Manifest:
    size = (staged / "model.engine").stat().st_size
    stored = StoredFile(size, digest_file(staged / "model.engine"))
    return Manifest(
        stage=STAGE,
        key=key_of("a"),
        key_document=entry_key("a"),
        files={"model.engine": stored},
        record={},
    )


def _published(cache: Cache, staged: Path) -> None:
    assert files.publish_folder(staged, cache.store.entry_path(STAGE, key_of("a")))
    cache.promised(Promise("entry", "a"))


def _in_order(cache: Cache) -> None:
    staged = _stage(cache)
    files.seal_folder(staged)
    _published(cache, staged)
    cache.store.put_record(record_of("a"), cache.root / "staging")
    cache.promised(Promise("record", "a"))


def _record_first(cache: Cache) -> None:
    staged = _stage(cache)
    files.seal_folder(staged)
    # As `put_record` writes it, which refuses to before its entry is there.
    record = cache.store.plan_path(record_of("a").key)
    files.make_folder(record.parent)
    files.replace(record, record_of("a").to_bytes(), cache.root / "staging")
    cache.promised(Promise("record", "a"))
    _published(cache, staged)


def _published_before_it_is_sealed(cache: Cache) -> None:
    _published(cache, _stage(cache))
    files.seal_folder(cache.store.entry_path(STAGE, key_of("a")))


def _promised_before_it_is_durable(cache: Cache) -> None:
    staged = _stage(cache)
    files.seal_folder(staged)
    cache.promised(Promise("entry", "a"))
    files.publish_folder(staged, cache.store.entry_path(STAGE, key_of("a")))


def _manifest_last(cache: Cache) -> None:
    staged = _stage(cache, manifest=False)
    manifest = _manifest(staged).to_bytes()
    files.seal_folder(staged)
    final = cache.store.entry_path(STAGE, key_of("a"))
    files.publish_folder(staged, final)
    files.replace(final / MANIFEST, manifest, cache.root / "staging")
    cache.promised(Promise("entry", "a"))


def _entry_collected_before_its_record(cache: Cache) -> None:
    cache.build("a")
    cache.promised(Promise("entry", "a", kept=False))
    files.move_aside(cache.store.entry_path(STAGE, key_of("a")), cache.root / "trash")
    cache.promised(Promise("record", "a", kept=False))
    files.remove_file(cache.store.plan_path(record_of("a").key))


def _timings_written_in_place(cache: Cache) -> None:
    cache.merge_timings(0)
    path = cache.root / "timing-v1" / "h200.cache"
    line = b"engineforge timing cache 1 " + digest_bytes(BLOBS[1]).encode() + b"\n"
    handle = disk.open_or_create(path)
    try:
        disk.truncate(handle, path)
        disk.write(handle, path, line + BLOBS[1])
        disk.sync_file(handle, path)
    finally:
        os.close(handle)
    cache.promised(Promise("timings", "1"))


def _recorded(act: Callable[[Cache], None], root: Path) -> Recording:
    Cache(root).store.create()
    base, recorder = read_tree(root), Recorder(root)
    with disk.watched(recorder):
        act(Cache(root, recorder.promised))
    return Recording(base=base, promised=(), log=recorder.log)


def test_in_the_right_order_nothing_breaks(quick: Path) -> None:
    recording = _recorded(_in_order, quick / "cache")
    assert not _found(recording, recording.log, quick / "after")


@pytest.mark.parametrize(
    "act",
    [
        _record_first,
        _published_before_it_is_sealed,
        _promised_before_it_is_durable,
        _manifest_last,
        _entry_collected_before_its_record,
        _timings_written_in_place,
    ],
)
def test_in_another_order_a_promise_breaks(act: Callable[[Cache], None], quick: Path) -> None:
    recording = _recorded(act, quick / "cache")
    assert _found(recording, recording.log, quick / "after")


def _trees(log: Log) -> set[tuple[tuple[str, bytes | None], ...]]:
    base: Tree = {Path("old"): None, Path("new"): None, Path("old/file"): b"old"}
    return {
        tuple(sorted((str(path), content) for path, content in state.tree.items() if path.parts))
        for state in states(base, log)
    }


def _has(log: Log, *paths: str) -> bool:
    """Whether just these files may be there."""
    return any(
        {path for path, content in tree if content is not None} == {*paths} for tree in _trees(log)
    )


_RENAME = Change("rename", Path("old/file"), Path("new/file"))


def test_in_the_model_a_rename_has_happened_or_not() -> None:
    assert _has([_RENAME], "old/file")
    assert _has([_RENAME], "new/file")
    assert not _has([_RENAME])
    assert not _has([_RENAME], "old/file", "new/file")


def test_in_the_model_names_are_lost_in_any_order() -> None:
    made: Log = [Change("create", Path(f"new/{name}")) for name in "ab"]
    for some in ((), ("new/a",), ("new/b",), ("new/a", "new/b")):
        assert _has(made, "old/file", *some)


def test_in_the_model_what_is_synced_stays() -> None:
    log: Log = [
        Change("create", Path("new/a")),
        Change("write", Path("new/a"), data=b"text"),
        Change("sync file", Path("new/a")),
        Change("sync folder", Path("new")),
        Change("create", Path("new/b")),
    ]
    after = [state.tree for state in states({Path("new"): None}, log) if state.after == len(log)]
    assert {Path(): None, Path("new"): None, Path("new/a"): b"text", Path("new/b"): b""} in after
    assert all(tree.get(Path("new/a")) == b"text" for tree in after)


def test_in_the_model_unsynced_bytes_may_be_torn() -> None:
    log: Log = [
        Change("create", Path("new/a")),
        Change("sync folder", Path("new")),
        Change("write", Path("new/a"), data=b"text"),
    ]
    found = {state.tree.get(Path("new/a")) for state in states({Path("new"): None}, log)}
    assert found == {None, b"", b"t", b"te", b"tex", b"text", bytes(4), b"te" + bytes(2)}
