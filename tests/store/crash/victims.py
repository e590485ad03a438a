"""A process of its own that forks others to work on one cache, kills them, and looks at it.

Forked from one that has imported everything, a victim is at work within a millisecond. It says what
it was promised through a pipe, where that outlives it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from engineforge.store import disk
from engineforge.store.disk import Change
from tests.store.crash.cache import Cache, Promise
from tests.store.crash.recorder import count
from tests.store.crash.recovery import broken_promises

_AT_ONCE = 3
_KILLS_BETWEEN_LOOKS = 12
_LONGEST_SECONDS = 0.04
_SHARED = tuple(f"shared {number}" for number in range(6))
_LOCKS = "locks"


class Victim:
    """A forked process that does something and can be killed at any time."""

    def __init__(self, root: Path, work: Callable[[Cache], None]) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _be_one(root, work, write)
        os.close(write)
        self._read = read

    def end(self) -> list[list[str]]:
        """Wait for its end; what it said, in order."""
        os.waitpid(self.pid, 0)
        with open(self._read, encoding="utf-8") as said:  # noqa: PTH123 - a pipe has no path
            return [json.loads(line) for line in said]

    def kill(self) -> list[list[str]]:
        os.kill(self.pid, signal.SIGKILL)
        return self.end()


def _be_one(root: Path, work: Callable[[Cache], None], write: int) -> None:
    def say(*words: str) -> None:
        os.write(write, (json.dumps(words) + "\n").encode())

    def promised(each: Promise) -> None:
        say("kept" if each.kept else "withdrawn", each.kind, each.name)

    try:
        cache = Cache(root, promised)
        work(cache)
        for fault in cache.store.faults:
            say("wrong", str(fault))
    except BaseException as error:
        say("wrong", repr(error))
    finally:
        os._exit(0)


def _work(number: int, cache: Cache) -> None:
    """Without end. What is collected is this process's own: of that it knows what was promised."""
    rng, mine = random.Random(number), 0
    while True:
        match rng.randrange(6):
            case 0 | 1:
                cache.build(rng.choice(_SHARED), f"by {number}")
            case 2 | 3:
                mine += 1
                cache.build(f"{number}-{mine}")
                if mine > 1:  # the one before: what is used now is not collected
                    cache.collect(f"{number}-{mine - 1}")
                    cache.purge()
            case 4:
                cache.merge_next_timings()
            case 5:
                cache.save_index(rng.randrange(4))
        if cache.store.faults:
            raise AssertionError(cache.store.faults)


class Watched:
    """What all victims were promised, and what turned out to be wrong."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.promises: list[Promise] = []
        self.wrong: list[str] = []

    def heard(self, said: list[list[str]]) -> None:
        for word, *rest in said:
            if word == "wrong":
                self.wrong += rest
            elif rest[0] != "trash":  # which others remove for good
                self.promises.append(Promise(rest[0], rest[1], kept=word == "kept"))

    def look(self, *, rebuild: bool = False) -> None:
        """To be called while no victim lives."""
        self.wrong += broken_promises(self.root, self.promises, rebuild=rebuild)
        self.wrong += [f"'{name}' is left in staging" for name in left_over(self.root)]


def left_over(root: Path) -> list[str]:
    """What is in staging/ of sessions: after another one, only its own, which is gone as well."""
    names = [path.name for path in (root / "staging").iterdir()]
    return [
        name for name in names if name != _LOCKS and not name.startswith(("replace-", "clock-"))
    ]


def killed_at_random(root: Path, kills: int, seed: int) -> dict[str, object]:
    """So many processes, several of them at once, each killed after a random time."""
    rng, watched, done, acts = random.Random(seed), Watched(root), 0, 0
    while done < kills:
        living: list[Victim] = []
        for _ in range(_KILLS_BETWEEN_LOOKS):
            while len(living) < _AT_ONCE:
                acts += 1
                living.append(Victim(root, partial(_work, seed * 1_000_000 + acts)))
            time.sleep(rng.uniform(0, _LONGEST_SECONDS))
            watched.heard(living.pop(rng.randrange(len(living))).kill())
            done += 1
        for each in living:
            watched.heard(each.kill())
            done += 1
        watched.look()
    watched.look(rebuild=True)
    return {"kills": done, "promises": len(watched.promises), "wrong": watched.wrong}


def _collected_and_removed(cache: Cache) -> None:
    cache.build("a")
    cache.collect("a")
    cache.purge()


def killed_before_each(root: Path) -> dict[str, object]:
    """One that is killed before each single change in turn that it would make."""
    kills, promises, wrong = 0, 0, []
    for number, act in enumerate(
        (
            lambda cache: cache.build("a"),
            _collected_and_removed,
            lambda cache: cache.merge_timings(1),
            lambda cache: cache.save_index(1),
        )
    ):
        for at in range(count(partial(act, Cache(root / f"{number}")))):
            watched = Watched(root / f"{number}-{at}")
            watched.heard(Victim(watched.root, partial(_dying, at, act)).end())
            watched.look(rebuild=True)
            kills, promises = kills + 1, promises + len(watched.promises)
            wrong += watched.wrong
    return {"kills": kills, "promises": promises, "wrong": wrong}


def _dying(at: int, act: Callable[[Cache], None], cache: Cache) -> None:
    left = [at]

    def watch(_: Change) -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    with disk.watched(watch):
        act(cache)


def main() -> None:
    what, root, *numbers = sys.argv[1:]
    if what == "random":
        found = killed_at_random(Path(root), *map(int, numbers))
    else:
        found = killed_before_each(Path(root))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
