"""The file operations below the store: locks, publishing, and writes on a full disk."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engineforge.store import disk, files
from tests.store.conftest import Mount

# Adds one to a number in a file, in steps that interleave where nothing excludes.
_COUNT = """
import sys, time
from pathlib import Path
from engineforge.store import disk, files
lock, number, times = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
for _ in range(times):
    with files.lock(lock, "counting"):
        before = int(number.read_text())
        time.sleep(0.0005)
        number.write_text(str(before + 1))
"""
_HOLD = """
import sys, time
from pathlib import Path
from engineforge.store import disk, files
with files.lock(Path(sys.argv[1]), "PID 1 on nowhere"):
    print("held", flush=True)
    time.sleep(60)
"""


def _python(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _count(lock: Path, number: Path, times: int) -> None:
    for _ in range(times):
        with files.lock(lock, "counting"):
            before = int(number.read_text())
            time.sleep(0.0005)
            number.write_text(str(before + 1))


def test_a_lock_excludes_threads(tmp_path: Path) -> None:
    number = tmp_path / "number"
    number.write_text("0")
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(_count, tmp_path / "a.lock", number, 25) for _ in range(8)]:
            done.result()
    assert number.read_text() == "200"


def test_a_lock_excludes_processes(tmp_path: Path) -> None:
    number = tmp_path / "number"
    number.write_text("0")
    running = [_python(_COUNT, tmp_path / "a.lock", number, 50) for _ in range(4)]
    assert [each.wait() for each in running] == [0] * 4
    assert number.read_text() == "200"
    for each in running:
        each.communicate()


def test_a_lock_leaves_no_file(tmp_path: Path) -> None:
    with files.lock(tmp_path / "a.lock", "me"):
        assert (tmp_path / "a.lock").read_text() == "me"
    assert list(tmp_path.iterdir()) == []


def test_a_waiter_is_told_of_the_holder_and_gets_the_lock_when_it_is_killed(
    tmp_path: Path,
) -> None:
    holder = _python(_HOLD, tmp_path / "a.lock")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    told: list[str] = []

    def waiting(holder_says: str) -> None:
        if not told:
            holder.send_signal(signal.SIGKILL)
        told.append(holder_says)

    with files.lock(tmp_path / "a.lock", "me", waiting) as held:
        assert held
        assert (tmp_path / "a.lock").read_text() == "me"
    assert set(told) == {"PID 1 on nowhere"}
    holder.communicate()


def test_what_waiting_raises_ends_the_wait(tmp_path: Path) -> None:
    def waiting(_: str) -> None:
        if time.monotonic() > deadline:
            raise TimeoutError

    deadline = time.monotonic() + 0.1
    with files.lock(tmp_path / "a.lock", "me"):
        with pytest.raises(TimeoutError), files.lock(tmp_path / "a.lock", "other", waiting):
            pass
        assert files.try_lock(tmp_path / "a.lock") is None, "the holder still holds it"


def test_a_held_lock_is_never_that_of_an_unlinked_file(tmp_path: Path) -> None:
    path, wrong, stop = tmp_path / "a.lock", [], time.monotonic() + 1

    def take() -> None:
        while time.monotonic() < stop:
            with files.lock(path, str(threading.get_ident())):
                if path.read_text() != str(threading.get_ident()):
                    wrong.append(path.read_text())

    def sweep() -> None:
        while time.monotonic() < stop:
            if (handle := files.try_lock(path)) is not None:
                path.unlink()
                os.close(handle)

    threads = [threading.Thread(target=each) for each in (take, take, take, sweep)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _staged(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "file").write_text(text)
    files.seal_folder(folder)
    return folder


def test_the_first_published_folder_wins(tmp_path: Path) -> None:
    first, second = _staged(tmp_path / "first", "1"), _staged(tmp_path / "second", "2")
    assert files.publish_folder(first, tmp_path / "deep" / "final")
    assert not files.publish_folder(second, tmp_path / "deep" / "final")
    assert (tmp_path / "deep" / "final" / "file").read_text() == "1"
    assert (second / "file").read_text() == "2", "the loser still has its own"


def test_of_many_threads_that_publish_exactly_one_wins(tmp_path: Path) -> None:
    staged = [_staged(tmp_path / str(number), str(number)) for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda each: files.publish_folder(each, tmp_path / "final"), staged))
    assert won.count(True) == 1
    assert (tmp_path / "final" / "file").read_text() == str(won.index(True))


def test_published_files_are_read_only(tmp_path: Path) -> None:
    staged = _staged(tmp_path / "staged", "1")
    assert (staged / "file").stat().st_mode & 0o777 == files.READ_ONLY


def test_what_is_moved_aside_never_replaces_what_is_there(tmp_path: Path) -> None:
    for text in "abc":
        (tmp_path / "file").write_text(text)
        files.move_aside(tmp_path / "file", tmp_path / "aside")
    assert sorted(each.read_text() for each in (tmp_path / "aside").iterdir()) == ["a", "b", "c"]


def test_a_removed_folder_takes_nothing_with_it_that_a_link_leads_to(tmp_path: Path) -> None:
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    for folder in (kept, gone, gone / "deep"):
        folder.mkdir()
    (kept / "file").write_text("kept")
    (gone / "deep" / "file").write_text("gone")
    (gone / "link").symlink_to(kept)
    files.remove_folder(gone)
    assert not gone.exists()
    assert (kept / "file").read_text() == "kept"


def test_a_link_to_a_folder_is_not_removed_as_one(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    files.remove_folder(tmp_path / "link")
    assert (tmp_path / "link" / "file").read_text() == "kept"


def test_of_a_folder_all_is_removed_that_can_be(tmp_path: Path) -> None:
    def refuse(change: disk.Change) -> None:
        if change.path.name == "b":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "gone").mkdir()
    for name in "abc":
        (tmp_path / "gone" / name).touch()
    with disk.watched(refuse):
        files.remove_folder(tmp_path / "gone")
    assert [each.name for each in (tmp_path / "gone").iterdir()] == ["b"]


def test_removing_a_file_that_is_gone_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        files.remove_file(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_watcher_is_told_of_a_change_before_it_happens_and_by_its_own_thread_only(
    tmp_path: Path,
) -> None:
    told: list[tuple[str, bool]] = []

    def watch(change: disk.Change) -> None:
        told.append((change.path.name, change.path.exists()))

    with disk.watched(watch), ThreadPoolExecutor(1) as pool:
        pool.submit(disk.mkdir, tmp_path / "by another").result()
        disk.mkdir(tmp_path / "by this one")
    disk.mkdir(tmp_path / "when nobody watches")
    assert told == [("by this one", False)]
    assert len(list(tmp_path.iterdir())) == 3


def test_write_new_never_replaces(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileExistsError):
        files.write_new(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_text() == "old"


def test_write_new_leaves_nothing_on_a_full_disk(mount: Mount) -> None:
    disk = mount("size=64k")
    with pytest.raises(OSError) as error:
        files.write_new(disk / "new", bytes(1 << 20))
    assert error.value.errno == errno.ENOSPC
    assert list(disk.iterdir()) == []


def test_replace_leaves_the_old_file_whole_on_a_full_disk(mount: Mount) -> None:
    disk = mount("size=64k")
    (disk / "staging").mkdir()
    files.write_new(disk / "file", b"old" * 1000)
    with pytest.raises(OSError) as error:
        files.replace(disk / "file", bytes(1 << 20), disk / "staging")
    assert error.value.errno == errno.ENOSPC
    assert (disk / "file").read_bytes() == b"old" * 1000
    assert list((disk / "staging").iterdir()) == []


def test_replace_leaves_no_file_where_it_cannot_replace(tmp_path: Path) -> None:
    (tmp_path / "staging").mkdir()
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace(tmp_path / "file", b"new", tmp_path / "staging")
    assert list((tmp_path / "staging").iterdir()) == []


def test_a_lock_is_had_on_a_full_disk(mount: Mount) -> None:
    disk = mount("size=64k")
    with pytest.raises(OSError, match="No space left"):
        (disk / "filler").write_bytes(bytes(1 << 20))
    with files.lock(disk / "a.lock", "me") as held:
        assert held
        assert files.try_lock(disk / "a.lock") is None
