"""What may become of files, as a state machine: written, mapped, renamed, linked, cut, dated."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from engineforge.store.index import Index
from engineforge.store.stats import Stats

SIZE = 2 * mmap.PAGESIZE
TICK_SECONDS = 0.012
"""Longer than a tick of any kernel."""
YOUNG_NS = 2_000_000_000


def filled(seed: int) -> bytes:
    return seed.to_bytes(4, "big") * (SIZE // 4)


def true_digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


class Files(RuleBasedStateMachine):
    """Three names in a folder, what may become of them, and an index that is asked each time."""

    folder = Path()
    root = Path()

    def __init__(self) -> None:
        super().__init__()
        self.here = Path(tempfile.mkdtemp(dir=self.folder))
        self.names = [self.here / each for each in "abc"]
        self.seed = 0
        self.maps: list[mmap.mmap] = []
        self.back = 0
        for path in self.names:
            path.write_bytes(self._bytes())
        self.index = self._loaded()

    def _loaded(self) -> Index:
        # As if all were two seconds older than it is, or the clock had been put back since.
        return Index(self.root, Stats(self.root, now=lambda: time.time_ns() + YOUNG_NS - self.back))

    def _bytes(self) -> bytes:
        self.seed += 1
        return filled(self.seed)

    def teardown(self) -> None:
        for each in self.maps:
            each.close()
        shutil.rmtree(self.here)

    def _agree(self) -> None:
        for pause in (0.0, TICK_SECONDS, 0.0):  # at once; when it is settled; as remembered
            time.sleep(pause)
            for path in self.names:
                assert self.index.hashed(path)[0] == true_digest(path), path.name

    @rule(which=st.integers(0, 2), at=st.integers(0, SIZE - 4))
    def patch(self, which: int, at: int) -> None:
        with self.names[which].open("r+b", buffering=0) as file:
            file.seek(at)
            file.write(self._bytes()[:4])
        self._agree()

    @rule(which=st.integers(0, 2))
    def rewrite(self, which: int) -> None:
        self.names[which].write_bytes(self._bytes())
        self._agree()

    @rule(which=st.integers(0, 2), age=st.sampled_from([0, 1, 1_000_000_000]))
    def rewrite_with_a_fixed_time(self, which: int, age: int) -> None:
        self.names[which].write_bytes(self._bytes())
        os.utime(self.names[which], ns=(age, age))
        self._agree()

    @rule(which=st.integers(0, 2), like=st.integers(0, 2))
    def rewrite_with_the_time_of_another(self, which: int, like: int) -> None:
        self.names[which].write_bytes(self._bytes())
        subprocess.run(["touch", "-r", self.names[like], self.names[which]], check=True)
        self._agree()

    @rule(which=st.integers(0, 2), keep=st.booleans())
    def rename_over(self, which: int, keep: bool) -> None:
        new, before = self.here / "new", self.names[which].stat()
        new.write_bytes(self._bytes())
        if keep:
            os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
        new.replace(self.names[which])
        self._agree()

    @rule()
    def swap(self) -> None:
        first, second, aside = self.names[0], self.names[1], self.here / "aside"
        first.rename(aside)
        second.rename(first)
        aside.rename(second)
        self._agree()

    @rule(which=st.integers(0, 2), to=st.integers(0, 2))
    def link(self, which: int, to: int) -> None:
        if which != to:
            self.names[which].unlink()
            self.names[which].hardlink_to(self.names[to])
        self._agree()

    @rule(which=st.integers(0, 2), to=st.integers(0, 2))
    def copy_with_its_times(self, which: int, to: int) -> None:
        if not self.names[which].samefile(self.names[to]):
            shutil.copy2(self.names[to], self.names[which])
        self._agree()

    @rule(which=st.integers(0, 2))
    def delete_and_create_with_the_same_inode(self, which: int) -> None:
        path, before = self.names[which], self.names[which].stat()
        for _ in range(20):
            path.unlink()
            path.write_bytes(self._bytes())
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            if path.stat().st_ino == before.st_ino:
                break
        self._agree()

    @rule(which=st.integers(0, 2), to=st.integers(0, SIZE))
    def cut_and_lengthen(self, which: int, to: int) -> None:
        os.truncate(self.names[which], to)
        os.truncate(self.names[which], SIZE)
        self._agree()

    @rule(which=st.integers(0, 2), looked_at=st.booleans())
    def map(self, which: int, looked_at: bool) -> None:
        with self.names[which].open("r+b") as file:
            self.maps.append(mmap.mmap(file.fileno(), SIZE))
        if looked_at:
            assert len(self.maps[-1][:]) == SIZE
        self._agree()

    @rule(which=st.integers(0, 9), at=st.integers(0, SIZE - 4), then=st.sampled_from(["", "msync"]))
    def store(self, which: int, at: int, then: str) -> None:
        if self.maps:
            mapped = self.maps[which % len(self.maps)]
            mapped[at : at + 4] = self._bytes()[:4]
            if then == "msync":
                mapped.flush()
        self._agree()

    @rule(which=st.integers(0, 9), store=st.booleans())
    def unmap(self, which: int, store: bool) -> None:
        if self.maps:
            mapped = self.maps.pop(which % len(self.maps))
            if store:
                mapped[:4] = self._bytes()[:4]
            mapped.close()
        self._agree()

    @rule()
    def save_and_load(self) -> None:
        self.index.save(self.root / "staging")
        self.index = self._loaded()
        self._agree()

    @rule(seconds=st.integers(0, 3_600))
    def put_the_clock_back(self, seconds: int) -> None:
        self.back = seconds * 1_000_000_000
        self._agree()
