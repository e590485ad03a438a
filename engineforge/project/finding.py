"""Which entry of a store is meant: by an engine file, whatever it is called, or by digits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engineforge.digest import digest_file
from engineforge.errors import EngineForgeError, UsageError
from engineforge.promotion.placing import manifest_of
from engineforge.store.local import Entry, LocalStore
from engineforge.store.manifest import BadManifest, Manifest

_FEWEST_DIGITS = 4


def by_file(store: LocalStore, path: Path) -> list[Entry]:
    """The entries that hold this very file, by its digest: its name says nothing; else what the
    manifest that lies with it says, if it is of this file. EngineForgeError where there is
    neither."""
    found = list(_holding(store, path)) or list(_beside(path))
    if not found:
        raise EngineForgeError(
            f"'{path}' ({digest_file(path)}) is no file of this cache",
            hint=f"looked in '{store.root}'; name another cache with --cache",
        )
    return found


def by_digits(store: LocalStore, digits: str) -> Entry:
    """The entry whose key, plan key or engine digest begins so; UsageError if not exactly one."""
    if len(digits) < _FEWEST_DIGITS:
        raise UsageError(f"expected at least {_FEWEST_DIGITS} digits of a key, found '{digits}'")
    plans = {record.entries.get("engine") for record in store.plan_records(digits)}
    found = [
        entry
        for stage in store.stages()
        for entry in store.entries(stage)
        if entry.manifest.key in plans
        or entry.manifest.key.hex.startswith(digits)
        or any(file.sha256.hex.startswith(digits) for file in entry.manifest.files.values())
    ]
    if not found:
        raise UsageError(f"nothing in '{store.root}' has a key or file that begins '{digits}'")
    if len(found) > 1:
        names = ", ".join(entry.manifest.key.hex[:16] for entry in found[:5])
        raise UsageError(f"{len(found)} entries match '{digits}'", hint=f"such as {names}")
    return found[0]


def _holding(store: LocalStore, path: Path) -> Iterator[Entry]:
    size, digest = path.stat().st_size, None
    for stage in store.stages():
        for entry in store.entries(stage):
            for file in entry.manifest.files.values():
                if file.size == size:
                    digest = digest or digest_file(path)
                    if file.sha256 == digest:
                        yield entry
                        break


def _beside(path: Path) -> Iterator[Entry]:
    try:
        manifest = Manifest.from_bytes(manifest_of(path).read_bytes())
    except (OSError, BadManifest):
        return
    if digest_file(path) in {each.sha256 for each in manifest.files.values()}:
        yield Entry(path.parent, manifest, (0, 0, 0))
