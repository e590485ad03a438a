"""Which specs of a folder are known to be up to date, by the stats of their files alone. Imports
next to nothing: this is the no-op."""

from __future__ import annotations

import os

from engineforge import __version__
from engineforge.project.forks import all_say_yes, processes
from engineforge.project.listing import TARGETS
from engineforge.store.index_file import IndexFile
from engineforge.store.known import Block

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engineforge.store.index_file import Folder, Part
    from engineforge.store.known import Known

# Another version may read specs otherwise, and trusts nothing that this one planned.
READING = f"4/{__version__}"

_A_SHARE = 1 << 20
"""Bytes of blocks, whose files take some 10 ms: for fewer, a process more costs what it saves."""


class Glance:
    """At the folder of specs at `root`, with what its cache remembers. `shown` are the GPUs that
    the environment leaves. To be closed."""

    def __init__(self, root: str, cache: str, shown: str) -> None:
        self._root, self._cache, self._shown = root, cache, shown
        self.root = root
        self._file: IndexFile | None = None
        self._folder: Folder | None = None
        self._answers: dict[str, bool] = {}
        self._held: dict[Part, Block] = {}
        self.specs: set[str] = set()
        """Those that something is known of, once they were looked at by `holding`."""
        try:
            # By its name: links stay, and that one leads elsewhere now is told by stats.
            self.root = os.path.abspath(root)  # noqa: PTH100
            self._file = IndexFile(f"{cache}/index")
            folder = self._file.folders.get(self.root)
            if folder is not None and folder.reading == READING:
                targets = stat_text(f"{root}/{TARGETS}")
                self._folder = folder if folder.targets == targets else None
        except (OSError, ValueError):  # then nothing is known
            pass

    def is_of(self, root: str, cache: str, shown: str) -> bool:
        return (self._root, self._cache, self._shown) == (root, cache, shown)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def seen(self) -> tuple[int, ...] | None:
        """The stat of the file that all this is from."""
        return None if self._file is None else self._file.stat

    @property
    def targets(self) -> str | None:
        """The stat of the file of targets that all this is of."""
        return None if self._folder is None else self._folder.targets

    @property
    def record(self) -> str | None:
        return None if self._folder is None else self._folder.registered

    @property
    def registered(self) -> bool:
        """Whether all plans of these specs are in the cache's record of them."""
        if self._folder is None:
            return False
        name, _, stat = self._folder.registered.partition(" ")
        try:
            return bool(stat) and stat_text(f"{self._cache}/{name}") == stat
        except OSError:
            return False

    def all_hold(self, specs: Sequence[str]) -> list[Block] | None:
        """What is known of just these specs, in their order; None unless all are as they were."""
        parts = [*self._parts()]
        worth = 1 + sum(each.size for each in parts) // _A_SHARE
        share = max(1, -(-len(parts) // min(worth, processes())))
        shares = [parts[at : at + share] for at in range(0, len(parts), share)]
        try:
            if not all_say_yes(self._hold, shares):
                return None
        except OSError:  # no process more may be had
            return None
        found, at = [], 0
        for part in parts:
            block = self._held.get(part) or self._block(part)
            if block is None:
                return None
            block.forget_files()
            self._held[part] = block
            size = len(block.specs)
            if block.specs != specs[at : at + size]:
                return None
            found.append(block)
            at += size
        return found if at == len(specs) > 0 else None

    def _hold(self, parts: Sequence[Part]) -> bool:
        """Whether all specs of these blocks are as they were."""
        for part in parts:
            block = self._block(part)
            if block is None or not block.holds(self._root, self._cache, self._still):
                return False
            block.forget_files()
            self._held[part] = block
        return True

    def holding(self, specs: frozenset[str]) -> dict[str, Known]:
        """Those of these specs that are as they were, by path; without their files where they were
        looked at before."""
        found: dict[str, Known] = {}
        for part in self._parts():
            held = self._held.get(part)
            block = held or self._block(part)
            if block is None:
                continue
            self.specs.update(block.specs)
            if specs.isdisjoint(block.specs):
                continue
            if specs.issuperset(block.specs) and (
                held or block.holds(self._root, self._cache, self._still)
            ):
                found.update((each.spec, each) for each in block.all())
                continue
            hold = block.which_hold(self._root, self._cache, self._still)
            for each, holds in zip(block.all(), hold, strict=True):
                if holds and each.spec in specs:
                    found[each.spec] = each
        self._held.clear()  # what was seen a while ago is not seen now
        return found

    def _parts(self) -> Iterator[Part]:
        if self._folder is not None:
            yield from self._folder.blocks

    def _block(self, part: Part) -> Block | None:
        if self._file is None:
            return None
        try:
            return Block(self._file.read(part))
        except (OSError, ValueError):
            return None

    def _still(self, asks: str) -> bool:
        if asks not in self._answers:
            from engineforge.project.asking import still

            self._answers[asks] = still(asks, self._root, self._shown)
        return self._answers[asks]


def stat_text(path: str) -> str:
    found = os.stat(path)  # noqa: PTH116 - no path is made
    numbers = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return " ".join(map(str, numbers))
