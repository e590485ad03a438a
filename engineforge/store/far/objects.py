"""What a remote store is made of, whatever keeps it: named objects, each whole or not there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from engineforge.errors import EngineForgeError

CHUNK = 1 << 20


class RemoteUnavailable(EngineForgeError):
    """The remote store cannot be reached, or does not let this user do that; what could pass by
    itself was tried again."""


@dataclass(frozen=True, slots=True)
class Version:
    """One state of an object: its tag as the keeper gives it, and a number where that has one."""

    tag: str
    number: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    data: bytes
    version: Version


@dataclass(frozen=True, slots=True)
class Stat:
    size: int
    version: Version


class Objects(Protocol):
    """A bucket or a folder. Every method may raise RemoteUnavailable."""

    @property
    def url(self) -> str:
        """Where it is, for people: without credentials."""

    @property
    def read_only(self) -> bool: ...

    def read(self, path: str) -> Found | None:
        """A small object; None where there is none."""

    def stat(self, path: str) -> Stat | None: ...

    def stream(self, path: str, start: int, size: int) -> Iterator[bytes]:
        """The bytes of an object of `size` bytes from `start` on, or fewer where it has become
        shorter; FileNotFoundError where it is gone. Broken connections are taken up again."""

    def create(self, path: str, data: bytes) -> bool:
        """Put a small object where there is none; False where there is one."""

    def swap(self, path: str, data: bytes, version: Version) -> bool:
        """Put a small object in place of this version; False where it is another by now."""

    def put(self, path: str, data: bytes) -> None:
        """Put a small object, whatever is there."""

    def upload(self, path: str, chunks: Iterable[bytes], size: int) -> None:
        """Put an object of `size` bytes; nothing where `chunks` raises."""

    def settle(self, path: str) -> None:
        """Have what was found there outlast a power cut, before anything relies on it: whoever put
        it may have been killed before they saw to that."""

    def names(self) -> list[str]:
        """Some of the first parts of all paths, and all where they are few; none where that cannot
        be asked (HTTP)."""

    def copy(self, path: str, to: str) -> None:
        """Copy an object; FileNotFoundError where it is gone."""
