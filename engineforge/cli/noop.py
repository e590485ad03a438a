"""`engineforge build` and `plan` where nothing is to be done, which is most of the time: the same
words as theirs, without loading what they need. Anything else is theirs."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from itertools import islice

from engineforge.cli.where import cache
from engineforge.project.glance import Glance
from engineforge.project.listing import TARGETS, specs_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from engineforge.store.known import Block

_AT_ONCE = 10_000
"""Lines: where nothing is buffered, each would be a call of the kernel."""

_SHOWN = "CUDA_VISIBLE_DEVICES"
# What asks for more than whether all is up to date.
_MORE = ("dry_run", "explain", "json", "locked", "paranoid", "prepare", "gpus")
_SELECTED = ("variant", "target", "versions")


def run(args: argparse.Namespace) -> int:
    blocks = _unchanged(args)
    if blocks is None:
        command: Callable[[argparse.Namespace], int] = import_module(
            f"engineforge.cli.{args.then}"
        ).run
        return command(args)
    labels = [label for block in blocks for label in block.labelled()]
    width = max(map(len, labels))
    engines = (engine for block in blocks for engine in block.engines())
    count = len(labels)
    if args.then == "build":
        entries = f"{_cache(args)}/entries-v1/engine"
        lines = _built(labels, engines, width, entries)
        verb = "is" if count == 1 else "are"
        summary = f"nothing to do: {_counted(count)} {verb} up to date"
    else:
        lines = _planned(labels, engines, width)
        summary = f"{_counted(count)}, {count} up to date, 0 to build"
    while text := "".join(islice(lines, _AT_ONCE)):
        sys.stdout.write(text)
    sys.stdout.flush()
    print(summary, file=sys.stderr, flush=True)
    return 0


def _unchanged(args: argparse.Namespace) -> list[Block] | None:
    """What is known of all specs of a folder, where all of it still holds."""
    more = any(getattr(args, each, None) not in (None, False) for each in _MORE)
    if more or any(getattr(args, each, None) for each in _SELECTED) or len(args.paths) != 1:
        return None
    root = args.paths[0]
    # What is printed is as it was typed, but for this; and a folder within one is a part.
    if os.path.normpath(root) != root or not os.path.isfile(f"{root}/{TARGETS}"):  # noqa: PTH113
        return None
    try:
        specs = specs_below(root)
    except OSError:
        return None
    glance = Glance(root, _cache(args), os.environ.get(_SHOWN, "all"))
    try:
        if args.then == "build" and not glance.registered:
            return None
        if any(each.endswith(".yml") for each in specs) and not _distinct(specs):
            return None
        blocks = glance.all_hold(specs)
    finally:
        glance.close()
    if blocks is None or any(each.unfit for each in blocks):
        return None
    return blocks if any(each.labels for each in blocks) else None


def _cache(args: argparse.Namespace) -> str:
    return cache(args.cache, os.environ, args.paths[0])


def _distinct(specs: Sequence[str]) -> bool:
    return len({each.rpartition(".")[0] for each in specs}) == len(specs)


def _built(
    labels: Sequence[str], engines: Iterator[str], width: int, entries: str
) -> Iterator[str]:
    for label, key in zip(labels, engines, strict=True):
        yield f"{label:{width}}  up to date  {entries}/{key[:2]}/{key}/model.engine\n"


def _planned(labels: Sequence[str], engines: Iterator[str], width: int) -> Iterator[str]:
    for label, key in zip(labels, engines, strict=True):
        yield f"up to date  {label:{width}}  engine {key[:12]}\n"


def _counted(count: int) -> str:
    return f"{count} variant{'s' if count != 1 else ''}"
