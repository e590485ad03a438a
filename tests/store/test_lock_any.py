"""One of several locks, whichever is free: of threads, processes, and those that are killed."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engineforge.store import files
from engineforge.store.local import LocalStore

# Takes one of the locks, says which, and holds it until its input ends.
_HOLD = """
import sys
from pathlib import Path
from engineforge.store import files
paths = [Path(each) for each in sys.argv[2:]]
with files.lock_any(paths, sys.argv[1], lambda _: None) as index:
    print(index, flush=True)
    sys.stdin.read()
"""
# Takes one of the locks again and again; says when it had which, by a clock of the whole system.
_LEASE = """
import sys, time
from pathlib import Path
from engineforge.store import files
paths = [Path(each) for each in sys.argv[2:]]
for _ in range(int(sys.argv[1])):
    with files.lock_any(paths, "leasing", lambda _: None) as index:
        since = time.monotonic_ns()
        time.sleep(0.002)
        print(index, since, time.monotonic_ns(), flush=True)
"""


def paths(folder: Path, count: int) -> list[Path]:
    return [folder / f"{number}.lock" for number in range(count)]


def _python(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@contextmanager
def holding(name: str, among: list[Path]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that holds one of the locks, and which one."""
    process = _python(_HOLD, name, *among)
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.communicate()


def overlapping(leases: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Of leases as (lock, since, until), those that begin before the last of that lock ended."""
    ends: dict[int, int] = {}
    found = []
    for lock, since, until in sorted(leases, key=lambda each: each[1]):
        if since < ends.get(lock, 0):
            found.append((lock, since, until))
        ends[lock] = until
    return found


def _never(holder: str) -> None:
    raise AssertionError(f"waited for {holder}")


def test_where_there_are_no_locks_nothing_is_leased(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", without)
    with files.lock_any(paths(tmp_path, 2), "me", lambda _: None) as index:
        assert index is None


def test_threads_that_hold_at_once_hold_different_locks(tmp_path: Path) -> None:
    among, all_hold = paths(tmp_path, 8), threading.Barrier(8, timeout=30)
    taken: list[int] = []

    def hold() -> None:
        with files.lock_any(among, "a thread", lambda _: None) as index:
            assert index is not None
            taken.append(index)
            all_hold.wait()

    threads = [threading.Thread(target=hold) for _ in among]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [*range(8)]


def test_processes_that_hold_at_once_hold_different_locks(tmp_path: Path) -> None:
    among = paths(tmp_path, 3)
    with (
        holding("one", among) as (_, one),
        holding("two", among) as (_, two),
        files.lock_any(among, "three", _never) as three,
    ):
        assert {one, two, three} == {0, 1, 2}


def test_the_first_that_is_free_is_taken(tmp_path: Path) -> None:
    among = paths(tmp_path, 3)
    with files.lock(among[0], "a holder"), files.lock_any(among, "another", _never) as index:
        assert index == 1


def test_no_lease_of_processes_overlaps_another_of_the_same_lock(tmp_path: Path) -> None:
    running = [_python(_LEASE, 40, *paths(tmp_path, 2)) for _ in range(4)]
    leases: list[tuple[int, int, int]] = []
    for process in running:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        lines = [line.split() for line in out.splitlines()]
        leases += [(int(lock), int(since), int(until)) for lock, since, until in lines]
    assert len(leases) == 160
    assert overlapping(leases) == []
    assert {lock for lock, _, _ in leases} == {0, 1}


def test_overlaps_are_found() -> None:
    assert overlapping([(0, 1, 5), (1, 2, 6), (0, 4, 7)]) == [(0, 4, 7)]


def test_where_all_are_taken_the_waiter_is_told_who_has_the_first(tmp_path: Path) -> None:
    among, told = paths(tmp_path, 2), []

    def waiting(holder: str) -> None:
        told.append(holder)
        raise TimeoutError

    with (
        files.lock(among[0], "PID 1 on nowhere"),
        files.lock(among[1], "PID 2 on nowhere"),
        pytest.raises(TimeoutError),
        files.lock_any(among, "me", waiting),
    ):
        pass
    assert told == ["PID 1 on nowhere"]


def test_a_waiter_gets_whichever_is_free_first(tmp_path: Path) -> None:
    among, held = paths(tmp_path, 2), threading.Event()
    release = threading.Event()

    def hold_the_second() -> None:
        with files.lock(among[1], "the second"):
            held.set()
            release.wait(30)

    other = threading.Thread(target=hold_the_second)
    other.start()
    held.wait(30)
    with (
        files.lock(among[0], "the first"),
        files.lock_any(among, "me", lambda _: release.set()) as index,
    ):
        assert index == 1
    other.join()


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    among = paths(tmp_path, 2)
    with files.lock(among[0], "the first"), holding("the second", among) as (process, index):
        assert index == 1
        told: list[str] = []

        def waiting(holder: str) -> None:
            if not told:
                process.send_signal(signal.SIGKILL)
            told.append(holder)

        started = time.monotonic()
        with files.lock_any(among, "me", waiting) as taken:
            assert taken == 1
            assert among[1].read_text() == "me"
        assert time.monotonic() - started < 5


def test_the_other_locks_are_unharmed_when_a_holder_is_killed(tmp_path: Path) -> None:
    among = paths(tmp_path, 2)
    with holding("one", among) as (killed, first), holding("two", among) as (_, second):
        killed.kill()
        killed.wait()
        with files.lock_any(among, "me", _never) as index:
            assert index == first
            assert files.try_lock(among[second]) is None


def test_no_file_is_left(tmp_path: Path) -> None:
    among = paths(tmp_path, 3)
    with files.lock_any(among, "me", _never):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lease_is_of_the_first_name_that_is_free(tmp_path: Path) -> None:
    with LocalStore(tmp_path).session() as session:
        names = ["GPU-a", "GPU-b"]
        with session.leasing(names, "one", _never) as first:
            with session.leasing(names, "two", _never) as second:
                assert (first, second) == (0, 1)
            with session.leasing(names, "three", _never) as again:
                assert again == 1


def test_leases_hold_for_every_session_of_a_cache(tmp_path: Path) -> None:
    def give_up(holder: str) -> None:
        raise TimeoutError(holder)

    store = LocalStore(tmp_path)
    with (
        store.session() as one,
        store.session() as other,
        one.leasing(["GPU-a"], "the one", _never),
        pytest.raises(TimeoutError, match="the one"),
        other.leasing(["GPU-a"], "the other", give_up),
    ):
        pass


def test_leases_of_other_caches_are_other_leases(tmp_path: Path) -> None:
    with (
        LocalStore(tmp_path / "one").session() as one,
        LocalStore(tmp_path / "two").session() as two,
        one.leasing(["GPU-a"], "one", _never),
        two.leasing(["GPU-a"], "two", _never) as index,
    ):
        assert index == 0


def test_a_lease_outlives_the_sweep_of_another_session(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with store.session() as one, one.leasing(["GPU-a"], "one", _never):
        with store.session():
            pass
        assert [each.name for each in (tmp_path / "staging" / "locks").iterdir()] == [
            "lease-GPU-a.lock"
        ]
