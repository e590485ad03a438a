"""Timing caches of classic TensorRT: attached, judged, taken out again, and merged into the shared
one.

TensorRT takes a cache of another device or version, or garbage, without an error that could be
caught: it logs, and goes on without. So its log is read, and never `ignore_mismatch` set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from engineforge.backends.library import api
from engineforge.digest import Digest, digest_bytes
from engineforge.store.timings import BadTimings, Timings

# What 8.6 to 11 log of a cache that they do not use. 8.6 also says "Myelin error from unknown
# graph" and "will not be used" of caches whose convolution tactics it does use: seen, by the times.
_REJECTED = re.compile(
    "UUID in incoming|different TensorRT version|header mismatch|[Mm]agic tag|"
    "different from current|kEXPECTED_MAGIC_TAG|[Dd]eserializ|corrupt|out of bound|[Vv]erification"
)
_WITHOUT = ("Myelin", "will not be used")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A cache that TensorRT would not use, in its own words."""

    why: str


def _is_usual(line: str) -> bool:
    return any(each in line for each in _WITHOUT)


def _rejection(said: list[str]) -> str | None:
    """The line by which TensorRT says that it does not use a cache, if there is one."""
    lines = [line for line in said if not _is_usual(line)]
    return next((line for line in lines if _REJECTED.search(line)), None)


class TimingCache:
    """The timing cache of one build. `notes` are what TensorRT said of caches: its errors while it
    loads one are no errors of the build. Of what it begins with, `read_bytes` and `read_sha256`
    tell (None: with nothing)."""

    def __init__(self, trt: ModuleType, config: Any, logger: Any) -> None:  # noqa: ANN401
        self._trt = trt
        self._config, self._logger = config, logger
        self.notes: list[str] = []
        self.read_bytes = 0
        self.read_sha256: Digest | None = None

    def attach(self, blob: bytes) -> Rejected | None:
        """Build with what is known; with nothing known, where that is rejected."""
        made = self._loaded(blob)
        if isinstance(made, Rejected):
            if blob:
                self.attach(b"")
            return made
        before = len(self._logger.errors)
        done = self._config.set_timing_cache(made, False)
        said = self._taken_back(before)
        why = _rejection(said)
        if not done or why is not None:
            if blob:
                self.attach(b"")
            return Rejected(why or "TensorRT refused it without a word")
        self.read_bytes = len(blob)
        self.read_sha256 = digest_bytes(blob) if blob else None
        return None

    def _loaded(self, blob: bytes) -> Any:  # noqa: ANN401 - TensorRT's ITimingCache, or Rejected
        before = len(self._logger.errors)
        made = self._config.create_timing_cache(blob)
        said = self._taken_back(before)
        why = _rejection(said)
        if made is None or why is not None:
            return Rejected(why or next(iter(said), "TensorRT made nothing of it"))
        return made

    def _taken_back(self, before: int) -> list[str]:
        """What was logged as errors since, and is none."""
        said: list[str] = self._logger.errors[before:]
        del self._logger.errors[before:]
        self.notes += [line for line in said if not _is_usual(line)]
        return said

    def taken_out(self) -> bytes:
        """What the build knows of timings now; nothing where TensorRT keeps none."""
        timing_cache = self._config.get_timing_cache()
        memory = timing_cache.serialize() if timing_cache is not None else None
        return b"" if memory is None else bytes(memory)

    def keys(self) -> int | None:
        """How many timings it holds, where the API tells (from 10 on)."""
        timing_cache = self._config.get_timing_cache()
        if timing_cache is None or not api(self._trt).tells_timings:
            return None
        return len(timing_cache.queryKeys())

    def merge_into(self, shared: Timings) -> str:
        """Add what the build found out to a shared cache, under its lock; says what came of it."""
        try:
            current = shared.read()
        except BadTimings as error:
            current, said = None, f"the one there was set aside: {error}"
            shared.set_aside()
        else:
            said = "merged"
        timing_cache = self._config.get_timing_cache()
        if timing_cache is None:
            return "not merged: TensorRT keeps no timings"
        if current:
            other = self._loaded(current)
            if isinstance(other, Rejected):
                shared.set_aside()
                said = f"the one there was set aside: {other.why}"
            else:
                before = len(self._logger.errors)
                done = timing_cache.combine(other, False)
                lines = self._taken_back(before)
                # 8.6 says no where Myelin's part of one is empty, and has added all the rest: seen.
                if not done and (not lines or not all(map(_is_usual, lines))):
                    why = next(iter(lines), "without a word")
                    return f"not merged: TensorRT refused to combine them: {why}"
        blob = self.taken_out()
        if not blob:
            return "not merged: TensorRT serialized nothing"
        shared.write(blob)
        return said
