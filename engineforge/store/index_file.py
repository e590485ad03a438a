"""The layout of the index file: a table of contents, then its parts, each with a checksum, so that
a reader takes those that it needs. What its parts mean is the business of others."""

from __future__ import annotations

import os
import sys
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = 5
_MAGIC = b"engineforge index\n"
_HEAD = len(_MAGIC) + 12
_PIECE = 1 << 20
_AS_WRITTEN_HERE = f"{FORMAT} {sys.byteorder}"


class Part:
    """Bytes of the file, or those to be written. `about` says what they are."""

    __slots__ = ("about", "at", "checksum", "new", "size")

    def __init__(self, about: str, size: int, checksum: int, at: int, new: bytes | None) -> None:
        self.about, self.size, self.checksum, self.at, self.new = about, size, checksum, at, new

    @classmethod
    def of(cls, data: bytes, about: str = "") -> Part:
        return cls(about, len(data), zlib.crc32(data), 0, data)


class Folder:
    """What is known of one folder of specs: blocks by their first spec. `reading` says by which
    rules, `targets` what the file of targets was, `registered` which record names all its plans
    (`store/projects.py`) and what that was: a name and the numbers of a stat."""

    __slots__ = ("blocks", "reading", "registered", "root", "targets")

    def __init__(self, root: str, reading: str, targets: str, registered: str) -> None:
        self.root, self.reading, self.targets = root, reading, targets
        self.registered = registered
        self.blocks: list[Part] = []


class IndexFile:
    """One state of the file, held open: what is renamed into its place meanwhile is another's."""

    def __init__(self, path: str) -> None:
        """OSError where it cannot be opened, ValueError where it is not what was written."""
        self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.fstat(self.handle)
            self.stat = (
                *(found.st_dev, found.st_ino, found.st_size),
                *(found.st_mtime_ns, found.st_ctime_ns),
            )
            self.folders: dict[str, Folder] = {}
            self.records: list[Part] = []
            self._read_table(found.st_size)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1

    def _read_table(self, size: int) -> None:
        head = os.pread(self.handle, _HEAD, 0)
        length = int.from_bytes(head[-12:-8], "big")
        if length > size:  # so much would be made room for
            raise ValueError("it is cut off")
        table = os.pread(self.handle, length, _HEAD)
        if head[: len(_MAGIC)] != _MAGIC or _head(table) != head:
            raise ValueError("it is not what was written")
        at = _HEAD + length
        lines = table.decode().split("\n")
        if lines[0] != _AS_WRITTEN_HERE:
            raise ValueError("of another format")
        folder = None
        for line in lines[1:]:
            kind, *fields = line.split("\t")
            if kind == "folder":
                folder = Folder(*fields)
                self.folders[folder.root] = folder
                continue
            about, part_size, checksum = fields
            part = Part(about, int(part_size), int(checksum), at, None)
            at += part.size
            if kind == "records":
                self.records.append(part)
            elif folder is not None:
                folder.blocks.append(part)
        if at != size:
            raise ValueError("it is cut off, or goes on")

    def read(self, part: Part) -> bytes:
        """The bytes of a part. ValueError where they are not those that were written."""
        data = b"".join(self.pieces(part))
        if len(data) != part.size or zlib.crc32(data) != part.checksum:
            raise ValueError("it is not what was written")
        return data

    def pieces(self, part: Part) -> Iterator[bytes]:
        """The bytes of a part as they are, sound or not, some at a time."""
        for at in range(0, part.size, _PIECE):
            yield os.pread(self.handle, min(_PIECE, part.size - at), part.at + at)


def written(
    folders: dict[str, Folder], records: list[Part], before: IndexFile | None
) -> Iterator[bytes]:
    """The bytes of a file with these parts: new ones, and ones of the file that was there `before`,
    which are taken over as they are, with their checksums."""
    lines, parts = [_AS_WRITTEN_HERE], []
    for each in folders.values():
        fields = ("folder", each.root, each.reading, each.targets, each.registered)
        lines.append("\t".join(fields))
        lines += (f"block\t{part.about}\t{part.size}\t{part.checksum}" for part in each.blocks)
        parts += each.blocks
    lines += (f"records\t\t{part.size}\t{part.checksum}" for part in records)
    table = "\n".join(lines).encode()
    yield _head(table) + table
    for part in (*parts, *records):
        if part.new is not None:
            yield part.new
        elif before is not None:
            yield from before.pieces(part)


def _head(table: bytes) -> bytes:
    size = len(table).to_bytes(4, "big")
    # Also of how long it is: a table that is cut off is not to be read for a shorter one.
    return (
        _MAGIC + size + zlib.crc32(table).to_bytes(4, "big") + zlib.crc32(size).to_bytes(4, "big")
    )
