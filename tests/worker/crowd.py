"""A crowd: processes, forked from this one once it has imported all, that want one entry at once.

`python -m tests.worker.crowd CACHE COUNT MODE`: a line of JSON for each says what it came to. MODE
is `locks`, or `none` for processes that are as on hosts of their own, and locks that exclude
nobody, as flock(2) is where an NFS mount says `local_lock=flock`.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from engineforge.digest import digest_value
from engineforge.store.file_system import FileSystem
from engineforge.store.index import Index
from engineforge.store.local import ENGINE, LocalStore
from engineforge.worker.entries import Entries, Made

KEY = {"format": 1, "what": "everybody wants"}
SIZE = 1 << 20
_BUILD_SECONDS, _PIECES = 0.3, 10


class _OnNfs(LocalStore):
    """On a file system that is not trusted to lock."""

    @property
    def file_system(self) -> FileSystem:
        return FileSystem("nfs4", "advisory")


def _be_a_host_of_its_own() -> None:
    def flock(_handle: object, _operation: int) -> None:
        return None

    name = f"host{os.getpid()}"
    fcntl.flock = flock
    socket.gethostname = lambda: name


def _make(folder: Path) -> Made:
    """Write an engine, slowly, whose bytes tell who made it."""
    with (folder / ENGINE).open("wb") as file:
        for _ in range(_PIECES):
            file.write(os.getpid().to_bytes(8, "big") * (SIZE // 8 // _PIECES))
            file.flush()
            time.sleep(_BUILD_SECONDS / _PIECES)
    return Made(record={"made_by": os.getpid()})


def _looks(store: LocalStore, until: Callable[[], bool]) -> Iterator[str]:
    """What a reader sees that should never be there."""
    key = digest_value(KEY)
    while not until():
        entry = store.get("engine", key)
        if entry is not None:
            yield from store.broken_files(entry)
        yield from map(str, store.faults)


def _member(cache: Path, mode: str) -> dict[str, Any]:
    waited_for: set[str] = set()
    store = (_OnNfs if mode == "none" else LocalStore)(cache)
    with store.session() as session:
        entries = Entries(store, session, Index(cache), lambda: datetime.now(tz=timezone.utc))
        got = entries.obtain("engine", KEY, _make, waited_for.add)
    entry = got.entry
    return {
        "pid": os.getpid(),
        "built": got.why is None,
        "made_by": entry.manifest.record["made_by"],
        "engine": entry.manifest.files[ENGINE].sha256,
        "broken": store.broken_files(entry),
        "faults": [str(each) for each in store.faults],
        "waited_for": sorted(waited_for),
    }


def _reader(cache: Path, _mode: str) -> dict[str, Any]:
    """Looks at the entry over and over for a while."""
    store, end = LocalStore(cache), time.monotonic() + 5 * _BUILD_SECONDS
    return {"pid": os.getpid(), "saw": list(_looks(store, lambda: time.monotonic() > end))}


def _forked(
    job: Callable[[Path, str], dict[str, Any]], cache: Path, mode: str, gate: tuple[int, int]
) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(gate[1])
            os.read(gate[0], 1)  # ends when the last one is there
            if mode == "none":
                _be_a_host_of_its_own()
            line = json.dumps(job(cache, mode)) + "\n"
            os.write(sys.stdout.fileno(), line.encode())  # at once: shorter than PIPE_BUF
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def main() -> None:
    cache, count, mode = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    gate = os.pipe()
    pids = [_forked(job, cache, mode, gate) for job in [_reader, *[_member] * count]]
    os.close(gate[1])
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    os.write(sys.stdout.fileno(), json.dumps({"codes": codes}).encode())


if __name__ == "__main__":
    main()
