"""Following a spec of an environment: each change of its pointer is pulled, and what must not or
cannot be had leaves the engine in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from engineforge.digest import Digest
from engineforge.errors import EngineForgeError
from engineforge.promotion.environment import Opened, tag_of
from engineforge.promotion.pulling import LoadFailed, Moved, Pulled, Said, Wanted, in_place, pull
from engineforge.store.far.objects import RemoteUnavailable

_LONGEST_WAIT = 300.0
"""Seconds between two tries where trying does not help, unless `every` is longer."""


def follow(
    opened: Opened,
    wanted: Wanted,
    *,
    every: float,
    sleep: Callable[[float], object],
    stop: Callable[[], bool],
    now: Callable[[], datetime],
    said: Said = lambda _: None,
    moved: Moved = lambda _done, _total: None,
    load: Callable[[Path], Any] | None = None,
) -> Iterator[Pulled]:
    """What lies in the place of an engine: at first, and after each event of its ledger. Asks every
    so many seconds, which is one request where nothing changed; `sleep` waits for that long, or
    less, and `stop` is asked after it.

    What cannot be had, or must not, is told to `said`, once until it changes, and tried again less
    and less often; the engine in its place serves on. At first that is the one of an earlier pull,
    where the file is still that one; where there is none, only a repository that cannot be reached
    is waited for, and any other error is raised. A new engine that `load` does not take is not
    fetched again before the next event. `load` is called once for each engine, as in `pull`.
    """
    follower = _Follower(opened, wanted, every=every, said=said, load=load)
    while not stop():
        found = follower.ask(now, moved)
        if found is not None:
            yield found
        if stop():
            return
        sleep(follower.wait)


class _Follower:
    """`_done` is the state that needs nothing more, `_refused` the one that could not be had, and
    `_told` the trouble that was told."""

    def __init__(
        self,
        opened: Opened,
        wanted: Wanted,
        *,
        every: float,
        said: Said,
        load: Callable[[Path], Any] | None,
    ) -> None:
        self._opened, self._wanted, self._every = opened, wanted, every
        self._said, self._load = said, load
        self._name = f"'{opened.environment.name}/{wanted.spec}'"
        self._now: Pulled | None = None
        self._done: Digest | None = None
        self._refused: Digest | None = None
        self._again_in = 0.0
        self._failures = 0
        self._unreachable = False
        self._told: str | None = None

    @property
    def wait(self) -> float:
        """Seconds until it is asked again."""
        return self._patience if self._unreachable else self._every

    @property
    def _patience(self) -> float:
        longest = max(self._every, _LONGEST_WAIT)
        return min(self._every * 2.0 ** min(self._failures, 32), longest)

    def ask(self, now: Callable[[], datetime], moved: Moved) -> Pulled | None:
        """What is new, if something is."""
        pointer: Digest | None = None
        try:
            pointer = self._opened.repository.resolve(tag_of(self._wanted.spec))
            self._unreachable = False
            if pointer is not None and pointer == self._done:
                self._well()
                return None
            self._again_in -= self._every
            if pointer is not None and pointer == self._refused and self._again_in > 0:
                return None
            found = pull(
                self._opened,
                self._wanted,
                now=now(),
                said=self._said,
                moved=moved,
                load=self._load,
                loaded=None if self._now is None else self._now.engine,
            )
        except (EngineForgeError, OSError) as error:
            return self._trouble(error, pointer)
        self._well()
        self._done = pointer
        before, self._now = self._now, found
        # It may have moved once more while it was pulled: the next time, nothing is new then.
        if before is not None and before.number == found.number and not found.changed:
            return None
        return found

    def _well(self) -> None:
        if self._told is not None:
            self._said(f"note: {self._name} is well again")
        self._told, self._failures, self._refused = None, 0, None

    def _trouble(self, error: EngineForgeError | OSError, pointer: Digest | None) -> Pulled | None:
        begun = None
        if self._now is None:
            begun = self._now = in_place(self._opened, self._wanted, self._load)
            if begun is None and not isinstance(error, RemoteUnavailable):
                raise error
        self._unreachable = isinstance(error, RemoteUnavailable)
        self._failures += 1
        self._refused = pointer
        self._again_in = math.inf if isinstance(error, LoadFailed) else self._patience
        if (message := str(error)) != self._told:
            serves = "" if self._now is None else f", and number {self._now.number} serves on"
            self._said(f"note: {self._name} cannot be pulled{serves}: {message}")
            self._told = message
        return begun
