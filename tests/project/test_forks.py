"""Shares of a question that forks answer: a no, and what is no answer, is never a yes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from engineforge.project.forks import all_say_yes, processes


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The processes that were forked, of which none is left when the test is over."""
    found: list[int] = []
    fork = os.fork

    def recorded() -> int:
        process = fork()
        if process:
            found.append(process)
        return process

    monkeypatch.setattr(os, "fork", recorded)
    yield found
    for each in found:
        with pytest.raises(ChildProcessError):
            os.waitpid(each, os.WNOHANG)


def _raises(_: int) -> bool:
    raise OSError("the disk is gone")


def _is_killed(_: int) -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return True


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_all_that_say_yes_are_a_yes(forked: list[int], count: int) -> None:
    assert all_say_yes(lambda _: True, range(count))
    assert len(forked) == max(0, count - 1)


@pytest.mark.parametrize("at", range(4))
def test_one_no_is_a_no(forked: list[int], at: int) -> None:
    assert not all_say_yes(lambda share: share != at, range(4))
    assert len(forked) == 3


@pytest.mark.parametrize("broken", [_raises, _is_killed])
@pytest.mark.parametrize("at", [1, 3])
def test_a_fork_that_breaks_is_a_no(
    forked: list[int],
    broken: Callable[[int], bool],
    at: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert not all_say_yes(lambda share: share != at or broken(share), range(4))
    assert len(forked) == 3
    assert capfd.readouterr() == ("", "")


def test_what_breaks_here_leaves_no_fork(forked: list[int]) -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        all_say_yes(lambda share: share > 0 or _raises(share), range(3))
    assert len(forked) == 2


def test_a_process_with_threads_has_no_forks() -> None:
    code = "from engineforge.project.forks import processes\nprint(processes())\n"
    here = len(os.sched_getaffinity(0))

    def said(code: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", code], text=True))

    assert said(code) == min(here, 8)
    assert said("import threading\n" + code) == 1
    assert processes() == 1
