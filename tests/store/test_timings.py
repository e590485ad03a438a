"""The file of a shared timing cache: read whole or not at all, whoever writes it meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engineforge.store.local import LocalStore
from engineforge.store.timings import BadTimings, Timings

BLOB = bytes(range(64)) + b"\n" + b"engineforge timing cache 1 \n"


@pytest.fixture
def timings(tmp_path: Path) -> Timings:
    LocalStore(tmp_path).create()
    return Timings(tmp_path, "h200")


def test_what_was_written_is_read(timings: Timings) -> None:
    timings.write(BLOB)
    assert timings.read() == BLOB


def test_an_empty_cache_is_no_absent_one(timings: Timings) -> None:
    timings.write(b"")
    assert timings.read() == b""


def test_nothing_is_there_before_it_is_written(timings: Timings) -> None:
    assert timings.read() is None


def test_each_name_has_a_file_of_its_own(timings: Timings, tmp_path: Path) -> None:
    timings.write(BLOB)
    assert Timings(tmp_path, "h100").read() is None


def test_a_file_cut_off_anywhere_is_bad(timings: Timings) -> None:
    timings.write(BLOB)
    whole = timings.path.read_bytes()
    for length in range(len(whole)):
        timings.path.write_bytes(whole[:length])
        with pytest.raises(BadTimings):
            timings.read()


def test_a_file_with_any_bit_flipped_is_bad(timings: Timings) -> None:
    timings.write(BLOB)
    whole = timings.path.read_bytes()
    for place in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        timings.path.write_bytes(damaged)
        with pytest.raises(BadTimings):
            timings.read()


def test_a_file_with_more_behind_it_is_bad(timings: Timings) -> None:
    timings.write(BLOB)
    timings.path.write_bytes(timings.path.read_bytes() + b"\0")
    with pytest.raises(BadTimings, match="its bytes are not those that were written"):
        timings.read()


@settings(max_examples=50)
@given(data=st.binary(max_size=200))
def test_what_is_no_timing_cache_is_bad(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    timings = Timings(tmp_path_factory.mktemp("cache"), "h200")
    timings.path.parent.mkdir()
    timings.path.write_bytes(data)
    with pytest.raises(BadTimings):
        timings.read()


def test_a_folder_in_its_place_is_bad(timings: Timings) -> None:
    timings.path.mkdir(parents=True)
    with pytest.raises(BadTimings, match="it cannot be read: Is a directory"):
        timings.read()


def _set_aside(timings: Timings) -> list[Path]:
    folder = timings.path.parent.parent / "quarantine"
    return sorted(folder.iterdir()) if folder.exists() else []


def test_what_is_set_aside_is_kept_for_people_and_gone_for_builds(timings: Timings) -> None:
    timings.write(BLOB)
    timings.path.write_bytes(b"broken")
    timings.set_aside()
    (aside,) = _set_aside(timings)
    assert aside.read_bytes() == b"broken"
    assert timings.read() is None


def test_setting_aside_what_is_gone_is_no_error(timings: Timings) -> None:
    timings.set_aside()
    assert _set_aside(timings) == []


def test_what_is_set_aside_twice_is_kept_twice(timings: Timings) -> None:
    for text in (b"one", b"two"):
        timings.write(text)
        timings.set_aside()
    assert len(_set_aside(timings)) == 2


def test_readers_see_the_old_or_the_new_whatever_is_written_meanwhile(timings: Timings) -> None:
    versions = [bytes([n]) * 50_000 for n in range(4)]
    timings.write(versions[0])
    seen: set[bytes | None] = set()
    wrong: list[BadTimings] = []
    written = threading.Event()

    def read() -> None:
        while not written.is_set():
            try:
                seen.add(timings.read())
            except BadTimings as error:
                wrong.append(error)

    def write() -> None:
        for _ in range(25):
            for each in versions:
                timings.write(each)

    readers = [threading.Thread(target=read) for _ in range(3)]
    writers = [threading.Thread(target=write) for _ in range(2)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    written.set()
    for thread in readers:
        thread.join()
    assert wrong == []
    assert seen <= set(versions)


def test_changes_of_several_at_once_are_made_one_after_another(timings: Timings) -> None:
    def add(number: int) -> None:
        for _ in range(10):
            with timings.changing(f"thread {number}"):
                timings.write((timings.read() or b"") + bytes([number]))

    threads = [threading.Thread(target=add, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = timings.read()
    assert found is not None
    assert sorted(found) == sorted([*range(4)] * 10)


def test_who_waits_to_change_it_gives_up_in_the_end(
    timings: Timings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engineforge.store.timings._PATIENCE_SECONDS", 0)
    with (
        timings.changing("PID 1 on nowhere"),
        pytest.raises(TimeoutError, match="PID 1 on nowhere"),
        timings.changing("another"),
    ):
        pass
