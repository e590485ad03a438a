"""Specs that were found to be up to date: of each, the files that say so with their stats, in
blocks that are compared with the disk as a whole. Imports next to nothing: this is the no-op."""

from __future__ import annotations

import os
from array import array
from itertools import chain, islice
from operator import attrgetter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

A_BLOCK = 256
"""Specs of a block: so many are read, compared and written again at once."""

STAT = 5
"""Numbers of a stat: device, inode, size, mtime_ns, ctime_ns (`store/stats.py`)."""

PLANS, ENTRIES = "plans-v1", "entries-v1"
"""Where plan records and entries are in a store: below it, by the first two digits of a key."""

KEY = 32
_NOT_BUILT = bytes(KEY)
_fields_of_stat = attrgetter("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")


class Variant:
    """One variant of such a spec, its keys as bytes. `files` are those of its engine's entry; or it
    was never built, and `unfit` says why its host cannot, and `stages` what would run."""

    __slots__ = ("engine", "files", "name", "plan", "stages", "target", "unfit")

    def __init__(
        self,
        name: str,
        target: str,
        plan: bytes,
        *,
        engine: bytes | None = None,
        files: tuple[str, ...] = (),
        unfit: str = "",
        stages: tuple[str, ...] = (),
    ) -> None:
        self.name, self.target, self.plan, self.engine = name, target, plan, engine
        self.files, self.unfit, self.stages = files, unfit, stages


class Known:
    """One spec. `spec` is its path below the folder of specs; `depends` are the other files that it
    depends on, below that folder (or absolute), and `asks` is what has to be asked again to know
    which they are, where not the spec alone says it. `stats` has STAT numbers for each file: the
    spec, what it depends on, then for each variant that is built its plan record and its files."""

    __slots__ = ("asks", "depends", "spec", "stats", "variants")

    def __init__(
        self,
        spec: str,
        asks: str,
        depends: Sequence[str],
        variants: Sequence[Variant],
        stats: array[int],
    ) -> None:
        self.spec, self.asks, self.depends = spec, asks, depends
        self.variants, self.stats = variants, stats

    @property
    def can_be_written(self) -> bool:
        """Whether its names are text that a block can hold."""
        names = [self.spec, self.asks, *self.depends]
        for each in self.variants:
            names += [each.name, each.target, each.unfit, *each.stages, *each.files]
        try:
            text = "\n".join(names)
            text.encode()
        except UnicodeEncodeError:
            return False
        return text.count("\n") == len(names) - 1 and "\t" not in text and "\0" not in text


class Block:
    """Some specs, as columns: nothing is made of a variant that nobody asks for."""

    def __init__(self, data: bytes) -> None:
        fields, at = [], 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            fields.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        specs, asks, counts, depends, labels, ofs, kinds, self.keys, self._stats = fields
        self.specs, self.asks = _lines(specs), asks.decode().split("\n")
        self._depends, self.labels = _lines(depends), _lines(labels)
        numbers = array("I", counts)
        self._of_spec, self._variants_of = numbers[::2], numbers[1::2]
        self._of = array("I", ofs)
        self._kinds = [tuple(each.split("\t")) for each in _lines(kinds)]
        self.unfit = not all(each[0] for each in self._kinds)

    @staticmethod
    def of(known: Sequence[Known]) -> bytes:
        """The bytes of a block: text one a line, numbers as the machine has them."""
        kinds: dict[str, int] = {}
        ofs, counts, stats = array("I"), array("I"), array("q")
        depends: list[str] = []
        labels: list[str] = []
        keys: list[bytes] = []
        for each in known:
            counts.extend((len(each.depends), len(each.variants)))
            depends += each.depends
            stats.extend(each.stats)
            for variant in each.variants:
                labels.append(f"{variant.name}\t{variant.target}")
                keys += (variant.plan, variant.engine or _NOT_BUILT)
                kind = ("", variant.unfit, *variant.stages)
                found = "\t".join(kind if variant.engine is None else variant.files)
                ofs.append(kinds.setdefault(found, len(kinds)))
        fields = (
            "\n".join(each.spec for each in known).encode(),
            "\n".join(each.asks for each in known).encode(),
            counts.tobytes(),
            "\n".join(depends).encode(),
            "\n".join(labels).encode(),
            ofs.tobytes(),
            "\n".join(kinds).encode(),
            b"".join(keys),
            stats.tobytes(),
        )
        return b"".join(len(each).to_bytes(4, "big") + each for each in fields)

    def all(self) -> Iterator[Known]:
        """Each spec as a value of its own."""
        depends, first, at = iter(self._depends), 0, 0
        for index, (spec, asks) in enumerate(zip(self.specs, self.asks, strict=True)):
            count = self._variants_of[index]
            variants = [self._variant(each) for each in range(first, first + count)]
            size = self._size(index, first)
            stats = array("q", self._stats[at : at + size] if self._stats else b"")
            yield Known(spec, asks, list(islice(depends, self._of_spec[index])), variants, stats)
            first, at = first + count, at + size

    def _variant(self, index: int) -> Variant:
        name, _, target = self.labels[index].partition("\t")
        at = 2 * KEY * index
        plan, engine = self.keys[at : at + KEY], self.keys[at + KEY : at + 2 * KEY]
        kind = self._kinds[self._of[index]]
        if engine == _NOT_BUILT:
            return Variant(name, target, plan, unfit=kind[1], stages=kind[2:])
        return Variant(name, target, plan, engine=engine, files=kind)

    def _size(self, index: int, first: int) -> int:
        """Of the stats of a spec, in bytes."""
        files = 1 + self._of_spec[index]
        for each in range(first, first + self._variants_of[index]):
            kind = self._kinds[self._of[each]]
            files += 1 + len(kind) if kind[0] else 0
        return 8 * STAT * files

    def forget_files(self) -> None:
        """What they were is not needed once they were compared."""
        self._stats, self._depends = b"", []

    def labelled(self) -> Iterator[str]:
        """The label of each variant: spec/variant@target."""
        labels = iter(self.labels)
        for spec, count in zip(self.specs, self._variants_of, strict=True):
            name = spec.rpartition(".")[0]
            for label in islice(labels, count):
                yield f"{name}/{label.replace(chr(9), '@')}"

    def engines(self) -> Iterator[str]:
        """The key of each variant's engine, in hexadecimal digits."""
        digits = self.keys.hex()
        return (digits[at + 2 * KEY : at + 4 * KEY] for at in range(0, len(digits), 4 * KEY))

    def holds(self, root: str, cache: str, still: Callable[[str], bool]) -> bool:
        """Whether every file of every spec has the stat that it had; `still` says whether what a
        spec `asks` has the answer that it had."""
        asked = all(still(each) for each in dict.fromkeys(self.asks) if each)
        paths = chain.from_iterable(self._paths(root, cache))
        return asked and _are(paths, self._stats) and self._unbuilt(cache, 0, len(self.labels))

    def which_hold(self, root: str, cache: str, still: Callable[[str], bool]) -> list[bool]:
        """The same for each spec."""
        found, first, at = [], 0, 0
        for index, paths in enumerate(self._paths(root, cache)):
            asks, size = self.asks[index], self._size(index, first)
            last = first + self._variants_of[index]
            found.append(
                (not asks or still(asks))
                and _are(paths, self._stats[at : at + size])
                and self._unbuilt(cache, first, last)
            )
            first, at = last, at + size
        return found

    def _unbuilt(self, cache: str, first: int, last: int) -> bool:
        """Whether none of those that were never built has come from elsewhere since."""
        if not self.unfit:
            return True
        for index in range(first, last):
            if not self._kinds[self._of[index]][0]:
                plan = self.keys[2 * KEY * index : 2 * KEY * index + KEY].hex()
                if os.path.lexists(f"{cache}/{PLANS}/{plan[:2]}/{plan}.json"):
                    return False
        return True

    def _paths(self, root: str, cache: str) -> Iterator[list[str]]:
        """Of each spec, its files in the order of their stats."""
        below, plans, engines = f"{root}/", f"{cache}/{PLANS}", f"{cache}/{ENTRIES}/engine"
        depends, digits, kinds, first = iter(self._depends), self.keys.hex(), self._kinds, 0
        for index, spec in enumerate(self.specs):
            paths = [below + spec]
            for each in islice(depends, self._of_spec[index]):
                paths.append(each if each[0] == "/" else below + each)
            count = self._variants_of[index]
            for variant in range(first, first + count):
                kind = kinds[self._of[variant]]
                if kind[0]:
                    at = 4 * KEY * variant
                    plan, engine = digits[at : at + 2 * KEY], digits[at + 2 * KEY : at + 4 * KEY]
                    paths.append(f"{plans}/{plan[:2]}/{plan}.json")
                    folder = f"{engines}/{engine[:2]}/{engine}/"
                    paths += [folder + name for name in kind]
            first += count
            yield paths


def _lines(data: bytes) -> list[str]:
    return data.decode().split("\n") if data else []


def _are(paths: Iterable[str], stats: bytes) -> bool:
    try:
        found = array("q", chain.from_iterable(map(_fields_of_stat, map(os.stat, paths))))
    except (OSError, OverflowError, ValueError):
        return False
    return found.tobytes() == stats
