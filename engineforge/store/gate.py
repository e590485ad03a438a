"""The lock between those who come to rely on entries, many at once, and a collection, which takes
it alone to decide on one entry and move it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from engineforge.store import files

_GATE = Path("staging", "locks", "gc.lock")


def using(root: Path) -> AbstractContextManager[None]:
    """Many at once, and no collection decides on an entry of this store meanwhile.

    Where the file system has no locks it excludes nothing: see `uses` for what holds then.
    """
    return files.held(root / _GATE, shared=True)


def deciding(root: Path) -> AbstractContextManager[None]:
    """One at once, while nobody comes to rely on an entry of this store."""
    return files.held(root / _GATE, shared=False)
