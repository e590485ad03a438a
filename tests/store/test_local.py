"""The store in a folder: whole entries or none, and what is broken is moved out of the way."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engineforge.digest import Digest, digest_bytes, digest_value
from engineforge.errors import StoreCorrupt
from engineforge.store import disk
from engineforge.store.local import MANIFEST, Entry, LocalStore
from engineforge.store.manifest import BadManifest, Manifest, PlanRecord
from engineforge.store.uses import Living, is_over

_KEY = {"format": 1, "what": "a test"}
KEY = digest_value(_KEY)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "cache")


def _publish(store: LocalStore, text: str = "engine") -> Entry:
    with store.session() as session, session.staged() as staged:
        (staged / "model.engine").write_text(text)
        (staged / "build.log").write_text("log")
        entry, _ = store.publish(staged, stage="engine", key_document=_KEY, digests={}, record={})
        return entry


def _record(store: LocalStore) -> Path:
    record = PlanRecord(key=KEY, key_document=_KEY, entries={})
    with store.session() as session:
        store.put_record(record, session.folder)
    return store.plan_path(KEY)


def _writable(path: Path) -> Path:
    path.chmod(0o644)
    return path


def test_what_is_published_is_there_whole(store: LocalStore) -> None:
    published = _publish(store)
    assert store.get("engine", KEY) == published
    assert published.file("model.engine").read_text() == "engine"
    assert store.broken_files(published) == []


def test_the_first_published_entry_wins_and_the_second_adopts_it(store: LocalStore) -> None:
    first, second = _publish(store, "first"), _publish(store, "second")
    assert second == first
    assert second.file("model.engine").read_text() == "first"


def test_of_many_that_publish_one_key_all_have_the_same_entry(store: LocalStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        entries = list(pool.map(lambda number: _publish(store, f"by {number}"), range(8)))
    assert all(each == entries[0] for each in entries)
    assert store.broken_files(entries[0]) == []
    assert store.faults == []


def test_a_broken_entry_gives_way_to_a_new_one(store: LocalStore) -> None:
    _writable(_publish(store, "first").file(MANIFEST)).write_text("")
    second = _publish(store, "second")
    assert second.file("model.engine").read_text() == "second"
    assert store.broken_files(second) == []


def test_an_entry_that_cannot_be_moved_away_is_never_taken_for_the_new_one(
    store: LocalStore,
) -> None:
    _writable(_publish(store, "first").file(MANIFEST)).write_text("")
    (store.root / "quarantine").write_text("not a folder")
    with pytest.raises(StoreCorrupt):
        _publish(store, "second")


def test_what_a_sweep_could_not_remove_is_found_by_the_next(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create()
    left = store.root / "staging" / "host-1-abc"
    left.mkdir()
    left.with_name("host-1-abc.lock").touch()
    # As when a child that outlives its process writes into the folder while it is removed.
    monkeypatch.setattr("engineforge.store.files.remove_folder", lambda _: None)
    with store.session():
        assert left.exists()
    monkeypatch.undo()
    with store.session():
        assert not left.exists()
    assert not left.with_name("host-1-abc.lock").exists()


def test_a_session_leaves_no_staging_behind(store: LocalStore) -> None:
    _publish(store)
    assert list((store.root / "staging").iterdir()) == []


def test_a_manifest_truncated_at_any_byte_is_a_miss(store: LocalStore) -> None:
    manifest = _publish(store).file(MANIFEST)
    data, believed = manifest.read_bytes(), []
    for end in range(len(data)):
        _writable(manifest).write_bytes(data[:end])
        if store.get("engine", KEY) is not None:
            believed.append(end)
        quarantined = store.root / "quarantine" / KEY.hex
        quarantined.rename(store.entry_path("engine", KEY))
    assert believed == []
    assert len(store.faults) == len(data)


def test_a_plan_record_truncated_at_any_byte_is_a_miss(store: LocalStore) -> None:
    path = _record(store)
    data, believed = path.read_bytes(), []
    for end in range(len(data)):
        path.write_bytes(data[:end])
        if store.plan_record(KEY) is not None:
            believed.append(end)
    assert believed == []
    assert not path.exists()


def _missing(entry: Path) -> None:
    (entry / "model.engine").unlink()


def _without_manifest(entry: Path) -> None:
    (entry / MANIFEST).unlink()


def _shorter(entry: Path) -> None:
    _writable(entry / "model.engine").write_text("engin")


def _longer(entry: Path) -> None:
    _writable(entry / "build.log").write_text("log and more")


def _empty(entry: Path) -> None:
    # What a power cut leaves of files that were never fsynced (nix#1218).
    for file in entry.iterdir():
        _writable(file).write_bytes(b"")


def _a_file_in_its_place(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_text("not a folder")


def _of_another_entry(entry: Path) -> None:
    other = {"format": 1, "what": "another"}
    away = LocalStore(entry / "away")
    with away.session() as session, session.staged() as staged:
        (staged / "model.engine").write_text("engine")
        (staged / "build.log").write_text("log")
        found, _ = away.publish(staged, stage="engine", key_document=other, digests={}, record={})
    shutil.copy(found.file(MANIFEST), _writable(entry / MANIFEST))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_missing, "'model.engine' is missing"),
        (_without_manifest, "'manifest.json' is missing"),
        (_shorter, "'model.engine' has 5 bytes, expected 6"),
        (_longer, "'build.log' has 12 bytes, expected 3"),
        (_empty, "not JSON"),
        (_a_file_in_its_place, "'manifest.json' is missing"),
        (_of_another_entry, "the manifest of another entry"),
    ],
)
def test_an_entry_that_is_not_whole_is_said_quarantined_and_a_miss(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    told: list[str] = []
    store = LocalStore(tmp_path / "cache", told.append)
    spoil(_publish(store).path)
    assert store.get("engine", KEY) is None
    (fault,) = store.faults
    assert said in fault.what
    assert f"engine entry {KEY.short}" in fault.what
    assert fault.moved_to == store.root / "quarantine" / KEY.hex
    assert fault.moved_to.exists()
    assert told == [str(fault)]
    assert store.get("engine", KEY) is None
    assert len(store.faults) == 1, "a miss from now on, and no fault"


def test_a_flipped_byte_of_equal_size_is_found_by_hashing(store: LocalStore) -> None:
    entry = _publish(store)
    _writable(entry.file("model.engine")).write_text("enginE")
    found = store.get("engine", KEY)
    assert found is not None
    (broken,) = store.broken_files(found)
    assert broken.startswith("'model.engine' is ")


def test_a_record_under_the_name_of_another_plan_is_a_miss(store: LocalStore) -> None:
    other = digest_bytes(b"other")
    store.plan_path(other).parent.mkdir(parents=True)
    _record(store).rename(store.plan_path(other))
    assert store.plan_record(other) is None
    assert "another plan" in store.faults[0].what


def test_foreign_files_in_the_cache_are_left_alone(store: LocalStore) -> None:
    entry = _publish(store)
    _record(store)
    (entry.path.parent / "notes.txt").write_text("mine")
    (store.plan_path(KEY).parent / "notes.json").write_text("mine")
    assert [each.manifest.key for each in store.entries("engine")] == [KEY]
    assert [each.key for each in store.plan_records("")] == [KEY]
    assert store.faults == []


def test_the_cache_says_that_it_is_one(store: LocalStore) -> None:
    store.create()
    tag = (store.root / "CACHEDIR.TAG").read_text()
    assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


_STAGE_AND_HANG = """
import sys, time
from pathlib import Path
from engineforge.store.local import LocalStore
with LocalStore(Path(sys.argv[1])).session() as session, session.staged() as staged:
    (staged / "model.engine").write_bytes(bytes(1000))
    print(session.folder, flush=True)
    time.sleep(60)
"""


def _staging_process(root: Path) -> tuple[subprocess.Popen[str], Path]:
    command = [sys.executable, "-c", _STAGE_AND_HANG, str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_the_staging_of_a_dead_process_is_swept_by_the_next(store: LocalStore) -> None:
    process, folder = _staging_process(store.root)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert folder.is_dir()
    _publish(store)
    assert list((store.root / "staging").iterdir()) == []


def test_the_staging_of_a_living_process_is_left_alone(store: LocalStore) -> None:
    process, folder = _staging_process(store.root)
    _publish(store)
    assert len(list(folder.glob("*/model.engine"))) == 1
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_old_files_that_a_killed_process_left_in_staging_are_swept(store: LocalStore) -> None:
    store.create()
    old, young = store.root / "staging" / "replace-1-1", store.root / "staging" / "replace-2-2"
    for path in (old, young):
        path.write_text("half")
    yesterday = time.time() - 2 * 86400
    os.utime(old, (yesterday, yesterday))
    _publish(store)
    assert list((store.root / "staging").iterdir()) == [young]


def test_a_digest_is_never_shortened_in_the_store(store: LocalStore) -> None:
    assert _publish(store).path.name == Digest(KEY).hex


def test_what_was_judged_broken_is_moved_and_not_what_took_its_place(store: LocalStore) -> None:
    judged = _publish(store)
    shutil.rmtree(judged.path)
    repaired = _publish(store)
    store.quarantine(judged, "flipped")
    assert store.faults == []
    assert store.get("engine", KEY) == repaired


def test_a_manifest_names_plain_files_only(store: LocalStore) -> None:
    entry = _publish(store)
    files = {"../../escape": entry.manifest.files["build.log"]}
    data = dataclasses.replace(entry.manifest, files=files).to_bytes()
    with pytest.raises(BadManifest, match="no name for a file of an entry"):
        Manifest.from_bytes(data)


def test_a_record_of_an_entry_that_is_gone_is_refused(store: LocalStore) -> None:
    record = PlanRecord(key=KEY, key_document=_KEY, entries={"engine": KEY})
    with (
        store.session() as session,
        pytest.raises(StoreCorrupt, match="is gone, which this plan led to"),
    ):
        store.put_record(record, session.folder)
    assert store.plan_record(KEY) is None


def test_a_sound_entry_that_takes_its_place_at_the_last_moment_is_put_back(
    store: LocalStore, tmp_path: Path
) -> None:
    """What another process does between the look and the move, done at the move."""
    broken = _publish(store)
    other = LocalStore(tmp_path / "other")
    other.create()
    sound = _publish(other, "sound")
    broken.file("model.engine").unlink()

    def replaced(change: disk.Change) -> None:
        if change.kind == "rename" and change.path == broken.path:
            shutil.rmtree(broken.path)
            shutil.copytree(sound.path, broken.path)

    with disk.watched(replaced):
        assert store.get("engine", KEY) is None
    found = store.get("engine", KEY)
    assert found is not None
    assert found.file("model.engine").read_text() == "sound"
    assert not store.faults


@pytest.mark.parametrize(("host", "over"), [("vm", True), ("vm-2", False)])
def test_a_session_is_of_the_host_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, over: bool
) -> None:
    """Where locks do not hold between hosts, one of another host lives for a day."""
    monkeypatch.setattr(socket, "gethostname", lambda: "vm")
    lock = tmp_path / f"{host}-12-0123abcd.lock"
    lock.touch()
    handle = is_over(lock, reliable=False, now=lock.stat().st_mtime)
    assert (handle is not None) == over
    if handle is not None:
        os.close(handle)


_AS_ANOTHER_USER = """
import os, sys
from pathlib import Path
from engineforge.store.local import LocalStore
from engineforge.store.uses import Living
os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.seteuid(65534)
with LocalStore(Path(".")).session() as session:
    living = Living(Path("."), reliable=True, now=session.began)
    assert living.since == session.began, "a dead session lives"
"""


def test_a_dead_session_of_another_user_lives_no_longer(store: LocalStore) -> None:
    """Whose lock file cannot be opened to write, nor be removed."""
    store.create()
    (store.root / "staging" / "locks").mkdir()
    dead = store.root / "staging" / "host-1-0123abcd.lock"
    dead.touch(0o444)
    os.utime(dead, (0, 0))
    for folder in (store.root / "staging", store.root / "staging" / "locks"):
        folder.chmod(0o1777)
    subprocess.run([sys.executable, "-c", _AS_ANOTHER_USER, str(store.root)], check=True)


def test_where_there_are_no_locks_a_session_leaves_none_behind(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_handle: int, _kind: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    _publish(store)
    assert not list((store.root / "staging").glob("*.lock"))
    with store.session() as session:
        assert Living(store.root, reliable=False, now=session.began).since == session.began
