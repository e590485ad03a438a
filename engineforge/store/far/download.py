"""A file from elsewhere, once and whole: each byte is hashed as it comes, and what broke off, or
was killed, goes on where it was unless what is there has changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from engineforge.digest import Digest, digest_value
from engineforge.spec import url as urls
from engineforge.store import disk, files
from engineforge.store.far.origin import Changed, Content, Origin, origin
from engineforge.store.far.transfer import forget_old
from engineforge.store.far.web import BrokenOff, DownloadFailed

_CHECKPOINT = 4 << 20
_CHUNK = 1 << 20
_RETRIES = 5
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 5.0
_FORMAT = 1
_MOST_CHANGES = 3

Told = Callable[[int, int], None]
"""Is told the bytes that are here, and how many there will be, 0 where nobody says."""


class WrongDigest(DownloadFailed):
    """What came is not what was pinned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a file is, and what else its server says of it."""

    digest: Digest
    content: Content


def fetch(
    url: str,
    *,
    sha256: str | None,
    out: Path,
    partial: Path,
    environment: Mapping[str, str],
    told: Told,
    retries: int = _RETRIES,
) -> Fetched:
    """Put what a URL names at `out`, which must not exist, not fsynced. What came until a
    connection broke or the process ended waits in `partial`, on the same file system.

    `sha256` is its hexadecimal digits, or None to learn them. `retries` is how often in a row
    nothing may come. UsageError for a URL that cannot be meant, HostUnfit without what reads it,
    WrongDigest where it is something else (and nothing is kept), DownloadFailed else.
    """
    expected = None if sha256 is None else Digest("sha256:" + sha256.removeprefix("sha256:"))
    found = origin(url, environment)
    with _claimed(partial, _name(url, expected), lambda _: told(0, 0)) as path:
        download = _Download(found, path, expected, told)
        try:
            content = download.run(retries)
        except BaseException:
            download.close()
            if not download.goes_on:
                download.forget()
            raise
        download.close()
        if expected is not None and download.digest != expected:
            download.forget()
            raise WrongDigest(
                f"'{found.shown}' is not what was pinned: expected sha256 '{expected.hex}', "
                f"found '{download.digest.hex}' ({download.at} bytes"
                + ", which may be a part: the server told no length)" * (not download.ends_visibly)
                + ")" * download.ends_visibly,
                hint="if it is meant to have changed: `engineforge lock --update`, or the new "
                "'sha256' in the spec; nothing was kept",
            )
        disk.rename(path, out)
        download.forget()
    forget_old(partial)
    return Fetched(digest=download.digest, content=content)


def leave(path: Path, url: str, found: Fetched, partial: Path) -> None:
    """Move a file that was fetched to where `fetch` of the same URL, and of that content, finds
    all of it; for a week nobody has to fetch it again."""
    with _claimed(partial, _name(url, found.digest), lambda _: None) as there:
        size = path.stat().st_size
        disk.rename(path, there)
        _write_state(there, found.content, size, found.digest)


def _name(url: str, expected: Digest | None) -> str:
    return digest_value({"url": urls.identity(url), "sha256": expected}).hex


@contextlib.contextmanager
def _claimed(folder: Path, name: str, waiting: Callable[[str], None]) -> Iterator[Path]:
    """The file of this name, for this process alone: another one that wants it waits, and tells
    `waiting` so, which may end that."""
    files.make_folder(folder)
    with files.lock(folder / f"{name}.lock", "another download", waiting) as alone:
        if alone:
            yield folder / name
            return
        path = folder / f"{name}.{secrets.token_hex(4)}"
        try:
            yield path
        finally:
            for each in (path, _state_path(path)):
                with contextlib.suppress(FileNotFoundError):
                    disk.unlink(each)


def _state_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _write_state(path: Path, content: Content, at: int, digest: Digest) -> None:
    known = {"tag": content.tag, "size": content.size, "version": content.version}
    state = {"format": _FORMAT, "content": known, "at": at, "sha256": digest.hex}
    files.replace(_state_path(path), json.dumps(state).encode(), path.parent, durable=False)


class _Download:
    """A file on its way. Beside it stands how much of it was there with which digest: what a power
    cut has left may be anything, and is not gone on with."""

    def __init__(self, source: Origin, path: Path, expected: Digest | None, told: Told) -> None:
        self._origin, self._path, self._expected, self._told = source, path, expected, told
        self.content: Content | None = None
        self.at = 0
        self.ends_visibly = True
        self._sha = hashlib.sha256()
        self._handle = disk.open_or_create(path)
        self._checked = 0
        try:
            self._resume()
        except BaseException:
            self.close()
            raise

    @property
    def digest(self) -> Digest:
        return Digest("sha256:" + self._sha.hexdigest())

    def run(self, retries: int) -> Content:
        """Until all of it is here, whatever its digest is."""
        failures = changes = furthest = 0
        while self.content is None or self.content.size != self.at:
            try:
                self._once()
            except Changed:
                changes += 1
                self._restart()
                if changes > _MOST_CHANGES:
                    raise DownloadFailed(
                        f"'{self._origin.shown}' changes while it is fetched", hint="try again"
                    ) from None
            except BrokenOff as error:
                self._checkpoint()
                # Not since the last try: what begins again and again gets nowhere.
                failures = 1 if self.at > furthest else failures + 1
                furthest = max(furthest, self.at)
                if failures > retries:
                    raise DownloadFailed(
                        f"'{self._origin.shown}' cannot be fetched: {error}"
                        + f", after {self.at} of {self._size} bytes" * bool(self.at),
                        hint="check the network and try again"
                        + "; what came is kept, and gone on with" * self.goes_on,
                    ) from None
                if not self.goes_on:
                    self._restart()
                pause = min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * 2 ** (failures - 1))
                self._wait(max(pause, error.wait))
        return self.content

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._tell()  # may end it
            time.sleep(min(left, _PAUSE_SECONDS))

    @property
    def _size(self) -> str:
        size = None if self.content is None else self.content.size
        return "an unknown number of" if size is None else str(size)

    @property
    def goes_on(self) -> bool:
        """Whether there is a part, and something can tell that the rest is of the same: a tag, or
        the digest of the whole."""
        if self.content is None or self.content.size is None or self.at == 0:
            return False
        return bool(self.content.tag or self._expected)

    def _once(self) -> None:
        with self._origin.part(self.at, self.content) as part:
            if part.start != self.at:
                self._restart()
            self.content = part.content
            size = part.content.size
            self.ends_visibly = part.ends_visibly
            if not part.ends_visibly and self._expected is None:
                raise DownloadFailed(
                    f"'{self._origin.shown}' comes without its length, so that nobody could tell "
                    "the whole of it from a part",
                    hint="give its 'sha256' in the spec",
                )
            for chunk in part.chunks:
                files.write_on(self._handle, self._path, chunk, self.at)
                self._sha.update(chunk)
                self.at += len(chunk)
                self._tell()
                if self.at - self._checked >= _CHECKPOINT:
                    self._checkpoint()
        if size is None:
            self.content = Content(tag=part.content.tag, size=self.at)
        elif self.at > size:
            self._restart()
            raise DownloadFailed(f"'{self._origin.shown}' is longer than its server says")
        elif self.at < size:
            raise BrokenOff("the connection ended")

    def _resume(self) -> None:
        try:
            state = json.loads(_state_path(self._path).read_bytes())
            if state["format"] == _FORMAT:
                self.content, self.at = Content(**state["content"]), int(state["at"])
            digest = state["sha256"]
        except (OSError, ValueError, TypeError, KeyError):
            self.content = None
        # All of it may be here, and then nobody is asked whether it is still that.
        whole = self.content is not None and self.content.size == self.at
        if not self.goes_on or (self._expected is None and whole):
            self._restart()
            return
        left = self.at
        while left and (chunk := os.read(self._handle, min(left, _CHUNK))):
            self._sha.update(chunk)
            left -= len(chunk)
        if left or self._sha.hexdigest() != digest:
            self._restart()
            return
        # What came after it is not known to be whole, and is written over: it is as long or longer.
        self._checked = self.at
        self._tell()

    def _tell(self) -> None:
        self._told(self.at, (self.content and self.content.size) or 0)

    def _restart(self) -> None:
        self._sha, self.at, self._checked, self.content = hashlib.sha256(), 0, 0, None
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(_state_path(self._path))
        disk.truncate(self._handle, self._path)
        os.lseek(self._handle, 0, os.SEEK_SET)

    def _checkpoint(self) -> None:
        if self.content is None or self.at == self._checked:
            return
        _write_state(self._path, self.content, self.at, self.digest)
        self._checked = self.at

    def close(self) -> None:
        """Also where it was interrupted: what is here is gone on with."""
        if self._handle < 0:
            return
        handle, self._handle = self._handle, -1
        try:
            with contextlib.suppress(OSError):  # a full disk: then it goes on further back
                self._checkpoint()
        finally:
            os.close(handle)

    def forget(self) -> None:
        for each in (_state_path(self._path), self._path):
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(each)
