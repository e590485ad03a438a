"""`engineforge build` and `plan` without options where nothing is to be done, which is most of the
time: the same words as theirs, without loading what they need. Anything else is theirs."""

from __future__ import annotations

import os
import sys
from itertools import islice

from engineforge.cli.where import cache
from engineforge.project.glance import Glance
from engineforge.project.listing import TARGETS, specs_below
from engineforge.store.known import ENTRIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engineforge.store.known import Block

_AT_ONCE = 10_000
"""Lines: where nothing is buffered, each would be a call of the kernel."""

_SHOWN = "CUDA_VISIBLE_DEVICES"


def unchanged(command: str, paths: Sequence[str]) -> Glance | None:
    """Say that all is up to date, where that is all that the command would say, and give nothing;
    else say nothing, and give the glance that shows so, which is to be closed."""
    store = cache(None, os.environ, paths[0])
    glance = Glance(paths[0], store, os.environ.get(_SHOWN, "all"))
    blocks = _holding(glance, paths, registered=command == "build")
    if not blocks:
        return glance
    labels = [label for block in blocks for label in block.labelled()]
    engines = (engine for block in blocks for engine in block.engines())
    width, count = max(map(len, labels)), len(labels)
    counted = f"{count} variant{'s' if count != 1 else ''}"
    if command == "build":
        lines = _built(labels, engines, width, f"{store}/{ENTRIES}/engine")
        summary = f"nothing to do: {counted} {'is' if count == 1 else 'are'} up to date"
    else:
        lines = _planned(labels, engines, width)
        summary = f"{counted}, {count} up to date, 0 to build"
    while text := "".join(islice(lines, _AT_ONCE)):
        sys.stdout.write(text)
    sys.stdout.flush()
    print(summary, file=sys.stderr, flush=True)
    glance.close()
    return None


def _holding(glance: Glance, paths: Sequence[str], *, registered: bool) -> list[Block]:
    """What is known of all specs of a folder; nothing unless all of it still holds."""
    root = paths[0]
    # What is printed is as it was typed; and a folder within that of the specs is a part of it.
    if len(paths) > 1 or os.path.normpath(root) != root:
        return []
    if not os.path.isfile(f"{root}/{TARGETS}") or (registered and not glance.registered):  # noqa: PTH113
        return []
    try:
        specs = specs_below(root)
    except OSError:
        return []
    if any(each.endswith(".yml") for each in specs) and not _distinct(specs):
        return []
    blocks = glance.all_hold(specs)
    if blocks is None or any(each.unfit or not each.labels for each in blocks):
        return []
    return blocks


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
