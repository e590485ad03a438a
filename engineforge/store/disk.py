"""The primitive changes that the store makes on disk, each told before it happens to whoever
watches. What makes them atomic or durable is the business of `files`, which is built on them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal[
    "create",
    "write",
    "truncate",
    "chmod",
    "sync file",
    "sync folder",
    "mkdir",
    "rename",
    "link",
    "unlink",
    "rmdir",
]


@dataclass(frozen=True, slots=True)
class Change:
    """What is about to happen: `to` is the new name of what is renamed or linked, `data` what is
    written."""

    kind: Kind
    path: Path
    to: Path | None = None
    data: bytes = b""


Watch = Callable[[Change], None]
"""What it raises is raised in place of the change, as if the disk had refused it."""

_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Have `watch` told beforehand of each change of this thread, and of those that it starts in
    a copy of its context."""
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


def _tell(kind: Kind, path: Path, to: Path | None = None, data: bytes | memoryview = b"") -> None:
    if (watch := _WATCH.get()) is not None:
        watch(Change(kind, path, to, bytes(data)))


def create(path: Path) -> int:
    """A handle to write a file that must not exist."""
    _tell("create", path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def open_or_create(path: Path) -> int:
    """A handle to read and write a file that is made where it is missing."""
    _tell("create", path)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def write(handle: int, path: Path, data: bytes | memoryview) -> None:
    """Write all of it at the handle's place."""
    _tell("write", path, data=data)
    left = memoryview(data)
    while left:
        left = left[os.write(handle, left) :]


def truncate(handle: int, path: Path) -> None:
    _tell("truncate", path)
    os.ftruncate(handle, 0)


def chmod(path: Path, mode: int) -> None:
    _tell("chmod", path)
    path.chmod(mode)


def sync_file(handle: int, path: Path) -> None:
    _tell("sync file", path)
    os.fsync(handle)


def sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _tell("sync folder", path)
        os.fsync(handle)
    finally:
        os.close(handle)


def mkdir(path: Path) -> None:
    _tell("mkdir", path)
    path.mkdir()


def rename(path: Path, to: Path) -> None:
    """rename(2): takes the place of a file or of an empty folder, never of a full one."""
    _tell("rename", path, to)
    path.rename(to)


def link(path: Path, to: Path) -> None:
    """link(2): one more name for a file; FileExistsError where that is taken."""
    _tell("link", path, to)
    to.hardlink_to(path)


def unlink(path: Path) -> None:
    _tell("unlink", path)
    path.unlink()


def rmdir(path: Path) -> None:
    _tell("rmdir", path)
    path.rmdir()
