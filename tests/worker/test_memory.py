"""Host memory that children share: who starts at once, who waits, and who may try all the same."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engineforge.worker.memory import Memory


class Stopped(Exception):
    pass


def _never() -> None:
    raise AssertionError("it waited")


def _stop() -> None:
    raise Stopped


def test_what_fits_starts_at_once() -> None:
    memory = Memory(10)
    with memory.room(4, _never), memory.room(6, _never):
        pass


def test_what_is_too_large_for_the_host_runs_alone() -> None:
    memory = Memory(10)
    with memory.room(11, _never), pytest.raises(Stopped), memory.room(1, _stop):
        pass


def test_what_is_too_large_waits_while_others_run() -> None:
    memory = Memory(10)
    with memory.room(1, _never), pytest.raises(Stopped), memory.room(11, _stop):
        pass


def test_what_does_not_fit_waits_for_what_ends() -> None:
    memory, waits = Memory(10), threading.Event()
    order: list[str] = []

    def second() -> None:
        with memory.room(6, waits.set):
            order.append("second began")

    other = threading.Thread(target=second)
    with memory.room(5, _never):
        other.start()
        assert waits.wait(30)
        order.append("first ended")
    other.join()
    assert order == ["first ended", "second began"]


def test_who_stops_waiting_took_nothing() -> None:
    memory = Memory(10)
    with memory.room(5, _never):
        with pytest.raises(Stopped), memory.room(6, _stop):
            pass
        with memory.room(5, _never):
            pass


def test_what_fails_gives_its_memory_back() -> None:
    memory = Memory(10)
    with pytest.raises(Stopped), memory.room(10, _never):
        raise Stopped
    with memory.room(10, _never):
        pass


def test_no_total_is_no_limit() -> None:
    memory = Memory(None)
    with ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(memory.room(1 << 60, _never))


def test_nothing_is_left_for_what_runs_beside_no_memory() -> None:
    with Memory(0).room(1, _never):
        pass


@settings(max_examples=100, deadline=None)
@given(
    total=st.integers(0, 20),
    sizes=st.lists(st.integers(0, 25), min_size=1, max_size=12),
)
def test_what_runs_together_never_takes_more_than_there_is(total: int, sizes: list[int]) -> None:
    memory, lock = Memory(total), threading.Lock()
    running: list[int] = []
    seen: list[tuple[int, ...]] = []

    def run(size: int) -> None:
        with memory.room(size, lambda: None):
            with lock:
                running.append(size)
                seen.append(tuple(running))
            with lock:
                running.remove(size)

    threads = [threading.Thread(target=run, args=[size]) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(sizes), "each has run"
    for together in seen:
        taking = [size for size in together if size]
        assert sum(taking) <= total or len(taking) == 1
