"""Timing caches of TensorRT 8 and 10: which are used, which are not, and what is shared.

The library is one that behaves as was seen of the real one: it logs what is wrong, says True, and
goes on; and complains of caches that it does use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from engineforge.backends.timing_cache import Rejected, TimingCache
from engineforge.digest import digest_bytes
from engineforge.store.timings import Timings

MYELIN = (
    "1: [myelinCache.h::deserializeFromBuffer::52] Error Code 1: Myelin (Myelin error from "
    "unknown graph)"
)
UNUSED = "The timing cache will not be used!"
OTHER_GPU = (
    "The UUID in incoming ITimingCache is different from current device. Set ignoreMimatch to true "
    "if you want to use it"
)
OTHER_VERSION = "The incoming ITimingCache is built from a different TensorRT version."
GARBAGE = "1: [stdArchiveReader.cpp::StdArchiveReader::32] Error Code 1: Magic tag does not match"


def blob(timings: Mapping[str, int], *, gpu: str = "GPU-1", version: str = "8.6.0") -> bytes:
    """A timing cache as this library serializes it."""
    return json.dumps({"gpu": gpu, "version": version, "timings": timings}).encode()


def timings(data: bytes) -> dict[str, int]:
    return dict(json.loads(data)["timings"])


class Cache:
    """An ITimingCache: of entries that both have, `combine` keeps its own."""

    def __init__(self, library: Library, timings: Mapping[str, int]) -> None:
        self._library, self.timings = library, dict(timings)

    def serialize(self) -> memoryview | None:
        return memoryview(blob(self.timings)) if self._library.serializes else None

    def combine(self, other: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if self._library.refuses_to_combine:
            self._library.logger.errors.append("no common ground")
            return False
        self.timings = {**other.timings, **self.timings}
        if self._library.has_no_myelin:
            self._library.logger.errors.append(MYELIN)
        return not self._library.has_no_myelin

    def queryKeys(self) -> list[str]:  # noqa: N802 - TensorRT's name
        return list(self.timings)


class Library:
    """An IBuilderConfig and the logger beside it. `at` is the call that looks into a cache."""

    def __init__(self, *, at: str = "create", version: str = "8.6.0", sets: bool = True) -> None:
        self.logger = SimpleNamespace(errors=[])
        self.serializes, self.refuses_to_combine = True, False
        self.has_no_myelin = False
        self._at, self._version, self._sets = at, version, sets
        self._attached: Cache | None = None
        self._unread: dict[int, Sequence[str]] = {}

    @property
    def trt(self) -> ModuleType:
        return cast(ModuleType, SimpleNamespace(__name__="tensorrt", __version__=self._version))

    def create_timing_cache(self, data: bytes) -> Cache:
        found, said = self._read(data)
        made = Cache(self, found)
        if self._at == "create":
            self.logger.errors += said
        else:
            self._unread[id(made)] = said
        return made

    def _read(self, data: bytes) -> tuple[Mapping[str, int], Sequence[str]]:
        if not data:
            return {}, []
        try:
            told = json.loads(data)
        except ValueError:
            return {}, [GARBAGE, UNUSED]
        if told["version"] != "8.6.0":
            return {}, [OTHER_VERSION, UNUSED]
        if told["gpu"] != "GPU-1":
            return {}, [OTHER_GPU, UNUSED]
        return told["timings"], [MYELIN, UNUSED]

    def set_timing_cache(self, cache: Cache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.logger.errors += self._unread.pop(id(cache), [])
        if self._sets:
            self._attached = cache
        return self._sets

    def get_timing_cache(self) -> Cache | None:
        return self._attached

    def timed(self, **timings: int) -> None:
        """What a build adds that times these tactics, unless it knows them."""
        assert self._attached is not None
        self._attached.timings = {**timings, **self._attached.timings}

    def cache(self, data: bytes | None = b"") -> TimingCache:
        made = TimingCache(self.trt, self, self.logger)
        if data is not None:
            assert made.attach(data) is None
        return made


@pytest.fixture
def shared(tmp_path: Path) -> Timings:
    (tmp_path / "staging").mkdir()
    return Timings(tmp_path, "h200")


def test_a_build_begins_with_what_is_known() -> None:
    cache = Library().cache(blob({"conv": 7}))
    assert timings(cache.taken_out()) == {"conv": 7}
    assert cache.read_bytes == len(blob({"conv": 7}))


def test_it_is_known_which_timings_a_build_began_with() -> None:
    assert Library().cache(blob({"conv": 7})).read_sha256 == digest_bytes(blob({"conv": 7}))
    assert Library().cache().read_sha256 is None


def test_timings_that_were_rejected_are_not_what_a_build_began_with() -> None:
    cache = Library().cache(None)
    cache.attach(blob({"conv": 7}, gpu="GPU-2"))
    assert cache.read_sha256 is None


def test_nothing_known_is_a_cold_build_and_no_rejection() -> None:
    cache = Library().cache()
    assert timings(cache.taken_out()) == {}
    assert cache.read_bytes == 0


@pytest.mark.parametrize("at", ["create", "set"])
def test_errors_over_a_cache_that_is_used_are_taken_back_without_a_note(at: str) -> None:
    library = Library(at=at)
    cache = library.cache(blob({"conv": 7}))
    assert library.logger.errors == []
    assert cache.notes == []


def test_errors_from_before_stay_errors() -> None:
    library = Library()
    library.logger.errors.append("the model is bad")
    library.cache(blob({"conv": 7}))
    assert library.logger.errors == ["the model is bad"]


@pytest.mark.parametrize("at", ["create", "set"])
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (blob({"conv": 7}, gpu="GPU-2"), OTHER_GPU),
        (blob({"conv": 7}, version="8.6.1"), OTHER_VERSION),
        (b"garbage", GARBAGE),
        (blob({"conv": 7})[:-5], GARBAGE),
    ],
)
def test_a_cache_that_is_not_used_is_rejected_in_the_words_of_tensorrt(
    at: str, data: bytes, why: str
) -> None:
    library = Library(at=at)
    cache = library.cache(None)
    assert cache.attach(data) == Rejected(why)
    assert cache.notes == [why]
    assert library.logger.errors == [], "the build goes on"


@pytest.mark.parametrize("at", ["create", "set"])
def test_after_a_rejection_the_build_is_cold_and_keeps_what_it_finds_out(at: str) -> None:
    library = Library(at=at)
    cache = library.cache(None)
    cache.attach(b"garbage")
    assert cache.read_bytes == 0
    library.timed(conv=9)
    assert timings(cache.taken_out()) == {"conv": 9}


def test_a_library_that_takes_no_cache_at_all_says_so_once() -> None:
    cache = Library(sets=False).cache(None)
    assert cache.attach(blob({"conv": 7})) == Rejected("TensorRT refused it without a word")
    assert cache.taken_out() == b""


def test_a_library_that_makes_no_cache_at_all_ends_in_a_rejection() -> None:
    class Without(Library):
        def create_timing_cache(self, data: bytes) -> Any:  # noqa: ANN401
            self.logger.errors.append("no device")

    cache = Without().cache(None)
    assert cache.attach(blob({"conv": 7})) == Rejected("no device")


def test_version_8_does_not_tell_what_a_cache_holds() -> None:
    assert Library(version="8.6.0").cache(blob({"conv": 7})).keys() is None


def test_version_10_tells_how_much_a_cache_holds() -> None:
    library = Library(version="10.13.3.9")
    cache = library.cache(blob({"conv": 7, "pool": 1}))
    assert cache.keys() == 2
    library.timed(gemm=3)
    assert cache.keys() == 3


def test_the_first_build_begins_the_shared_cache(shared: Timings) -> None:
    library = Library()
    cache = library.cache()
    library.timed(conv=7)
    assert cache.merge_into(shared) == "merged"
    assert timings(shared.read() or b"") == {"conv": 7}


def test_what_is_shared_already_is_kept(shared: Timings) -> None:
    shared.write(blob({"pool": 1}))
    library = Library()
    cache = library.cache()
    library.timed(conv=7)
    assert cache.merge_into(shared) == "merged"
    assert timings(shared.read() or b"") == {"conv": 7, "pool": 1}


def test_of_two_builds_at_once_both_timings_are_kept(shared: Timings) -> None:
    both = [Library(), Library()]
    caches = [library.cache() for library in both]
    both[0].timed(conv=7)
    both[1].timed(pool=1)
    assert [cache.merge_into(shared) for cache in caches] == ["merged", "merged"]
    assert timings(shared.read() or b"") == {"conv": 7, "pool": 1}


def test_a_merge_leaves_no_errors_of_the_build(shared: Timings) -> None:
    shared.write(blob({"pool": 1}))
    library = Library()
    library.cache().merge_into(shared)
    assert library.logger.errors == []


def test_a_broken_file_is_set_aside_and_begun_anew(shared: Timings, tmp_path: Path) -> None:
    shared.write(blob({"pool": 1}))
    shared.path.write_bytes(shared.path.read_bytes()[:-1])
    library = Library()
    cache = library.cache()
    library.timed(conv=7)
    said = cache.merge_into(shared)
    assert said == "the one there was set aside: its bytes are not those that were written"
    assert timings(shared.read() or b"") == {"conv": 7}
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


def test_one_that_tensorrt_rejects_is_set_aside_and_begun_anew(
    shared: Timings, tmp_path: Path
) -> None:
    shared.write(blob({"pool": 1}, version="8.6.1"))
    library = Library()
    cache = library.cache()
    library.timed(conv=7)
    assert cache.merge_into(shared) == f"the one there was set aside: {OTHER_VERSION}"
    assert timings(shared.read() or b"") == {"conv": 7}
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


def test_where_the_two_cannot_be_combined_the_shared_one_stays(shared: Timings) -> None:
    shared.write(blob({"pool": 1}))
    library = Library()
    library.refuses_to_combine = True
    cache = library.cache()
    said = cache.merge_into(shared)
    assert said == "not merged: TensorRT refused to combine them: no common ground"
    assert timings(shared.read() or b"") == {"pool": 1}
    assert library.logger.errors == []


def test_that_myelins_part_is_empty_keeps_no_tactic_from_the_shared_one(shared: Timings) -> None:
    # 8.6 says "no" to that, and has combined all the rest: seen on an H200, by the sizes.
    shared.write(blob({"pool": 1}))
    library = Library()
    library.has_no_myelin = True
    cache = library.cache()
    library.timed(conv=7)
    assert cache.merge_into(shared) == "merged"
    assert timings(shared.read() or b"") == {"conv": 7, "pool": 1}
    assert library.logger.errors == []


@pytest.mark.parametrize("there", [None, blob({"pool": 1})])
def test_nothing_known_is_not_shared(shared: Timings, there: bytes | None) -> None:
    if there:
        shared.write(there)
    library = Library(sets=False)
    cache = library.cache(None)
    cache.attach(b"")
    assert cache.merge_into(shared) == "not merged: TensorRT keeps no timings"
    assert shared.read() == there


def test_what_tensorrt_does_not_serialize_is_not_shared(shared: Timings) -> None:
    shared.write(blob({"pool": 1}))
    library = Library()
    library.serializes = False
    assert library.cache().merge_into(shared) == "not merged: TensorRT serialized nothing"
    assert timings(shared.read() or b"") == {"pool": 1}
