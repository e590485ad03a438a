"""Whether an entry may be handed out: hashed once, and not touched since."""

from __future__ import annotations

from engineforge.digest import Digest
from engineforge.store.index import Index
from engineforge.store.local import Entry, LocalStore
from engineforge.store.stats import folder_stats


def whole(store: LocalStore, index: Index, stage: str, key: Digest) -> Entry | None:
    """The entry if every byte is what its manifest says; a broken one is quarantined.

    Its files are hashed, unless that was done before and their stats are the same.
    """
    entry = store.get(stage, key)
    if entry is None or index.entry_is_known(stage, key.hex, entry.path):
        return entry
    try:
        stats = folder_stats(entry.path)  # before they are read: what changes then is not known
        will_tell = index.will_tell(entry.path, stats)
    except FileNotFoundError:
        return None  # moved away by another process
    broken = store.broken_files(entry)
    sizes = [file.size for file in entry.manifest.files.values()]
    index.count(len(sizes), sum(sizes))
    if broken:
        store.quarantine(entry, "; ".join(broken))
        return None
    if will_tell:
        index.know_entry(stage, key.hex, stats)
    return entry
