"""The folder of nights: nothing is lost, and nothing of others removed."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest

from engineforge.errors import EngineForgeError, HostUnfit, UsageError
from engineforge.nightly.folder import Nights, NightUnderWay
from tests.nightly.nights import STARTED


def _begun(nights: Nights, days: int = 0) -> Path:
    with nights.begun(STARTED + timedelta(days=days), "process 7 on host") as folder:
        (folder / "events.jsonl").write_text("")
        return folder


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path / "nights")


def test_a_night_is_called_by_its_time(nights: Nights) -> None:
    assert _begun(nights).name == "2026-10-01T03-17-00Z"


def test_two_of_one_second_are_two_in_their_order(nights: Nights) -> None:
    first, second = _begun(nights), _begun(nights)
    assert second.name == "2026-10-01T03-17-00Z-2"
    assert nights.earlier(second) == [first]
    assert nights.earlier(first) == []


def test_a_second_one_at_once_is_refused_and_told_of_the_first(nights: Nights) -> None:
    told = pytest.raises(NightUnderWay, match="process 7 on host")
    with nights.begun(STARTED, "process 7 on host"), told:
        _begun(nights)
    assert _begun(nights).is_dir()


def test_of_many_at_once_one_has_the_folder(nights: Nights) -> None:
    nights.root.mkdir()
    entered, refused, leave = [], [], threading.Event()

    def begin() -> None:
        try:
            with nights.begun(STARTED, "me") as folder:
                entered.append(folder)
                leave.wait(10)
        except EngineForgeError:
            refused.append(1)
            if len(refused) == 7:
                leave.set()

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (len(entered), len(refused)) == (1, 7)


def test_latest_is_the_one_that_ended_last(nights: Nights) -> None:
    for days in range(2):
        folder = _begun(nights, days)
        assert nights.end(folder) is None
        assert (nights.root / "latest").resolve() == folder.resolve()


def test_something_else_called_latest_stays(nights: Nights) -> None:
    folder = _begun(nights)
    (nights.root / "latest").mkdir()
    assert "stays as it is" in (nights.end(folder) or "")
    assert not (nights.root / "latest").is_symlink()


def test_the_last_ones_are_kept(nights: Nights) -> None:
    folders = [_begun(nights, days) for days in range(5)]
    assert nights.forget(folders[-1], 2) == [each.name for each in reversed(folders[:3])]
    assert [each for each in folders if each.exists()] == folders[3:]


def test_what_others_put_there_is_kept(nights: Nights) -> None:
    old, new = _begun(nights), _begun(nights, 1)
    (old / "notes.txt").write_text("mine")
    (nights.root / "2020").mkdir()
    assert nights.forget(new, 1) == []
    assert (old / "notes.txt").exists()
    assert (nights.root / "2020").exists()


def test_a_file_is_no_folder(nights: Nights) -> None:
    nights.root.write_text("")
    with pytest.raises(UsageError, match="is no folder"):
        _begun(nights)


def test_a_folder_that_cannot_be_written_is_told() -> None:
    with pytest.raises(HostUnfit, match="'/proc/nights' cannot be written"):
        _begun(Nights(Path("/proc/nights")))


def test_what_fails_within_a_night_is_not_taken_for_its_folder(nights: Nights) -> None:
    with pytest.raises(FileExistsError), nights.begun(STARTED, "me"):
        raise FileExistsError(17, "there already", "elsewhere")
