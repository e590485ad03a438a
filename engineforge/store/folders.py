"""What a run found out of the specs of one folder, and the blocks of `known.py` changed by it."""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from engineforge.store.index_file import Folder, IndexFile, Part
from engineforge.store.known import A_BLOCK, Block, Known

UNREGISTERED = "-"
_KEPT = 64
"""Folders that a cache remembers: some are gone, and nobody says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderNews:
    """Of the folder at `root`: `specs` by path are those that were found to be up to date, or None
    for what is known no longer. `registered` is of the record that names the plans of all its
    specs, for a file that is still as it was `seen`. The rest is as in `Folder`."""

    root: str
    reading: str
    targets: str
    specs: Mapping[str, Known | None]
    registered: str | None
    seen: tuple[int, ...] | None


def order(spec: str) -> list[str]:
    """What specs are sorted by: folder by folder, as paths are."""
    return spec.split("/")


def changed_folder(news: FolderNews, folders: dict[str, Folder], before: IndexFile | None) -> None:
    """Put into `folders` what is new; blocks that it does not touch stay as they are."""
    old = folders.get(news.root)
    if old is not None and (old.reading, old.targets) != (news.reading, news.targets):
        old = None  # known by other rules, or of other targets
    # Where other plans were found, here or by another process, not all may be registered.
    as_seen = before is None or before.stat == news.seen
    registered = news.registered if as_seen and news.registered else UNREGISTERED
    made = Folder(news.root, news.reading, news.targets, registered)
    blocks = [] if old is None else old.blocks
    firsts = [order(each.about) for each in blocks]
    new: dict[int, dict[str, Known | None]] = {}
    for spec, known in news.specs.items():
        new.setdefault(max(0, bisect_right(firsts, order(spec)) - 1), {})[spec] = known
    for index, block in enumerate(blocks):
        if index not in new:
            made.blocks.append(block)
        elif before is not None:
            specs: dict[str, Known | None] = {}
            with contextlib.suppress(ValueError):
                specs = {each.spec: each for each in Block(before.read(block)).all()}
            made.blocks += _blocks({**specs, **new[index]}.values())
    if not blocks:
        made.blocks += _blocks(news.specs.values())
    folders.pop(news.root, None)
    for root in list(folders)[: max(0, len(folders) + 1 - _KEPT)]:
        del folders[root]
    folders[news.root] = made  # the last, as the one that was last built


def can_name_a_folder(root: str) -> bool:
    """Whether the table of contents can hold it."""
    return "\t" not in root and "\n" not in root and root.isprintable()


def _blocks(specs: Iterable[Known | None]) -> Sequence[Part]:
    known = sorted((each for each in specs if each is not None), key=lambda each: order(each.spec))
    size = A_BLOCK if len(known) > 2 * A_BLOCK else max(1, len(known))
    return [
        Part.of(Block.of(known[at : at + size]), known[at].spec)
        for at in range(0, len(known), size)
    ]
