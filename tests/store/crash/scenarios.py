"""What is tried under power cuts, kills and failing disks. A new one is a line of `SCENARIOS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engineforge.store import disk
from tests.store.crash.cache import Cache, Promise
from tests.store.crash.model import Tree
from tests.store.crash.recorder import Log, Recorder, killed, killed_once
from tests.store.crash.recovery import read_tree

Act = Callable[[Cache], None]
There = Callable[[Path], bool]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What was there and promised before, and all that happened after that."""

    base: Tree
    promised: tuple[Promise, ...]
    log: Log


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What is there before, durably; who then came, and was killed once what is on disk; and what
    is done at last. `damaged`: something other than the store has spoilt an entry."""

    name: str
    before: tuple[Act, ...] = ()
    killed: tuple[tuple[Act, There], ...] = ()
    act: Act
    damaged: bool = False

    def prepare(self, root: Path) -> list[Promise]:
        """Make what is there before; what it has promised."""
        promises: list[Promise] = []
        cache = Cache(root, promises.append)
        cache.store.create()
        for each in self.before:
            each(cache)
        return promises

    def record(self, root: Path) -> Recording:
        before = self.prepare(root)
        base, recorder = read_tree(root), Recorder(root)
        cache = Cache(root, recorder.promised)
        for act, there in self.killed:
            killed(killed_once(partial(there, root), recorder), partial(act, cache))
        with disk.watched(recorder):
            self.act(cache)
        return Recording(base=base, promised=tuple(before), log=recorder.log)


def _built(name: str, text: str = "engine") -> Act:
    return lambda cache: cache.build(name, text)


def _damaged(name: str) -> Act:
    def damage(cache: Cache) -> None:
        cache.damage(name)
        cache.promised(Promise("record", name, kept=False))
        cache.promised(Promise("entry", name, kept=False))

    return damage


def _timings(version: int) -> Act:
    return lambda cache: cache.merge_timings(version)


def _index(version: int) -> Act:
    return lambda cache: cache.save_index(version)


def _collected(name: str) -> Act:
    return lambda cache: cache.collect(name)


def _pushed(name: str) -> Act:
    return lambda cache: cache.push(name)


def _made_elsewhere(cache: Cache) -> None:
    cache.elsewhere()


def _imported(cache: Cache) -> None:
    cache.import_("a", cache.elsewhere())


def _there(pattern: str) -> There:
    return lambda root: any(root.glob(pattern))


SCENARIOS = (
    Scenario(name="the first entry of a cache, and its record", act=_built("a")),
    Scenario(
        name="a second entry beside it",
        before=(_built("a"),),
        act=_built("b"),
    ),
    Scenario(
        name="an entry below a folder whose maker was killed before it was durable",
        killed=((_built("a"), _there("entries-v1")),),
        act=_built("a"),
    ),
    Scenario(
        name="an entry in a folder whose maker was killed before it was durable",
        killed=((_built("a"), _there("entries-v1/*/*")),),
        act=_built("a"),
    ),
    Scenario(
        name="a record in a folder whose maker was killed before it was durable",
        killed=((_built("a"), _there("plans-v1/*")),),
        act=_built("a"),
    ),
    Scenario(
        name="a publisher who comes second to one that has not synced yet",
        killed=((_built("a", "first"), _there("entries-v1/*/*/*")),),
        act=_built("a", "second"),
    ),
    Scenario(
        name="a record of an entry whose publisher was killed before it synced",
        killed=((_built("a", "first"), _there("entries-v1/*/*/*")),),
        act=lambda cache: cache.adopt("a"),
    ),
    Scenario(
        name="a broken entry moved aside",
        before=(_built("a"), _damaged("a")),
        act=lambda cache: cache.set_aside("a"),
        damaged=True,
    ),
    Scenario(
        name="a broken entry moved aside and replaced",
        before=(_built("a"), _damaged("a")),
        act=_built("a", "again"),
        damaged=True,
    ),
    Scenario(name="the first timing cache", act=_timings(0)),
    Scenario(name="a timing cache over an old one", before=(_timings(0),), act=_timings(1)),
    Scenario(
        name="a timing cache in a folder whose maker was killed before it was durable",
        killed=((_timings(0), _there("timing-v1")),),
        act=_timings(1),
    ),
    Scenario(name="an index over an old one", before=(_index(0),), act=_index(1)),
    Scenario(
        name="an entry collected as garbage",
        before=(_built("a"), _built("b")),
        act=_collected("a"),
    ),
    Scenario(
        name="an entry removed from the trash for good",
        before=(_built("a"), _collected("a")),
        act=lambda cache: cache.purge(),
    ),
    Scenario(
        name="an entry taken back from the trash",
        before=(_built("a"), _collected("a")),
        act=lambda cache: cache.take_back("a"),
    ),
    Scenario(
        name="a first push into a folder that is a remote store",
        before=(_built("a"),),
        act=_pushed("a"),
    ),
    Scenario(
        name="a second push beside it",
        before=(_built("a"), _built("b", "other"), _pushed("b")),
        act=_pushed("a"),
    ),
    Scenario(
        name="a push that comes second to one that was killed before it synced its blob",
        before=(_built("a"),),
        killed=((_pushed("a"), _there("far/blobs-v1/*/*/*")),),
        act=_pushed("a"),
    ),
    Scenario(
        name="a push that comes second to one that was killed before it synced its manifest",
        before=(_built("a"),),
        killed=((_pushed("a"), _there("far/entries-v1/*/*/*")),),
        act=_pushed("a"),
    ),
    Scenario(
        name="a push that comes second to one that was killed before it synced its record",
        before=(_built("a"),),
        killed=((_pushed("a"), _there("far/plans-v1/*/*")),),
        act=_pushed("a"),
    ),
    Scenario(
        name="a broken manifest of a remote store moved aside and replaced",
        before=(_built("a"), _pushed("a"), lambda cache: cache.damage_far("a")),
        act=_pushed("a"),
        damaged=True,
    ),
    Scenario(name="an archive imported", before=(_made_elsewhere,), act=_imported),
    Scenario(
        name="an archive imported after one who was killed before its entry was durable",
        before=(_made_elsewhere,),
        killed=((_imported, _there("entries-v1/*/*/*")),),
        act=_imported,
    ),
    Scenario(
        name="an archive exported",
        before=(_built("a"),),
        act=lambda cache: cache.export("a", cache.root / "engines.tar"),
    ),
    Scenario(
        name="an archive exported over an old one",
        before=(
            _built("a"),
            _built("b"),
            lambda cache: cache.export("b", cache.root / "engines.tar"),
        ),
        act=lambda cache: cache.export("a", cache.root / "engines.tar"),
    ),
)
