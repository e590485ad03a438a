"""A collection while others build, in every order: nothing that is relied on goes, and no plan
record ever names what is not there."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engineforge.digest import Digest, digest_value
from engineforge.store import disk, gate, gc, local, uses
from engineforge.store.far import archive
from engineforge.store.gc import Policy, collect, decide, purge, survey
from engineforge.store.index import Index
from engineforge.store.local import LocalStore
from engineforge.store.manifest import Manifest, PlanRecord
from engineforge.store.pins import Pin, Pins
from engineforge.store.uses import Living, Ref
from engineforge.worker.entries import Entries, Made
from tests.store import interleaved
from tests.store.interleaved import Schedule, every_schedule

_KEYS = {stage: {"format": 1, "stage": stage} for stage in ("onnx", "engine")}
_REFS = {stage: Ref(stage, digest_value(key)) for stage, key in _KEYS.items()}
_PLANS = [{"format": 1, "plan": number} for number in range(2)]
_LONG_AGO = 1_000_000_000
_ARCHIVE = "entries.tar"
_FEW, _MANY = 30, 500
"""Of schedules with one preemption there are more than the one, and less than the other."""

_DRAWN = 150


def _nothing_is_measured(_: Manifest) -> Sequence[Digest]:
    return ()


def _record(store: LocalStore, number: int, staging: Path) -> None:
    plan = _PLANS[number]
    entries = {stage: ref.key for stage, ref in _REFS.items()}
    store.put_record(
        PlanRecord(key=digest_value(plan), key_document=plan, entries=entries), staging
    )


class World:
    """A cache, a build that obtains two entries and records its plan, and a collection that takes
    all but what running processes, and `plans`, keep."""

    def __init__(self, root: Path, plans: Sequence[int] = ()) -> None:
        self.root = root
        self._roots = [gc.Root(by="a plan", plan=digest_value(_PLANS[each])) for each in plans]
        self.relied_on: set[Ref] = set()
        self.pinned = False
        self.made = 0

    def build(self) -> None:
        store = LocalStore(self.root)
        with store.session() as session:
            entries = Entries(store, session, Index(self.root), lambda: datetime.now(timezone.utc))
            for stage, key in _KEYS.items():
                entries.obtain(stage, key, self._make)
                self.relied_on.add(_REFS[stage])
                interleaved.step()
            _record(store, 1, session.folder)
            interleaved.step()
            self.relied_on.clear()

    def _make(self, staged: Path) -> Made:
        (staged / "model").write_text("what was asked for")
        self.made += 1
        return Made(record={})

    def collect(self) -> None:
        store = LocalStore(self.root)
        with store.session() as session:
            pinned = [gc.Root(by="a pin", plan=pin.plan) for pin in Pins(store).all()]
            interleaved.step()
            living = Living(self.root, reliable=True, now=session.began)
            seen = survey(store, _nothing_is_measured)
            roots = [*self._roots, *pinned]
            decision = decide(seen, roots, Policy(), living, session.began)
            for _ in collect(store, seen, decision, living):
                interleaved.step()
            for _ in purge(store, session, session.began, grace=0):
                interleaved.step()

    def import_(self) -> None:
        store = LocalStore(self.root)
        with store.session() as session:
            archive.import_(self.root.parent / _ARCHIVE, store, session)
            self.relied_on.update(_REFS.values())
            interleaved.step()
            self.relied_on.clear()

    def pin(self) -> None:
        store = LocalStore(self.root)
        pin = Pin(label="a variant", plan=digest_value(_PLANS[0]), since="today")
        with store.session() as session:
            self.pinned = Pins(store).add(pin, session)
            interleaved.step()

    def check(self) -> None:
        for ref in self.relied_on:
            assert (ref.path(self.root) / "model").exists(), f"{ref.stage} was taken away"
        for path in self.root.glob("plans-v1/*/*.json"):
            self._points_to_what_is_there(PlanRecord.from_bytes(path.read_bytes()))
        store = LocalStore(self.root)
        for pin in Pins(store).all():
            record = store.plan_record(pin.plan)
            assert record is not None, "a pin holds a plan whose record is gone"
            self._points_to_what_is_there(record)

    def _points_to_what_is_there(self, record: PlanRecord) -> None:
        for stage, key in record.entries.items():
            there = Ref(stage, key).path(self.root) / "manifest.json"
            assert there.exists(), f"a record names the {stage} entry, which is gone"


def _of_old(root: Path) -> None:
    """Both entries, and the record of another plan, as they were left long ago."""
    store = LocalStore(root)
    with store.session() as session:
        entries = Entries(store, session, Index(root), lambda: datetime.now(timezone.utc))
        for stage, key in _KEYS.items():
            entries.obtain(stage, key, World(root)._make)
        _record(store, 0, session.folder)
    _grown_old(root)


def _grown_old(root: Path) -> None:
    for ref in _REFS.values():
        os.utime(ref.path(root), (_LONG_AGO, _LONG_AGO))


def _nothing(root: Path) -> None:
    LocalStore(root).create()


def _collected(root: Path) -> None:
    """All of it in the trash."""
    _of_old(root)
    store = LocalStore(root)
    with store.session() as session:
        living = Living(root, reliable=True, now=session.began)
        seen = survey(store, _nothing_is_measured)
        for _ in collect(store, seen, decide(seen, [], Policy(), living, session.began), living):
            pass


_STARTS: list[Callable[[Path], None]] = [_of_old, _nothing, _collected]


def _exported(folder: Path) -> None:
    """Both entries, and the record of a plan, in one file beside the caches of a test."""
    store = LocalStore(folder / "elsewhere")
    _of_old(store.root)
    archive.export(store, list(store.plan_records("")), folder / _ARCHIVE)


@pytest.fixture
def seams(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Where processes may come between each other; and nothing has to survive a power cut."""

    def stepping(act: Callable[..., object]) -> Callable[..., object]:
        def stepped(*args: object, **more: object) -> object:
            interleaved.step()
            return act(*args, **more)

        return stepped

    monkeypatch.setattr(fcntl, "flock", interleaved.flock)
    for name in ("sync_file", "sync_folder"):
        monkeypatch.setattr(disk, name, lambda *_: None)
    for module in (gc, local, uses):
        monkeypatch.setattr(module, "touch", stepping(uses.touch))
    monkeypatch.setattr(gc, "last_used", stepping(uses.last_used))
    monkeypatch.setattr(LocalStore, "get", stepping(LocalStore.get))
    monkeypatch.setattr(Living, "look", stepping(Living.look))
    return monkeypatch


class Runs:
    """Runs of the same start, each in a cache of its own, of these `acts`. The
    plan of the build is one that the specs name (`wanted`), or not."""

    def __init__(
        self,
        start: Callable[[Path], None],
        folder: Path,
        *,
        wanted: bool = False,
        acts: Sequence[Callable[[World], None]] = (World.build, World.collect),
    ) -> None:
        self._wanted, self._acts = wanted, acts
        self.pinned: set[bool] = set()
        self._template, self._folder = folder / "template", folder
        start(self._template)

    def __call__(self, choose: Callable[[int, tuple[int, ...]], int]) -> list[interleaved.Turn]:
        root = self._folder / "cache"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self._template, root)  # with the times of its folders
        world = World(root, [1] if self._wanted else [])
        acts = [functools.partial(each, world) for each in self._acts]
        turns = Schedule(acts, world.check).run(choose)
        self.pinned.add(world.pinned)
        if self._wanted:
            record = LocalStore(root).plan_record(digest_value(_PLANS[1]))
            assert record is not None, "what was published is lost"
        return turns


@pytest.mark.parametrize(
    ("start", "wanted"),
    [
        (_of_old, False),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in ((_nothing, False), (_nothing, True))
        ),
        *(pytest.param(_collected, each, marks=pytest.mark.slow) for each in (False, True)),
        pytest.param(_of_old, True, marks=pytest.mark.slow),
    ],
)
def test_in_no_order_is_taken_what_a_build_relies_on(
    seams: pytest.MonkeyPatch, tmp_path: Path, start: Callable[[Path], None], wanted: bool
) -> None:
    tried = max(every_schedule(Runs(start, tmp_path, wanted=wanted), 1))
    sys.stderr.write(f"\n{start.__name__}: {tried} schedules\n")
    assert tried > _FEW


@pytest.mark.slow
@pytest.mark.parametrize("start", _STARTS)
def test_nor_in_orders_with_more_preemptions(
    seams: pytest.MonkeyPatch, tmp_path: Path, start: Callable[[Path], None]
) -> None:
    # All with two are some thousands, of 20 ms each: so some hundreds, with up to four.
    runs, draw = Runs(start, tmp_path), Random(6)
    tried: set[tuple[int, ...]] = set()
    longest = len(runs(lambda _turn, options: options[0]))
    for _ in range(_DRAWN):
        # The first turn among them lets the collection begin. Late ones may find one actor done.
        points = frozenset(draw.sample(range(longest), draw.randrange(2, 5)))
        points ^= {0} if draw.random() < 1 / 2 else set()

        def choose(turn: int, options: tuple[int, ...], at: frozenset[int] = points) -> int:
            return options[-1 if turn in at else 0]

        tried.add(tuple(turn.chosen for turn in runs(choose)))
    sys.stderr.write(f"\n{start.__name__}: {len(tried)} different schedules\n")
    assert len(tried) > _FEW


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
@given(start=st.sampled_from(_STARTS), wanted=st.booleans(), draw=st.randoms(use_true_random=False))
def test_nor_in_any_order_that_is_drawn(
    seams: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    start: Callable[[Path], None],
    wanted: bool,
    draw: Random,
) -> None:
    runs = Runs(start, tmp_path_factory.mktemp("drawn"), wanted=wanted)
    runs(lambda _turn, options: draw.choice(options))


@pytest.mark.parametrize(
    "start",
    [_of_old, *(pytest.param(each, marks=pytest.mark.slow) for each in (_nothing, _collected))],
)
def test_in_no_order_is_taken_what_an_import_brings_or_finds(
    seams: pytest.MonkeyPatch, tmp_path: Path, start: Callable[[Path], None]
) -> None:
    _exported(tmp_path)
    runs = Runs(start, tmp_path, acts=(World.import_, World.collect))
    assert max(every_schedule(runs, 1)) > _FEW


@pytest.mark.parametrize("without", [None, "notes", "touch"])
def test_in_no_order_does_a_pin_hold_what_is_gone(
    seams: pytest.MonkeyPatch, tmp_path: Path, without: str | None
) -> None:
    runs = Runs(_of_old, tmp_path, acts=(World.pin, World.collect))
    if without is not None:
        {"notes": _no_notes, "touch": _no_touch}[without](seams)
    assert max(every_schedule(runs, 1)) > _FEW
    assert runs.pinned == {False, True}, "some come too late"


@pytest.mark.slow
def test_nor_where_a_build_takes_back_what_was_collected(
    seams: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The entries are there again, but not the record of the plan that is pinned."""
    runs = Runs(_of_old, tmp_path, acts=(World.pin, World.collect, World.build))
    assert max(every_schedule(runs, 1)) > _FEW


# --- That these tests can fail


def _no_gate(seams: pytest.MonkeyPatch) -> None:
    for name in ("using", "deciding"):
        seams.setattr(gate, name, lambda _: contextlib.nullcontext())


def _no_notes(seams: pytest.MonkeyPatch) -> None:
    seams.setattr(uses.Notes, "_append", lambda *_: None)


def _no_touch(seams: pytest.MonkeyPatch) -> None:
    """As in a folder of another user's."""
    for module in (local, uses):
        seams.setattr(module, "touch", lambda _: False)


def _neither(seams: pytest.MonkeyPatch) -> None:
    _no_notes(seams)
    _no_touch(seams)


def _entry_before_record(seams: pytest.MonkeyPatch) -> None:
    take = gc._take

    def reordered(
        store: LocalStore, ref: Ref, plans: Sequence[Digest], living: Living
    ) -> str | None:
        why = take(store, ref, (), living)
        interleaved.step()
        for plan in plans if why is None else ():
            store.plan_path(plan).unlink(missing_ok=True)
        return why

    seams.setattr(gc, "_take", reordered)


@pytest.mark.parametrize("act", [World.import_, World.pin])
@pytest.mark.parametrize("without", [_no_gate, _neither])
def test_without_them_an_import_or_a_pin_points_to_nothing(
    seams: pytest.MonkeyPatch,
    tmp_path: Path,
    act: Callable[[World], None],
    without: Callable[[pytest.MonkeyPatch], None],
) -> None:
    _exported(tmp_path)
    runs = Runs(_of_old, tmp_path, acts=(act, World.collect))
    without(seams)
    with pytest.raises(AssertionError, match=r"was taken away|is gone"):
        for count in every_schedule(runs, 1):
            assert count < _MANY


@pytest.mark.parametrize("without", [_no_gate, _neither, _entry_before_record])
def test_without_each_of_its_parts_something_is_lost(
    seams: pytest.MonkeyPatch, tmp_path: Path, without: Callable[[pytest.MonkeyPatch], None]
) -> None:
    runs = Runs(_of_old, tmp_path)
    without(seams)
    with pytest.raises(AssertionError, match=r"was taken away|which is gone"):
        for count in every_schedule(runs, 1):
            assert count < _MANY


@pytest.mark.parametrize("without", [pytest.param(_no_notes, marks=pytest.mark.slow), _no_touch])
def test_a_note_is_enough_and_so_is_a_touch(
    seams: pytest.MonkeyPatch, tmp_path: Path, without: Callable[[pytest.MonkeyPatch], None]
) -> None:
    runs = Runs(_of_old, tmp_path)
    without(seams)
    assert max(every_schedule(runs, 1)) > _FEW


# --- Real processes

_BUILDS = """
import random, sys, time
from datetime import datetime, timezone
from pathlib import Path
from engineforge.digest import digest_value
from engineforge.store.index import Index
from engineforge.store.local import LocalStore
from engineforge.store.manifest import PlanRecord
from engineforge.worker.entries import Entries, Made

root, seed, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
draw, store, end = random.Random(seed), LocalStore(root), time.monotonic() + seconds
runs = taken_back = 0

def make(staged):
    (staged / "model").write_bytes(bytes(1000))
    return Made(record={})

while time.monotonic() < end:
    with store.session() as session:
        entries = Entries(store, session, Index(root), lambda: datetime.now(timezone.utc))
        got = []
        for _ in range(draw.randrange(1, 5)):
            key = {"format": 1, "number": draw.randrange(6)}
            found = entries.obtain("engine", key, make)
            taken_back += found.why == "taken back from the trash"
            got.append(found.entry)
            for entry in got:
                assert entry.file("model").stat().st_size == 1000, entry
        plan = {"format": 1, "plan": draw.randrange(50)}
        made = {"engine": draw.choice(got).manifest.key}
        record = PlanRecord(key=digest_value(plan), key_document=plan, entries=made)
        store.put_record(record, session.folder)
        for entry in got:
            assert entry.file("model").stat().st_size == 1000, entry
    runs += 1
assert not store.faults, store.faults
print(runs, taken_back)
"""

_COLLECTS = """
import sys, time
from pathlib import Path
from engineforge.store import gate
from engineforge.store.gc import Policy, collect, decide, purge, survey
from engineforge.store.local import LocalStore
from engineforge.store.uses import Living

root, grace, seconds = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
store, end, gone = LocalStore(root), time.monotonic() + seconds, 0
while time.monotonic() < end:
    with store.session() as session:
        living = Living(root, reliable=True, now=session.began)
        seen = survey(store, lambda _: ())
        decision = decide(seen, [], Policy(), living, session.began)
        gone += sum(1 for _, why in collect(store, seen, decision, living) if why is None)
        list(purge(store, session, time.time(), grace))
    # Builders hold the lock together, so that nothing comes between the looks at these files.
    with gate.deciding(root):
        records = list(store.plan_records(""))
        for record in records:
            for stage, key in record.entries.items():
                assert store.entry_path(stage, key).is_dir(), (stage, key)
assert not store.faults, store.faults
print(gone, 0)
"""


@pytest.mark.slow
def test_processes_that_build_and_collect_at_once_take_nothing_from_each_other(
    tmp_path: Path,
) -> None:
    root, seconds = str(tmp_path / "cache"), "12"
    LocalStore(Path(root)).create()
    commands = [
        *([_BUILDS, root, str(seed), seconds] for seed in range(3)),
        *([_COLLECTS, root, grace, seconds] for grace in ("0", "0.2")),
    ]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", *each], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for each in commands
    ]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0] * len(running), said
    counts = [tuple(map(int, out.split())) for out, _ in said]
    built, collected = counts[:3], counts[3:]
    assert min(runs for runs, _ in built) > 0
    assert sum(gone for gone, _ in collected) > 0, "nothing was ever collected"
    sys.stderr.write(f"\n{built} runs and taken back, {collected} collected\n")
