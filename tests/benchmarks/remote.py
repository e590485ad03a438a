"""What a remote store in a folder costs over a copy of the same files.

An entry with one file of random bytes is pushed and restored, in turns with `cp` and fsync of that
file to the same disk. Restoring is all that a worker does: fetched with every byte verified, and
published. Pushing is all but the first look. `cold` means that what is read has been dropped from
the page cache, as what another machine has put there is. The disk must have room for five such
files.

The budget is held against the best round of each: memory that a virtual machine's host has to give
it anew was seen to cost two seconds a GiB, in some rounds of the one or the other.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engineforge.digest import digest_file
from engineforge.store.far.remote import Remote
from engineforge.store.local import Entry, LocalStore
from tests.benchmarks.measure import quiet, settle, spread, table

RESTORED = 0.80
_MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--folder", help="on which disk")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="engineforge-benchmark-") as made:
        root = Path(made)
        source = root / "source"
        with source.open("wb") as file:
            for _ in range(args.mib):
                file.write(secrets.token_bytes(_MIB))
        near = LocalStore(root / "near")
        entry = _published(near, source)
        restore, push = _restoring(entry, root), _pushing(entry, root)
        rows = [
            _row("restored", args, source, restore, RESTORED, cold=False),
            _row("restored, cold", args, source, restore, RESTORED, cold=True),
            _row("pushed", args, source, push, None, cold=False),
        ]
    print(f"{args.mib} MiB, {args.rounds} rounds")
    table(["entry", "cp + fsync s", "s", "of cp's speed", "best", "budget"], rows)


def _published(store: LocalStore, source: Path) -> Entry:
    with store.session() as session, session.staged() as staged:
        shutil.copyfile(source, staged / "model.engine")
        document = {"format": 1, "what": "a benchmark"}
        entry, _ = store.publish(
            staged, stage="engine", key_document=document, digests={}, record={}
        )
        return entry


def _restoring(entry: Entry, root: Path) -> Callable[[], None]:
    Remote.open(str(root / "far"), environment={}).push(entry)

    def restore() -> None:
        store = LocalStore(root / "restored")
        remote = Remote.open(str(root / "far"), environment={})
        with store.session() as session, session.staged() as staged:
            manifest = remote.manifest("engine", entry.manifest.key)
            if manifest is None:
                raise SystemExit("it was not pushed")
            remote.fetch(manifest, staged, store.root / "staging" / "partial")
            _, ours = store.publish(
                staged,
                stage="engine",
                key_document=manifest.key_document,
                digests=manifest.files,
                record=manifest.record,
            )
        if not ours:
            raise SystemExit("it was there already")

    return restore


def _pushing(entry: Entry, root: Path) -> Callable[[], None]:
    def push() -> None:
        Remote.open(str(root / "pushed"), environment={}).push(entry)

    return push


def _row(
    name: str,
    args: argparse.Namespace,
    source: Path,
    ours: Callable[[], None],
    budget: float | None,
    *,
    cold: bool,
) -> list[str]:
    copy = source.with_name("copy")

    def bare() -> None:
        quiet(["cp", "--reflink=never", str(source), str(copy)])
        with copy.open("rb") as file:
            os.fsync(file.fileno())

    seconds: dict[int, list[float]] = {0: [], 1: []}
    read = [source, *source.parent.glob("far/blobs-v1/*/*/*")]
    for i in range(args.rounds):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            settle()
            for path in read:
                _drop(path) if cold else digest_file(path)
            copy.unlink(missing_ok=True)
            shutil.rmtree(source.with_name(name.partition(",")[0]), ignore_errors=True)
            started = time.perf_counter()
            (bare, ours)[which]()
            seconds[which].append(time.perf_counter() - started)
    speeds = [bare / ours for bare, ours in zip(seconds[0], seconds[1], strict=True)]
    best = min(seconds[0]) / min(seconds[1])
    return [
        name,
        *(f"{statistics.median(seconds[which]):.2f}" for which in (0, 1)),
        spread(speeds, ".0%"),
        f"{best:.0%}",
        f">= {budget:.0%}: {'kept' if best >= budget else 'BROKEN'}" if budget else "-",
    ]


def _drop(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
