"""What the store costs: hashing against bare hashlib, and publishing against writing the bytes.

`hash`: `digest_file` of a file in the page cache, against a loop of `readinto` and `update`, and
against hashing the same bytes in memory. `publish`: an engine written and hashed as the child of a
build does it, then published as the worker does it, against the same bytes written, fsynced and
hashed by a script; and how much was read meanwhile. `many`: files hashed by an `Index` one after
the other, against a pool of threads. Ratios are of pairs, taken in turns in one run; what was
written settles in between, untimed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType, SimpleNamespace

from engineforge.backends.serialized import serialize
from engineforge.backends.words import Words
from engineforge.digest import Digest, digest_file
from engineforge.store.index import Index
from engineforge.store.local import ENGINE, LocalStore
from engineforge.store.manifest import StoredFile
from engineforge.worker.entries import Entries, Made
from tests.benchmarks.measure import Pairs, in_turns, settle, spread, table, verdict

HASHING, PUBLISHING = 0.9, 1.3
_CHUNK = 1 << 20


def main() -> None:
    args = _arguments()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="store-") as folder:
        for what in args.what:
            made = Path(folder, what)
            made.mkdir()
            measure = {"hash": _hash, "publish": _publish, "many": _many}[what]
            rows += measure(made, args.megabytes << 20, args.rounds)
            shutil.rmtree(made)
    print()
    table(["what", "bare s", "ours s", "ratio", "budget", ""], rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", nargs="*", default=["hash", "publish", "many"])
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", help="on the disk that is to be measured")
    return parser.parse_args()


def _hash(folder: Path, size: int, rounds: int) -> list[list[str]]:
    file, data = folder / "file", _noise(size)
    file.write_bytes(data)
    settle()
    of_file = in_turns(lambda: _hashed(file), lambda: _nothing(digest_file(file)), rounds)
    in_memory = in_turns(
        lambda: _nothing(hashlib.sha256(data)), lambda: _nothing(digest_file(file)), rounds
    )
    return [
        _speed("hash a file: of hashlib's speed in a loop", of_file),
        _speed("hash a file: of hashlib's speed in memory", in_memory),
    ]


def _hashed(file: Path) -> None:
    sha, buffer = hashlib.sha256(), bytearray(_CHUNK)
    view = memoryview(buffer)
    with file.open("rb", buffering=0) as opened:
        while read := opened.readinto(buffer):
            sha.update(view[:read])
    sha.hexdigest()


def _publish(folder: Path, size: int, rounds: int) -> list[list[str]]:
    data, read = _noise(size), list[int]()

    def bare() -> None:
        with (folder / "bare").open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        hashlib.sha256(data).hexdigest()

    def ours() -> None:
        before = _bytes_read()
        store = LocalStore(folder / "cache")
        with store.session() as session:
            entries = Entries(
                store, session, Index(store.root), lambda: datetime.now(tz=timezone.utc)
            )
            got = entries.obtain("engine", {"format": 1}, lambda staged: _built(staged, data))
            assert got.why is None
            assert got.entry.manifest.files[ENGINE].size == size
        read.append(_bytes_read() - before)

    pairs = _in_turns_settled(folder, bare, ours, rounds)
    ratios = [ours / bare for bare, ours in zip(pairs.bare, pairs.ours, strict=True)]
    print(
        f"# read while it was published: {max(read) / 1e6:.3f} of {size / 1e6:.0f} MB", flush=True
    )
    return [
        [
            "publish an entry: of write, fsync, hash",
            spread(pairs.bare, ".2f"),
            spread(pairs.ours, ".2f"),
            spread(ratios, ".2f"),
            f"<= {PUBLISHING}",
            verdict(statistics.median(ratios), PUBLISHING),
        ],
        [
            "read meanwhile: of the engine's bytes",
            "",
            "",
            f"{max(read) / size:.4f}",
            "< 0.01",
            verdict(max(read) / size, 0.01),
        ],
    ]


def _built(staged: Path, data: bytes) -> Made:
    """The engine as `serialize` writes it, for a TensorRT whose builder gives these bytes."""
    trt = ModuleType("tensorrt")
    trt.__dict__["__version__"] = "8.6.0"
    sha256, size = serialize(
        staged / ENGINE,
        trt=trt,
        builder=SimpleNamespace(build_serialized_network=lambda *_: data),
        network=None,
        config=None,
        words=Words(SimpleNamespace(errors=[])),
    )
    return Made(record={}, digests={ENGINE: StoredFile(size, Digest(sha256))})


def _in_turns_settled(
    folder: Path, bare: Callable[[], None], ours: Callable[[], None], rounds: int
) -> Pairs:
    """`in_turns`, from an empty folder each time, and with a first round that only warms up."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for i in range(-1, rounds):
        for which in (False, True) if i % 2 else (True, False):
            settle()
            started = time.perf_counter()
            (ours if which else bare)()
            if i >= 0:
                seconds[which].append(time.perf_counter() - started)
            for each in folder.iterdir():
                shutil.rmtree(each) if each.is_dir() else each.unlink()
    return Pairs(seconds[False], seconds[True])


def _bytes_read() -> int:
    """What this process asked to read so far, from the page cache or the disk (proc(5), io)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def _many(folder: Path, size: int, rounds: int) -> list[list[str]]:
    rows = []
    for count in (4, 64, 4096):
        paths = [folder / f"{count}-{i}" for i in range(count)]
        for path in paths:
            path.write_bytes(_noise(size // 2 // count))
        settle()
        pairs = in_turns(
            lambda paths=paths: _indexed(folder, paths, 1),  # type: ignore[misc]
            lambda paths=paths: _indexed(folder, paths, os.cpu_count() or 1),  # type: ignore[misc]
            rounds,
        )
        each = f"{size // 2 // count / 1e6:.1f} MB"
        row = _speed(f"hash {count} files of {each}: by threads, of one", pairs)
        rows.append([*row[:4], "", ""])
        for path in paths:
            path.unlink()
    return rows


def _indexed(folder: Path, paths: Sequence[Path], threads: int) -> None:
    """What planning hashes, by an index that knows nothing."""
    (folder / "cache" / "staging").mkdir(parents=True, exist_ok=True)
    index = Index(folder / "cache")
    if threads == 1:
        for path in paths:
            index.hashed(path)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(index.hashed, paths))


def _speed(what: str, pairs: Pairs) -> list[str]:
    ratios = [bare / ours for bare, ours in zip(pairs.bare, pairs.ours, strict=True)]
    kept = verdict(-statistics.median(ratios), -HASHING)
    times = [spread(pairs.bare, ".3f"), spread(pairs.ours, ".3f")]
    return [what, *times, spread(ratios, ".3f"), f">= {HASHING}", kept]


def _noise(size: int) -> bytes:
    return secrets.token_bytes(1 << 20) * (size >> 20) + secrets.token_bytes(size & 0xFFFFF)


def _nothing(_: object) -> None:
    return None


if __name__ == "__main__":
    main()
