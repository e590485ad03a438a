"""Writes down what the store changes on disk, as it tells of it, and kills it where asked."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path

from engineforge.store import disk
from engineforge.store.disk import Change, Watch
from tests.store.crash.cache import Promise

Log = list[Change | Promise]
"""In the order in which it happened; the paths are relative to the cache's folder."""


class Killed(BaseException):
    """From then on nothing happens any more, as after `kill -9`."""


class Recorder:
    """Told of each change beforehand. Leaves out those that will change nothing, and puts in what
    others did without telling: files of child processes, found when the store comes upon them."""

    def __init__(self, root: Path) -> None:
        self.log: Log = []
        self._root = root
        self._known = {path.relative_to(root) for path in root.rglob("*")} | {Path()}

    def promised(self, promise: Promise) -> None:
        self.log.append(promise)

    def __call__(self, change: Change) -> None:
        if not change.path.is_relative_to(self._root):
            return  # the folders that the cache is in
        path = change.path.relative_to(self._root)
        to = None if change.to is None else change.to.relative_to(self._root)
        for folder in reversed(path.parents):
            self._find(folder)
        if change.kind not in ("create", "mkdir"):
            self._find_all(path)
        if self._changes_nothing(change):
            return
        self.log.append(dataclasses.replace(change, path=path, to=to))
        match change.kind:
            case "create" | "mkdir":
                self._known.add(path)
            case "unlink" | "rmdir":
                self._known.discard(path)
            case "rename":
                assert to is not None
                moved = {each for each in self._known if each.is_relative_to(path)}
                self._known -= moved
                self._known |= {to / each.relative_to(path) for each in moved}
            case "link":
                assert to is not None
                self._known.add(to)

    def _find(self, path: Path) -> None:
        """Whatever is at this path, if nobody told that it was made."""
        real = self._root / path
        if path in self._known or not real.exists():
            return
        self._known.add(path)
        if real.is_dir():
            self.log.append(Change("mkdir", path))
        else:
            self.log.append(Change("create", path))
            self.log.append(Change("write", path, data=real.read_bytes()))

    def _find_all(self, path: Path) -> None:
        self._find(path)
        real = self._root / path
        if path != Path() and real.is_dir():
            for each in sorted(real.rglob("*")):
                self._find(each.relative_to(self._root))

    def _changes_nothing(self, change: Change) -> bool:
        path, to = change.path, change.to
        if change.kind in ("create", "mkdir"):
            return path.exists() or not path.parent.is_dir()
        if not path.exists():
            return True
        if change.kind == "rmdir":
            return any(path.iterdir())
        if to is None:
            return False
        if change.kind == "link":
            return to.exists() or not to.parent.is_dir()
        taken = to.exists() and path.is_dir() and (not to.is_dir() or any(to.iterdir()))
        return taken or not to.parent.is_dir()


def killed_before(number: int, watch: Watch = lambda _: None) -> Watch:
    """Lets so many changes happen, and none after them."""
    left = [number]

    def watching(change: Change) -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        watch(change)

    return watching


def killed_once(is_there: Callable[[], bool], watch: Watch) -> Watch:
    """Dies before the first change that finds this to be so."""
    dead = [False]

    def watching(change: Change) -> None:
        dead[0] = dead[0] or is_there()
        if dead[0]:
            raise Killed
        watch(change)

    return watching


def count(act: Callable[[], None]) -> int:
    """How many changes something makes."""
    seen: list[Change] = []
    with disk.watched(seen.append):
        act()
    return len(seen)


def killed(watch: Watch, act: Callable[[], None]) -> bool:
    """Whether it was killed before it came to its end."""
    with disk.watched(watch), contextlib.suppress(Killed):
        act()
        return False
    return True
