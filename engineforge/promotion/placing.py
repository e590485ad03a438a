"""Where a pulled engine lies: the file, the manifest that it is verified by, the engine before it,
and what was pulled there last. Each changes at once or not at all, whoever else reads or pulls."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from engineforge.digest import Digest, digest_file
from engineforge.errors import HostUnfit, StoreCorrupt, Untrusted, UsageError
from engineforge.store import disk, files
from engineforge.store.local import ENGINE, MANIFEST
from engineforge.store.manifest import BadManifest, Manifest, StoredFile

_FORMAT = 1
_SPARE = 16 << 20
"""Bytes that are left free on a disk, for what else is written meanwhile."""


def manifest_of(engine: Path) -> Path:
    """Where the manifest of an engine file lies: beside `model.engine` as in an entry of a store,
    else under the name of the file, since others may lie there."""
    beside = MANIFEST if engine.name == ENGINE else f"{engine.name}.{MANIFEST}"
    return engine.with_name(beside)


def next_manifest(engine: Path) -> Path:
    """The manifest of the engine that is just about to lie there, while it takes its place."""
    manifest = manifest_of(engine)
    return manifest.with_name(f"{manifest.name}.next")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The last event of a ledger that a machine has pulled by."""

    number: int
    event: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What is known of the file from its last pull: `seen` by environment and spec, and what the
    engine there is, as `Pulled` has it. `engine` is empty before the first one."""

    seen: Mapping[str, Seen] = field(default_factory=dict)
    engine: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_bytes(cls, data: bytes, path: Path) -> Remembered:
        """Untrusted for what cannot be read: what was seen guards against what is older."""
        try:
            raw = json.loads(data)
            if raw["format"] != _FORMAT:
                raise ValueError(f"format {raw['format']!r}, and this version reads {_FORMAT}")
            seen = {
                str(name): Seen(number=int(each["number"]), event=Digest(each["event"]))
                for name, each in raw["seen"].items()
            }
            if any(each.number < 1 for each in seen.values()):
                raise ValueError("events count from 1")
            return cls(seen=seen, engine=dict(raw["engine"]))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Untrusted(
                f"'{path}' does not say what was pulled last: {error!r}",
                hint=f"if nobody is to be warned of older engines, remove '{path}'",
            ) from error

    def to_bytes(self) -> bytes:
        raw = {
            "format": _FORMAT,
            "seen": {name: asdict(each) for name, each in sorted(self.seen.items())},
            "engine": self.engine,
        }
        return (json.dumps(raw, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()


class Place:
    """The place of one engine: a file, or `model.engine` in a folder that exists. What it was
    pulled by is kept at `remembered`, by default beside it.

    UsageError where there is no folder to put it, or something else would be overwritten.
    """

    def __init__(self, output: Path, remembered: Path | None = None) -> None:
        self.path = output / ENGINE if output.is_dir() else output
        self.manifest = manifest_of(self.path)
        self.previous = self.path.with_name(f"{self.path.name}.previous")
        self._remembered = remembered or self.path.with_name(f"{self.path.name}.pulled.json")
        self._folder = self.path.parent
        if not self._folder.is_dir():
            raise UsageError(f"there is no folder '{self._folder}' to put '{self.path.name}' in")

    @contextlib.contextmanager
    def alone(self, waiting: Callable[[str], None]) -> Iterator[None]:
        """While nobody else puts an engine here. `waiting` is told once who does; what one left
        who was killed is removed."""
        told = False

        def tell(holder: str) -> None:
            nonlocal told
            if not told:
                waiting(f"waiting for {holder}, which pulls to '{self.path}'")
            told = True

        path = self._folder / f".{self.path.name}.pull.lock"
        with files.lock(path, f"PID {os.getpid()}", tell) as held:
            self._check_manifest()
            if held:  # whoever is at it where there are no locks is not to lose their files
                self._clean()
            yield

    def _check_manifest(self) -> None:
        try:
            ours = Manifest.from_bytes(self.manifest.read_bytes()).stage == "engine"
        except FileNotFoundError:
            return
        except BadManifest:
            ours = False
        # One that is broken is told by the name that only we give.
        if not ours and self.manifest.name == MANIFEST:
            raise UsageError(
                f"'{self.manifest}' is there and belongs to no engine: it would be overwritten",
                hint="give another folder, or another name than 'model.engine'",
            )

    def _clean(self) -> None:
        ours = re.compile(re.escape(f".{self.path.name}.pull-") + "[0-9a-f]{16}")
        for each in self._folder.iterdir():
            if ours.fullmatch(each.name):
                files.remove_folder(each)

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """A folder beside the file, on the same disk, for what takes its place; it is gone
        after."""
        folder = self._folder / f".{self.path.name}.pull-{secrets.token_hex(8)}"
        disk.mkdir(folder)
        try:
            yield folder
        finally:
            files.remove_folder(folder)

    def has(self, engine: StoredFile) -> bool:
        """Whether the file is this engine, by its bytes."""
        return _is(self.path, engine)

    def manifest_for(self, engine: StoredFile) -> bytes | None:
        """The manifest here, if it is that of this engine."""
        try:
            data = self.manifest.read_bytes()
            same = Manifest.from_bytes(data).files.get(ENGINE) == engine
        except (FileNotFoundError, BadManifest):
            return None
        return data if same else None

    def fill(
        self,
        staged: Path,
        engine: StoredFile,
        chunks: Iterable[bytes],
        manifest: bytes,
        moved: Callable[[int, int], None],
    ) -> None:
        """Write an engine and its manifest, durably; the engine is verified as it comes.

        StoreCorrupt where the bytes are others, HostUnfit where the disk has no room for them.
        """
        system = os.statvfs(self._folder)
        free = system.f_bavail * system.f_frsize
        if free < engine.size + _SPARE:
            raise HostUnfit(
                f"'{self._folder}' has {free} bytes left, and the engine has {engine.size}",
                hint="the old one is replaced when the new one is there: both need room",
            )
        path = staged / ENGINE
        sha, size, handle = sha256(), 0, disk.create(path)
        try:
            for chunk in chunks:
                sha.update(chunk)
                if size + len(chunk) > engine.size:
                    raise _other(engine, f"more than {engine.size} bytes came")
                files.write_on(handle, path, chunk, size)
                size += len(chunk)
                moved(size, engine.size)
            if size != engine.size:
                raise _other(engine, f"{size} bytes came, expected {engine.size}")
            if (found := sha.hexdigest()) != engine.sha256.hex:
                raise _other(engine, f"what came is sha256:{found}")
            disk.sync_file(handle, path)
        finally:
            os.close(handle)
        files.write_new(staged / MANIFEST, manifest)

    def borrow(self, staged: Path, manifest: bytes) -> None:
        """Have the engine that is here in a staged folder, too."""
        _link(self.path, staged / ENGINE)
        files.write_new(staged / MANIFEST, manifest)

    def put(self, staged: Path, *, keep_previous: bool) -> None:
        """Have a staged engine here; the one before it, if it is kept, as `previous`."""
        if keep_previous and self.path.is_file():
            for now, then in (
                (self.path, self.previous),
                (self.manifest, manifest_of(self.previous)),
            ):
                if now.is_file():
                    spare = staged / f"previous-{then.name}"
                    _link(now, spare)
                    disk.rename(spare, then)
        # Whoever reads between these finds that of the engine among the two manifests.
        following = next_manifest(self.path)
        disk.rename(staged / MANIFEST, following)
        files.sync_folder(self._folder)
        disk.rename(staged / ENGINE, self.path)
        disk.rename(following, self.manifest)
        files.sync_name(self.path)

    def put_manifest(self, staged: Path, data: bytes) -> None:
        """Have the right manifest beside the engine, where it is another or none."""
        if not self.manifest.is_file() or self.manifest.read_bytes() != data:
            files.replace(self.manifest, data, staged)
        with contextlib.suppress(FileNotFoundError):  # of a pull that was killed
            disk.unlink(next_manifest(self.path))

    def fall_back(self) -> bool:
        """Have the engine before this one here again; False where there is none."""
        with self.alone(lambda _: None), self.staged() as staged:
            if not self.previous.is_file():
                return False
            _link(self.previous, staged / ENGINE)
            _link(manifest_of(self.previous), staged / MANIFEST)
            self.put(staged, keep_previous=False)
            return True

    def remembered(self) -> Remembered:
        """What was pulled here last; Untrusted where that cannot be read."""
        try:
            data = self._remembered.read_bytes()
        except FileNotFoundError:
            return Remembered()
        return Remembered.from_bytes(data, self._remembered)

    def remember(self, staged: Path, what: Remembered) -> None:
        data = what.to_bytes()
        if self._remembered.is_file() and self._remembered.read_bytes() == data:
            return
        # It may be on another disk than the engine.
        same = self._remembered.parent == self._folder
        files.replace(self._remembered, data, staged if same else self._remembered.parent)

    @property
    def forgetting(self) -> str:
        """How to have nothing remembered, on purpose."""
        return f"if that is meant, remove '{self._remembered}' and pull again"


def _other(engine: StoredFile, what: str) -> StoreCorrupt:
    return StoreCorrupt(
        f"what should be the engine {engine.sha256} is another: {what}",
        hint="nothing of it was loaded, and what was there before is there still",
    )


def _is(path: Path, engine: StoredFile) -> bool:
    try:
        return path.stat().st_size == engine.size and digest_file(path) == engine.sha256
    except FileNotFoundError:
        return False


def _link(path: Path, to: Path) -> None:
    """One more name for a file, or where the file system has none, a copy."""
    try:
        disk.link(path, to)
    except OSError:
        files.copy(path, to)
        files.sync_file(to)
