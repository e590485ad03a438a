"""What a collection takes, what it leaves and why, and that what it took can be had back."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import pytest

from engineforge.digest import Digest, digest_value
from engineforge.store import gc
from engineforge.store.gc import Policy, Root, collect, decide, purge, survey
from engineforge.store.index import Index
from engineforge.store.local import MANIFEST, Entry, LocalStore
from engineforge.store.manifest import Manifest, PlanRecord
from engineforge.store.uses import Living, Ref
from engineforge.worker.entries import Entries, Made

_DAY = 86_400
_NOW = 2_000_000_000.0
"""Long after what the tests make is made; `_aged` says how long before it was last used."""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "cache")


def _about(manifest: Manifest) -> Sequence[Digest] | None:
    known: Mapping[str, Sequence[Digest]] = {"onnx": (), "engine": ()}
    if manifest.stage == "latency":
        return (Digest(manifest.key_document["engine"]),)
    return known.get(manifest.stage)


def _made(
    store: LocalStore,
    stage: str,
    number: int,
    *,
    days: float = 0,
    size: int = 100,
    label: str = "net",
    of: Digest | None = None,
) -> Entry:
    """An entry that was last used so many days ago, made when its number says."""
    document: dict[str, object] = {"format": 1, "stage": stage, "number": number}
    if of is not None:
        document["engine"] = of
    record = {"spec": label, "variant": "fp32", "target": "ada", "finished": f"2026-01-{number:02}"}
    with store.session() as session, session.staged() as staged:
        (staged / "model").write_bytes(number.to_bytes(2, "big") * (size // 2))
        entry, _ = store.publish(
            staged, stage=stage, key_document=document, digests={}, record=record
        )
    then = _NOW - days * _DAY
    os.utime(entry.path, (then, then))
    return entry


def _ref(entry: Entry) -> Ref:
    return Ref(entry.manifest.stage, entry.manifest.key)


def _recorded(store: LocalStore, number: int, *entries: Entry) -> Digest:
    """The plan of this number led to these entries; they are as old as before."""
    plan = {"format": 1, "plan": number}
    made = {entry.manifest.stage: entry.manifest.key for entry in entries}
    ages = [entry.path.stat().st_mtime for entry in entries]
    with store.session() as session:
        key = digest_value(plan)
        store.put_record(PlanRecord(key=key, key_document=plan, entries=made), session.folder)
    for entry, age in zip(entries, ages, strict=True):
        os.utime(entry.path, (age, age))
    return key


def _decided(
    store: LocalStore, *roots: Root, policy: Policy | None = None
) -> tuple[gc.Decision, list[Ref]]:
    """What is decided when nothing else runs, and what goes."""
    living = Living(store.root, reliable=True, now=_NOW + _DAY)
    decision = decide(survey(store, _about), roots, policy or Policy(), living, _NOW)
    return decision, list(decision.gone)


def _collected(store: LocalStore, *roots: Root, policy: Policy | None = None) -> list[Ref]:
    living = Living(store.root, reliable=True, now=_NOW + _DAY)
    seen = survey(store, _about)
    decision = decide(seen, roots, policy or Policy(), living, _NOW)
    return [ref for ref, spared in collect(store, seen, decision, living) if spared is None]


# --- What goes


def test_what_no_plan_names_goes(store: LocalStore) -> None:
    held, other = _made(store, "engine", 1), _made(store, "engine", 2)
    plan = _recorded(store, 1, held)
    decision, gone = _decided(store, Root(by="plan of net", plan=plan))
    assert gone == [_ref(other)]
    assert decision.held[_ref(held)] == ["plan of net"]


def test_a_plan_holds_the_entries_of_all_its_stages(store: LocalStore) -> None:
    plan = _recorded(store, 1, _made(store, "onnx", 1), _made(store, "engine", 2))
    assert _decided(store, Root(by="plan", plan=plan))[1] == []


def test_a_root_may_hold_entries_that_no_record_names(store: LocalStore) -> None:
    prepared = _made(store, "onnx", 1)
    assert _decided(store, Root(by="plan", entries=(_ref(prepared),)))[1] == []


def test_a_measurement_stays_with_the_engine_that_it_is_of(store: LocalStore) -> None:
    kept, gone = _made(store, "engine", 1), _made(store, "engine", 2)
    of_kept, of_gone = (
        _made(store, "latency", number, of=engine.manifest.files["model"].sha256)
        for number, engine in ((3, kept), (4, gone))
    )
    plan = _recorded(store, 1, kept)
    decision, went = _decided(store, Root(by="plan", plan=plan))
    assert set(went) == {_ref(gone), _ref(of_gone)}
    assert decision.held[_ref(of_kept)] == ["what it was measured of is kept"]


def test_entries_of_an_unknown_stage_stay(store: LocalStore) -> None:
    entry = _made(store, "of-tomorrow", 1)
    decision, gone = _decided(store)
    assert gone == []
    assert decision.held[_ref(entry)] == ["stage 'of-tomorrow' is not known to this version"]


# --- Policies


def test_the_newest_engines_of_each_variant_are_kept_with_what_their_records_name(
    store: LocalStore,
) -> None:
    engines = [_made(store, "engine", number) for number in range(1, 5)]
    other = _made(store, "engine", 5, label="other")
    onnx = _made(store, "onnx", 6)
    _recorded(store, 1, onnx, engines[3])
    _, gone = _decided(store, policy=Policy(keep_last=2))
    assert set(gone) == {_ref(each) for each in engines[:2]}
    assert not {_ref(other), _ref(onnx)} & set(gone)


def test_only_what_was_last_used_long_enough_ago_goes(store: LocalStore) -> None:
    old, young = _made(store, "engine", 1, days=31), _made(store, "engine", 2, days=29)
    decision, gone = _decided(store, policy=Policy(older_than=30 * _DAY))
    assert gone == [_ref(old)]
    assert decision.left[_ref(young)] == "nothing holds it, but it was last used 29 d ago"


def test_a_measurement_is_as_young_as_its_engine(store: LocalStore) -> None:
    engine = _made(store, "engine", 1, days=1)
    _made(store, "latency", 2, days=40, of=engine.manifest.files["model"].sha256)
    assert _decided(store, policy=Policy(older_than=30 * _DAY))[1] == []


def test_the_least_recently_used_go_first_until_the_rest_fits(store: LocalStore) -> None:
    entries = [_made(store, "engine", number, days=number) for number in range(1, 6)]
    decision, gone = _decided(store, policy=Policy(max_size=300))
    assert gone == [_ref(entries[4]), _ref(entries[3])]
    assert set(decision.left) == {_ref(each) for each in entries[:3]}


def test_what_is_held_stays_though_it_does_not_fit(store: LocalStore) -> None:
    held, other = _made(store, "engine", 1, size=1000, days=9), _made(store, "engine", 2)
    plan = _recorded(store, 1, held)
    assert _decided(store, Root(by="p", plan=plan), policy=Policy(max_size=500))[1] == [_ref(other)]


def test_of_several_policies_each_must_allow_it(store: LocalStore) -> None:
    _made(store, "engine", 1, days=1)
    policy = Policy(max_size=0, older_than=30 * _DAY)
    assert _decided(store, policy=policy)[1] == []


# --- What is in use


def test_what_a_living_session_noted_stays(store: LocalStore) -> None:
    entry = _made(store, "engine", 1)
    with store.session() as session:
        assert session.uses("engine", entry.manifest.key)
        os.utime(entry.path, (0, 0))  # so that its note alone holds it
        assert _collected(store) == []
    assert _collected(store) == [_ref(entry)]


def test_what_was_used_since_a_living_session_began_stays_though_nobody_noted_it(
    store: LocalStore,
) -> None:
    entry = _made(store, "engine", 1)
    with store.session():
        os.utime(entry.path)
        living = Living(store.root, reliable=True, now=_NOW)
        decision = decide(survey(store, _about), (), Policy(), living, _NOW)
    assert decision.gone == {}


def test_the_notes_of_a_dead_session_hold_nothing(store: LocalStore) -> None:
    entry = _made(store, "engine", 1)
    dead = store.root / "staging" / "host-1-dead"
    dead.mkdir()
    (dead / "uses").write_text(f"{_ref(entry)}\n")
    dead.with_name("host-1-dead.lock").touch()
    assert _collected(store) == [_ref(entry)]


def test_where_locks_do_not_hold_between_hosts_a_session_elsewhere_counts_as_living(
    store: LocalStore,
) -> None:
    entry = _made(store, "engine", 1)
    with store.session() as session:
        there = store.root / "staging" / "elsewhere-1-abc"
        there.mkdir()
        (there / "uses").write_text(f"{_ref(entry)}\n")
        there.with_name("elsewhere-1-abc.lock").touch()
        living = Living(store.root, reliable=False, now=session.began)
        assert living.holder(_ref(entry)) == "elsewhere-1-abc"
        days_later = Living(store.root, reliable=False, now=session.began + 2 * _DAY)
        assert days_later.holder(_ref(entry)) is None


def test_half_a_line_of_notes_is_passed_over(store: LocalStore) -> None:
    entry = _made(store, "engine", 1)
    with store.session() as session:
        (session.folder / "uses").write_bytes(b"engine 12ab\nengine")
        living = Living(store.root, reliable=True, now=_NOW)
        with (session.folder / "uses").open("ab") as notes:
            notes.write(f" x\n{_ref(entry)}\n".encode())
        living.look()
        assert living.holder(_ref(entry)) is not None


# --- Taking, and taking back


def test_what_goes_lies_in_the_trash_and_so_do_the_records_that_name_it(store: LocalStore) -> None:
    entry = _made(store, "engine", 1)
    plan = _recorded(store, 1, entry)
    assert _collected(store) == [_ref(entry)]
    assert not entry.path.exists()
    assert not store.plan_path(plan).exists()
    trash = store.root / "trash"
    assert (trash / "engine" / entry.manifest.key.hex / "model").exists()
    assert (trash / "plans" / f"{plan.hex}.json").exists()


def test_a_record_all_of_whose_entries_stay_stays(store: LocalStore) -> None:
    entry = _made(store, "engine", 1)
    held, unwanted = _recorded(store, 1, entry), _recorded(store, 2, entry)
    assert _collected(store, Root(by="plan", plan=held)) == []
    assert store.plan_record(unwanted) is not None


def test_what_roots_hold_was_of_use_until_now(store: LocalStore) -> None:
    held, left = _made(store, "engine", 1, days=50), _made(store, "engine", 2, days=1)
    plan = _recorded(store, 1, held)
    before = left.path.stat().st_mtime
    _collected(store, Root(by="p", plan=plan), policy=Policy(older_than=9 * _DAY))
    assert abs(held.path.stat().st_mtime - (store.root / "staging").stat().st_mtime) < _DAY
    assert left.path.stat().st_mtime == before


def test_in_the_trash_it_waits_for_its_time(store: LocalStore) -> None:
    entry = _made(store, "engine", 1)
    _collected(store)
    trash = _ref(entry).trash(store.root)
    since = trash.stat().st_ctime
    with store.session() as session:
        assert list(purge(store, session, since + 9, 10)) == []
        assert [path for path, _ in purge(store, session, since + 11, 10)] == [trash]
    assert not trash.exists()
    assert not list((store.root / "staging").glob("*-*"))


def test_no_grace_empties_the_trash_at_once(store: LocalStore) -> None:
    _made(store, "engine", 1)
    _collected(store)
    with store.session() as session:
        ((_, size),) = purge(store, session, 0, 0)
    assert size > 100
    assert list(gc.in_trash(store)) == []


def _unmakable(_: Path) -> Made:
    raise AssertionError("it is built again")


def test_what_is_needed_again_is_taken_back_from_the_trash_and_not_built(store: LocalStore) -> None:
    entry = _made(store, "engine", 1)
    _collected(store)
    key = dict(entry.manifest.key_document)
    with store.session() as session:
        entries = Entries(store, session, Index(store.root), lambda: datetime.now(timezone.utc))
        found = entries.obtain("engine", key, _unmakable)
    assert found.why == "taken back from the trash"
    assert store.broken_files(found.entry) == []
    assert list(gc.in_trash(store)) == []


def test_what_rotted_in_the_trash_is_built_again(store: LocalStore) -> None:
    entry = _made(store, "engine", 1)
    _collected(store)
    rotten = _ref(entry).trash(store.root) / "model"
    rotten.chmod(stat.S_IRUSR | stat.S_IWUSR)
    rotten.write_bytes(bytes(100))
    with store.session() as session:
        entries = Entries(store, session, Index(store.root), lambda: datetime.now(timezone.utc))

        def make(staged: Path) -> Made:
            (staged / "model").write_text("anew")
            return Made(record={})

        found = entries.obtain("engine", dict(entry.manifest.key_document), make)
    assert found.why is None
    assert found.entry.file("model").read_text() == "anew"
    (fault,) = store.faults
    assert "is corrupt" in fault.what


def test_a_collection_that_comes_second_finds_nothing_to_take(store: LocalStore) -> None:
    entry = _made(store, "engine", 1)
    living = Living(store.root, reliable=True, now=_NOW + _DAY)
    seen = survey(store, _about)
    decision = decide(seen, (), Policy(), living, _NOW)
    assert _collected(store) == [_ref(entry)]
    (said,) = collect(store, seen, decision, living)
    assert said == (_ref(entry), "taken by another process")


def test_taking_an_entry_twice_leaves_both_in_the_trash(store: LocalStore) -> None:
    for _ in range(2):
        _made(store, "engine", 1)
        _collected(store)
    assert len(list(gc.in_trash(store))) == 2


def test_what_is_taken_back_is_what_was_taken_last(store: LocalStore) -> None:
    taken: list[set[int]] = []
    for _ in range(2):
        _made(store, "engine", 1)
        _collected(store)
        taken.append({path.stat().st_ino for path in store.root.glob("trash/engine/*")})
    ((last,), first) = (taken[1] - taken[0], taken[0])
    key = digest_value({"format": 1, "stage": "engine", "number": 1})
    assert store.take_back("engine", key)
    assert store.entry_path("engine", key).stat().st_ino == last
    assert {path.stat().st_ino for path, _ in gc.in_trash(store)} == first


def test_an_entry_that_is_used_is_the_same_entry(store: LocalStore) -> None:
    entry = _made(store, "engine", 1)
    os.utime(entry.path)
    store.quarantine(entry, "flipped")
    assert store.get("engine", entry.manifest.key) is None, "it was moved, though touched since"


def test_broken_entries_are_quarantined_and_not_collected(store: LocalStore) -> None:
    entry = _made(store, "engine", 1)
    (entry.path / MANIFEST).chmod(0o644)
    (entry.path / MANIFEST).write_text("")
    assert _collected(store) == []
    assert (store.root / "quarantine" / entry.manifest.key.hex).exists()
