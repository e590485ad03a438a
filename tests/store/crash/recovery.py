"""Opens a cache as the next run does, and says what of the store's promises does not hold there."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from engineforge.digest import Digest, digest_bytes
from engineforge.store.far import archive
from engineforge.store.far.remote import Remote, RemoteCorrupt
from engineforge.store.index import Index
from engineforge.store.local import LocalStore
from engineforge.store.manifest import PlanRecord
from engineforge.store.timings import BadTimings, Timings, all_timings
from tests.store.crash.cache import (
    BLOBS,
    FAR,
    PLANS,
    STAGE,
    Cache,
    Promise,
    kept,
    key_of,
    record_of,
)
from tests.store.crash.model import State, Tree


def read_tree(root: Path) -> Tree:
    """What is in a folder now."""
    return {
        path.relative_to(root): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def write_tree(tree: Tree, root: Path) -> None:
    """Put into an empty folder what a state says."""
    for path in sorted(tree):
        content = tree[path]
        if content is not None:
            (root / path).write_bytes(content)
        elif path != Path():
            (root / path).mkdir()


def broken_promises(
    root: Path, promises: Iterable[Promise], *, damaged: bool = False, rebuild: bool = True
) -> list[str]:
    """What does not hold; empty if all is well.

    `damaged` is for a cache whose entries were spoilt by other than the store: these are told as
    faults, and records may point to what is gone.
    """
    promised, store = kept(promises), LocalStore(root)
    with store.session():
        found = list(_read(store, promised, damaged=damaged))
    if store.faults and not damaged:
        found += [f"what was seen was not whole: {fault}" for fault in store.faults]
    found += _timings(root, promised)
    found += _trash(root)
    found += _index(root)
    found += _far(root, promised, damaged=damaged)
    found += _archives(root, promised)
    if rebuild and not found:
        found += _built_again(root, {name for kind, name in promised if kind == "entry"})
    return found


def broken_after(state: State, root: Path, *, damaged: bool = False) -> list[str]:
    """The same for what a power cut has left; `root` is made for it, and removed."""
    root.mkdir()
    write_tree(state.tree, root)
    try:
        return broken_promises(root, state.promises, damaged=damaged)
    finally:
        shutil.rmtree(root)


def _read(store: LocalStore, promised: set[tuple[str, str]], *, damaged: bool) -> Iterator[str]:
    whole = set()
    for stage in store.stages():
        for entry in store.entries(stage):
            if broken := store.broken_files(entry):
                yield f"an entry is there, and not whole: {broken}"
            whole.add(entry.manifest.key)
    records = {record.key: record for record in store.plan_records("")}
    if not damaged:
        for record in records.values():
            yield from _points_to(store, record)
    for kind, name in sorted(promised):
        if kind == "entry" and key_of(name) not in whole:
            yield f"the entry '{name}' was published, and is lost"
        elif kind == "record" and record_of(name).key not in records:
            yield f"the record '{name}' was put, and is lost"
        elif kind in ("quarantine", "trash") and not (store.root / kind / name).exists():
            yield f"'{name}' was moved to {kind}, and is not there"


def _points_to(store: LocalStore, record: PlanRecord) -> Iterator[str]:
    for stage, key in record.entries.items():
        if store.get(stage, key) is None:
            yield f"the record {record.key.short} points to nothing"


def _trash(root: Path) -> Iterator[str]:
    """What is in the trash is taken back whole."""
    store = LocalStore(root)
    for path in sorted((root / "trash" / STAGE).glob("*")):
        key = Digest(f"sha256:{path.name}")
        if store.get(STAGE, key) is None and store.take_back(STAGE, key):
            entry = store.get(STAGE, key)
            if entry is None or store.broken_files(entry):
                yield f"the entry {key.short} was not whole in the trash"


def _far(root: Path, promised: set[tuple[str, str]], *, damaged: bool) -> Iterator[str]:
    """As another machine finds the remote store."""
    said: list[str] = []
    remote = Remote.open(str(root / FAR), environment={}, said=said.append)
    whole: set[Digest] = set()
    for path in sorted((root / FAR).glob("entries-v1/*/??/*.json")):
        manifest = remote.manifest(STAGE, Digest(f"sha256:{path.stem}"))
        if manifest is not None:
            fetched = root / f"fetched-{path.stem}"
            fetched.mkdir()
            try:
                remote.fetch(manifest, fetched, fetched / "partial")
                whole.add(manifest.key)
            except RemoteCorrupt as error:
                yield f"an entry is in the remote store, and not whole: {error}"
            finally:
                shutil.rmtree(fetched)
    records: set[Digest] = set()
    for path in sorted((root / FAR).glob("plans-v1/??/*.json")):
        record = remote.record(Digest(f"sha256:{path.stem}"))
        if record is not None:
            records.add(record.key)
            if not damaged and not whole.issuperset(record.entries.values()):
                yield f"the record {record.key.short} of the remote store points to nothing"
    for kind, name in sorted(promised):
        if kind == "far entry" and key_of(name) not in whole:
            yield f"the entry '{name}' was pushed, and is lost"
        elif kind == "far record" and record_of(name).key not in records:
            yield f"the record '{name}' was pushed, and is lost"
        elif kind == "far quarantine" and not _has_its_digest(root / FAR / name):
            yield f"'{name}' was moved to quarantine in the remote store, and is not there"
    if said and not damaged:
        yield f"what was seen in the remote store was not whole: {said}"


def _has_its_digest(path: Path) -> bool:
    """Whether it is what its name says, at its end."""
    return path.exists() and path.name.endswith(digest_bytes(path.read_bytes()).short)


def _archives(root: Path, promised: set[tuple[str, str]]) -> Iterator[str]:
    """What is there under the name of an archive is one, and what was exported is there."""
    for path in sorted(root.glob("*.tar")):
        into = LocalStore(root / f"from-{path.stem}")
        try:
            with into.session() as session:
                archive.import_(path, into, session)
        except archive.BadArchive as error:
            yield f"'{path.name}' is there, and not whole: {error}"
        finally:
            shutil.rmtree(into.root)
    for kind, name in sorted(promised):
        if kind == "archive" and not (root / name).exists():
            yield f"'{name}' was exported, and is lost"


def _timings(root: Path, promised: set[tuple[str, str]]) -> Iterator[str]:
    versions = [int(name) for kind, name in promised if kind == "timings"]
    for timings in all_timings(root):
        try:
            blob = timings.read()
        except BadTimings as error:
            yield f"the timing cache is broken: {error}"
        else:
            assert blob is not None
            if BLOBS.index(blob) < max(versions, default=0):
                yield "the timing cache is an older one than was written"
    if versions and not Timings(root, "h200").path.exists():
        yield "the timing cache was written, and is lost"


def _index(root: Path) -> Iterator[str]:
    history = Index(root).history("net")
    if history is not None and history.plan not in PLANS:
        yield "the index says what was never put in"


def _built_again(root: Path, names: set[str]) -> Iterator[str]:
    """What is there can be worked with: nothing stands in the way of the next run."""
    cache = Cache(root)
    for name in sorted(names | {"a", "another"}):
        cache.build(name)
        entry = cache.store.get(STAGE, key_of(name))
        if entry is None or cache.store.broken_files(entry):
            yield f"the entry '{name}' cannot be built any more"
        elif cache.store.plan_record(record_of(name).key) is None:
            yield f"the record '{name}' cannot be put any more"
    if (root / FAR).exists():
        for name in sorted(names):
            cache.push(name)
        pushed = {("far record", name) for name in names} | {("far entry", name) for name in names}
        yield from _far(root, pushed, damaged=True)
    last = len(BLOBS) - 1
    cache.merge_timings(last)
    if Timings(root, "h200").read() != BLOBS[last]:
        yield "the timing cache cannot be written any more"
