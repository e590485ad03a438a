"""A question that is put to copies of this process, a share of it to each. Imports next to nothing:
this is the no-op."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    T = TypeVar("T")

_MOST = 8


def processes() -> int:
    """As many as are of use here; one where there may be other threads, of which a fork has none,
    but all their locks."""
    return 1 if "threading" in sys.modules else min(len(os.sched_getaffinity(0)), _MOST)


def all_say_yes(ask: Callable[[T], bool], shares: Sequence[T]) -> bool:
    """Whether each share has a yes: of the first here, of each other in a fork, whose no is also
    what it could not tell."""
    forks: list[int] = []
    yes = False
    try:
        for each in shares[1:]:
            forks.append(_forked(ask, each))
        yes = all(map(ask, shares[:1]))
    finally:
        if not yes:
            for fork in forks:
                os.kill(fork, signal.SIGKILL)
        ended = [os.waitpid(fork, 0)[1] for fork in forks]
    return yes and not any(ended)


def _forked(ask: Callable[[T], bool], share: T) -> int:
    process = os.fork()
    if not process:
        failed = True
        try:
            failed = not ask(share)
        finally:
            os._exit(failed)
    return process
