"""Every state that a cache may be in after a power cut during a recorded sequence of changes.

What a file system may do, as POSIX and the practice of Linux's allow it: a name that was made,
linked, moved or removed is certain once its folder was fsynced (for what is moved: the folder that
it moved to), and until then may have changed or not, each by itself, but a rename never by halves.
A file's bytes are certain once it was fsynced, and until then may be those of its last fsync, none,
any first part, any first part and zeros behind it, or all.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engineforge.store.disk import Change
from tests.store.crash.cache import Promise, kept
from tests.store.crash.recorder import Log

ALL_SUBSETS_OF = 10
"""Of so many uncertain names all subsets are tried. Of more: all subsets of the last so many, with
the others all there or all not, and as many random ones as `RANDOM` says."""
RANDOM = 200
ALL_CONTENTS = 256
"""Up to so many combinations of uncertain contents are all tried; of more, those in which one file
is uncertain and the others are all alike, and random ones."""
STAGINGS = 4
"""So many different contents of staging/ are tried with each state of all else."""

Tree = dict[Path, bytes | None]
"""Relative paths; None is a folder."""
_ROOT = 0


@dataclass(frozen=True)
class State:
    """What is there, what was promised by then, and how many changes had been made."""

    tree: Tree
    promises: tuple[Promise, ...]
    after: int


@dataclass
class _File:
    content: bytes = b""
    synced: bytes | None = None

    def contents(self) -> list[bytes]:
        """What may be in it, the whole of it first."""
        whole, half = self.content, len(self.content) // 2
        if self.synced == whole:
            return [whole]
        zeros = bytes(len(whole))
        torn = [whole[:1], whole[:half], whole[:-1], zeros, whole[:half] + zeros[half:]]
        return list(dict.fromkeys([whole, self.synced or b"", b"", *torn]))


@dataclass
class _Naming:
    """One change of names: what each (folder, name) was and is, and the folder to fsync."""

    changes: tuple[tuple[int, str, int | None, int | None], ...]
    folder: int
    certain: bool = False


@dataclass
class _Disk:
    folders: dict[int, dict[str, int]]
    contents: dict[int, _File]
    namings: list[_Naming] = field(default_factory=list)
    visible: set[int] = field(default_factory=set)
    """Folders that were outside of staging/ at any time."""

    @classmethod
    def of(cls, base: Tree) -> _Disk:
        made = cls({_ROOT: {}}, {})
        for path in sorted(base):
            if path != Path():
                content = base[path]
                made._add(path, content)
        made.namings.clear()
        return made

    def _add(self, path: Path, content: bytes | None) -> None:
        number = len(self.folders) + len(self.contents)
        if content is None:
            self.folders[number] = {}
        else:
            self.contents[number] = _File(content, content)
        self._name(path, number)

    def find(self, path: Path) -> int:
        node = _ROOT
        for part in path.parts:
            node = self.folders[node][part]
        return node

    def _name(self, path: Path, node: int | None) -> None:
        folder = self.find(path.parent)
        was = self.folders[folder].get(path.name)
        self._do(_Naming(((folder, path.name, was, node),), folder))

    def _do(self, naming: _Naming) -> None:
        self.namings.append(naming)
        _apply(self.folders, naming)

    def change(self, change: Change) -> None:
        path = change.path
        match change.kind:
            case "create":
                self._add(path, b"")
                self.contents[self.find(path)].synced = None
            case "mkdir":
                self._add(path, None)
            case "write":
                self.contents[self.find(path)].content += change.data
            case "truncate":
                self.contents[self.find(path)].content = b""
            case "sync file":
                file = self.contents[self.find(path)]
                file.synced = file.content
            case "sync folder":
                number = self.find(path)
                for naming in self.namings:
                    naming.certain |= naming.folder == number
            case "unlink" | "rmdir":
                self._name(path, None)
            case "rename":
                self._rename(path, change.to)
            case "link":
                assert change.to is not None
                self._name(change.to, self.find(path))

    def _rename(self, path: Path, to: Path | None) -> None:
        assert to is not None
        node, old, new = self.find(path), self.find(path.parent), self.find(to.parent)
        was = self.folders[new].get(to.name)
        gone, come = (old, path.name, node, None), (new, to.name, was, node)
        self._do(_Naming((gone, come), new))

    def see(self) -> None:
        """Note which folders are outside of staging/ now."""
        for path, node in _walk(self.folders):
            if node in self.folders and "staging" not in path.parts:
                self.visible.add(node)


def _in_staging(path: Path) -> bool:
    """In that of the cache, or of a remote store in it."""
    return "staging" in path.parts[:-1]


def _apply(folders: dict[int, dict[str, int]], naming: _Naming) -> None:
    for folder, name, was, node in naming.changes:
        if node is not None:
            folders[folder][name] = node
        elif folders[folder].get(name) == was:
            folders[folder].pop(name, None)


def _walk(folders: dict[int, dict[str, int]]) -> Iterator[tuple[Path, int]]:
    open_, seen = [(Path(), _ROOT)], set()
    while open_:
        path, node = open_.pop()
        yield path, node
        if node in folders and node not in seen:
            seen.add(node)
            open_ += [(path / name, each) for name, each in folders[node].items()]


Seen = dict[object, set[object]]
"""What was tried: of all but staging/, with what was promised, the contents of staging/."""


def states(
    base: Tree, log: Log, promised: Iterable[Promise] = (), seen: Seen | None = None
) -> Iterator[State]:
    """Each once, for every prefix of the log: what a power cut at that moment may leave.

    `base` is there durably, and was promised, before the log begins. What is in `seen` already, of
    other logs, is not tried again.
    """
    whole = _Disk.of(base)
    whole.see()
    for item in log:
        if isinstance(item, Change):
            whole.change(item)
            whole.see()
    now = _Disk.of(base)
    start = copy.deepcopy(now.folders)
    promises = list(promised)
    seen = {} if seen is None else seen
    for after in range(len(log) + 1):
        match log[after - 1] if after else None:
            case Change() as change:
                now.change(change)
            case Promise() as promise:
                promises.append(promise)
        now_kept = frozenset(kept(promises))
        for tree in _after_power_cut(now, start, whole.visible, random.Random(after)):
            outside = frozenset(each for each in tree.items() if not _in_staging(each[0]))
            inside = frozenset(path for path in tree if _in_staging(path))
            stagings = seen.setdefault((outside, now_kept), set())
            if inside not in stagings and len(stagings) < STAGINGS:
                stagings.add(inside)
                yield State(tree, tuple(promises), after)


def _after_power_cut(
    now: _Disk, start: dict[int, dict[str, int]], visible: set[int], rng: random.Random
) -> Iterator[Tree]:
    uncertain = [each for each in now.namings if not each.certain]
    outside = [each for each in uncertain if any(c[0] in visible for c in each.changes)]
    inside = [each for each in uncertain if not any(c[0] in visible for c in each.changes)]
    some = [each for each in inside if rng.random() < 0.5]
    for chosen in _subsets(outside, rng):
        for staged in (inside, [], some):
            happened = {id(each) for each in (*chosen, *staged)}
            folders = {number: dict(names) for number, names in start.items()}
            for number in now.folders:
                folders.setdefault(number, {})
            for naming in now.namings:
                if naming.certain or id(naming) in happened:
                    _apply(folders, naming)
            yield from _with_contents(dict(_walk(folders)), now, staged is inside, rng)


def _subsets(namings: Sequence[_Naming], rng: random.Random) -> Iterator[Sequence[_Naming]]:
    old, last = namings[:-ALL_SUBSETS_OF], namings[-ALL_SUBSETS_OF:]
    for size in range(len(last) + 1):
        for chosen in itertools.combinations(last, size):
            yield chosen
            if old:
                yield (*old, *chosen)
    if old:
        for _ in range(RANDOM):
            yield [each for each in namings if rng.random() < 0.5]


def _with_contents(
    nodes: dict[Path, int], now: _Disk, staged_whole: bool, rng: random.Random
) -> Iterator[Tree]:
    tree: Tree = {}
    choices: dict[Path, list[bytes]] = {}
    for path, node in nodes.items():
        if node in now.folders:
            tree[path] = None
        else:
            may = now.contents[node].contents()
            if _in_staging(path):
                may = may[:1] if staged_whole else may[-1:]
            tree[path] = may[0]
            if len(may) > 1:
                choices[path] = may
    for contents in _combinations(list(choices.values()), rng):
        yield {**tree, **dict(zip(choices, contents, strict=True))}


def _combinations(choices: list[list[bytes]], rng: random.Random) -> Iterator[Sequence[bytes]]:
    count = 1
    for may in choices:
        count *= len(may)
    if count <= ALL_CONTENTS:
        yield from itertools.product(*choices)
        return
    for others in (0, 1, -1):
        alike = [may[others] for may in choices]
        for number, may in enumerate(choices):
            for content in may:
                yield [*alike[:number], content, *alike[number + 1 :]]
    for _ in range(RANDOM):
        yield [rng.choice(may) for may in choices]
