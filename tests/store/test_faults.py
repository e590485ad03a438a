"""A disk that refuses: at every single change that the store makes, once or from then on. And
clocks that jump, and bytes that change, in every file that the store writes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from engineforge.errors import EngineForgeError
from engineforge.store import disk, files
from engineforge.store.disk import Change
from engineforge.store.index import Index
from engineforge.store.local import MANIFEST, LocalStore
from engineforge.store.timings import BadTimings, Timings
from tests.store.conftest import Mount
from tests.store.crash.cache import BLOBS, PLANS, STAGE, Cache, Promise, key_of, record_of
from tests.store.crash.places import quick_folder
from tests.store.crash.recorder import count
from tests.store.crash.recovery import broken_promises
from tests.store.crash.victims import left_over

Act = Callable[[Cache], None]


@pytest.fixture
def quick() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


def _built_and_damaged(cache: Cache) -> None:
    cache.build("a")
    cache.damage("a")


def _collected(cache: Cache) -> None:
    cache.build("a")
    cache.collect("a")


def _before_import(cache: Cache) -> None:
    cache.elsewhere()


# What was there before, what is done, and whether something other than the store spoilt an entry.
_ACTS: dict[str, tuple[Act, Act, bool]] = {
    "build": (lambda _: None, lambda cache: cache.build("a"), False),
    "second": (lambda cache: cache.build("a"), lambda cache: cache.build("a", "b"), False),
    "replace": (_built_and_damaged, lambda cache: cache.build("a", "again"), True),
    "timings": (lambda cache: cache.merge_timings(0), lambda cache: cache.merge_timings(1), False),
    "index": (lambda cache: cache.save_index(0), lambda cache: cache.save_index(1), False),
    "push": (lambda cache: cache.build("a"), lambda cache: cache.push("a"), False),
    "import": (_before_import, lambda cache: cache.import_("a", cache.elsewhere()), False),
    "export": (
        lambda cache: cache.build("a"),
        lambda cache: cache.export("a", cache.root / "engines.tar"),
        False,
    ),
    "purge": (_collected, lambda cache: cache.purge(), False),
    "collect": (lambda cache: cache.build("a"), lambda cache: cache.collect("a"), False),
}


class _Refusing:
    """Refuses the change at this place; of what was to be written, half is."""

    def __init__(self, at: int, number: int, *, from_then_on: bool) -> None:
        self._left, self._number, self._from_then_on = at, number, from_then_on
        self.was_removing = False
        """What is not removed is left."""

    def __call__(self, change: Change) -> None:
        self._left -= 1
        if self._left == -1 or (self._from_then_on and self._left < 0 and not _frees(change)):
            self.was_removing |= change.kind in ("unlink", "rmdir")
            if change.kind == "write":
                with change.path.open("ab") as file:
                    file.write(change.data[: len(change.data) // 2])
            raise OSError(self._number, os.strerror(self._number), str(change.path))


def _frees(change: Change) -> bool:
    """What a full disk does not refuse."""
    return change.kind in ("unlink", "rmdir", "truncate", "chmod", "sync file", "sync folder")


@pytest.mark.parametrize("from_then_on", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("name", _ACTS)
def test_wherever_the_disk_refuses_no_promise_breaks(
    name: str, number: int, from_then_on: bool, quick: Path
) -> None:
    before, act, damaged = _ACTS[name]
    before(Cache(quick / "count"))
    changes = count(partial(act, Cache(quick / "count")))
    assert changes > 3
    for at in range(changes):
        root = quick / f"{at}"
        promises: list[Promise] = []
        before(Cache(root, promises.append))
        if damaged:
            promises.clear()
        refused = _Refusing(at, number, from_then_on=from_then_on)
        # An error that says so, or success where the change did not matter; nothing else.
        with disk.watched(refused), contextlib.suppress(OSError, EngineForgeError):
            act(Cache(root, promises.append))
        broken = broken_promises(root, promises, damaged=damaged)
        assert broken == [], f"refused at change {at} of {changes}"
        _act_again(name, root)
        assert left_over(root) == [] or refused.was_removing, f"after {at} of {changes}"
        shutil.rmtree(root)


def _act_again(name: str, root: Path) -> None:
    """Now that the disk is well, the same succeeds."""
    if name == "collect":
        Cache(root).collect_if_there("a")
    else:
        _ACTS[name][1](Cache(root))
    with LocalStore(root).session():
        pass


@pytest.mark.parametrize("room", [4, 12, 20, 32, 48])
def test_on_a_small_disk_nothing_half_is_left(mount: Mount, room: int) -> None:
    # In blocks of 4 KiB; an entry takes three, and folders and records some more.
    root = mount(f"size={room * 4}k") / "cache"
    promises: list[Promise] = []
    cache = Cache(root, promises.append)
    with pytest.raises((OSError, EngineForgeError)):
        for number in range(40):
            cache.build(f"{number}")
            cache.merge_timings(number)
    (root.parent / "filler").unlink(missing_ok=True)
    mount(f"size={room * 4 + 4096}k")
    assert broken_promises(root, promises) == []
    with LocalStore(root).session():
        pass
    assert left_over(root) == []


_YEARS = 10 * 365 * 86_400


@pytest.mark.parametrize("jump", [-_YEARS, _YEARS], ids=["back", "forth"])
def test_whatever_the_clock_says_a_file_that_is_being_written_is_not_swept(
    quick: Path, jump: int
) -> None:
    store = LocalStore(quick)
    store.create()
    swept: list[Path] = []

    def watch(change: Change) -> None:
        if change.kind == "rename" and not swept:
            swept.append(change.path)
            os.utime(change.path, (time.time() + jump, time.time() + jump))
            with LocalStore(quick).session():
                pass
            files.remove_old(change.path, time.time() + 2 * _YEARS)

    with disk.watched(watch):
        files.replace(quick / "file", b"whole", quick / "staging")
    assert swept
    assert (quick / "file").read_bytes() == b"whole"


@pytest.mark.parametrize("jump", [-_YEARS, _YEARS], ids=["back", "forth"])
def test_whatever_the_clock_says_a_living_session_is_not_swept(quick: Path, jump: int) -> None:
    store = LocalStore(quick)
    with store.session() as session, session.staged() as staged:
        (staged / "half").write_text("half")
        for path in (quick / "staging").rglob("*"):
            os.utime(path, (time.time() + jump, time.time() + jump))
        with LocalStore(quick).session():
            assert (staged / "half").read_text() == "half"


def test_a_half_written_file_of_a_dead_process_is_removed_when_it_is_old(quick: Path) -> None:
    LocalStore(quick).create()
    left = quick / "staging" / "replace-1-1"
    left.write_text("half")
    files.remove_old(left, left.stat().st_mtime)
    assert left.exists()
    files.remove_old(left, left.stat().st_mtime + 1)
    assert not left.exists()


def _spoilt(data: bytes) -> Iterator[bytes]:
    """Cut off at every byte, and with a bit of every byte flipped."""
    for at in range(len(data)):
        yield data[:at]
        yield data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]


def _whole_cache(root: Path) -> Cache:
    cache = Cache(root)
    cache.build("a")
    cache.merge_timings(1)
    cache.save_index(0)
    return cache


def _spoil(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    for spoilt in _spoilt(data):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(spoilt)
        yield spoilt


@pytest.mark.parametrize("name", [MANIFEST, "model.engine", "build.log"])
def test_an_entry_with_any_byte_changed_is_never_taken_for_whole(quick: Path, name: str) -> None:
    cache = _whole_cache(quick / "cache")
    aside = quick / "aside"
    shutil.copytree(quick / "cache", aside)
    path = cache.store.entry_path(STAGE, key_of("a")) / name
    spoilt = list(_spoilt(path.read_bytes()))
    assert len(spoilt) > 10
    for data in spoilt:
        store = LocalStore(quick / "cache")
        path.unlink()
        path.write_bytes(data)
        entry = store.get(STAGE, key_of("a"))
        assert entry is None or store.broken_files(entry), data
        if entry is None:
            assert len(store.faults) == 1
            shutil.rmtree(quick / "cache")
            shutil.copytree(aside, quick / "cache")


def test_a_plan_record_with_any_byte_changed_is_a_miss(quick: Path) -> None:
    cache = _whole_cache(quick)
    key = record_of("a").key
    for spoilt in _spoil(cache.store.plan_path(key)):
        store = LocalStore(quick)
        assert store.plan_record(key) is None, spoilt
        assert len(store.faults) == 1


def test_an_index_with_any_byte_changed_knows_nothing(quick: Path) -> None:
    _whole_cache(quick)
    history = Index(quick).history("net")
    assert history is not None
    assert history.plan == PLANS[0]
    for spoilt in _spoil(quick / "index"):
        assert Index(quick).history("net") is None, spoilt


def test_a_timing_cache_with_any_byte_changed_is_bad(quick: Path) -> None:
    _whole_cache(quick)
    timings = Timings(quick, "h200")
    assert timings.read() == BLOBS[1]
    for _ in _spoil(timings.path):
        with pytest.raises(BadTimings):
            timings.read()


def test_a_tag_with_any_byte_changed_is_no_hindrance(quick: Path) -> None:
    cache = _whole_cache(quick)
    for _ in _spoil(quick / "CACHEDIR.TAG"):
        with cache.store.session():
            pass
    cache.build("b")
    assert broken_promises(quick, [Promise("record", "b"), Promise("entry", "b")]) == []


def test_a_waiter_is_told_of_a_holder_whose_lock_has_any_byte_changed(quick: Path) -> None:
    path, told = quick / "a.lock", list[str]()

    def waiting(holder: str) -> None:
        told.append(holder)
        raise TimeoutError

    with files.lock(path, "PID 1 on nowhere since 2026"):
        for spoilt in _spoilt(path.read_bytes()):
            path.write_bytes(spoilt)
            with pytest.raises(TimeoutError), files.lock(path, "me", waiting):
                pass
            assert told.pop() == (spoilt.decode(errors="replace") or "another process")


def test_whatever_is_in_the_lock_of_a_session_it_holds_and_is_swept_when_it_is_over(
    quick: Path,
) -> None:
    store = LocalStore(quick)
    with store.session() as session:
        lock = session.folder.with_name(f"{session.folder.name}.lock")
        for spoilt in _spoilt(lock.read_bytes()):
            lock.write_bytes(spoilt)
            left = quick / "staging" / "host-1-dead"
            left.mkdir()
            left.with_name("host-1-dead.lock").write_bytes(spoilt)
            with LocalStore(quick).session():
                assert session.folder.is_dir()
                assert not left.exists()
