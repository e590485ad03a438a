"""The index: never believed where it may be wrong, and never missed where it is gone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engineforge.digest import digest_bytes
from engineforge.store.index import Index, PlannedSpec
from engineforge.store.stats import Stats
from tests.conftest import Forge
from tests.store.conftest import Mount

_HEADER = b"engineforge index\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "cache" / "staging").mkdir(parents=True)
    return tmp_path / "cache"


def _save(index: Index, root: Path) -> None:
    index.save(root / "staging")


def _filled(root: Path) -> bytes:
    index = Index(root)
    (root.parent / "source").write_text("text")
    index.digest(root.parent / "source")
    index.know_history("net/fp32@ada", "a" * 64, 1.5)
    index.know_planned("f", PlannedSpec(["fp32"], ["ada"], ["d" * 64], [""], [["engine"]], "host"))
    _save(index, root)
    return (root / "index").read_bytes()


def _knows_nothing(root: Path) -> bool:
    index = Index(root)
    return index.history("net/fp32@ada") is None and index.planned("f") is None


def test_what_is_saved_is_known_to_the_next(root: Path) -> None:
    _filled(root)
    index = Index(root)
    index.digest(root.parent / "source")
    assert index.files_hashed == 0
    assert index.planned("f") == PlannedSpec(
        ["fp32"], ["ada"], ["d" * 64], [""], [["engine"]], "host"
    )


def test_truncated_at_any_byte_it_is_dropped(root: Path) -> None:
    data = _filled(root)
    believed = []
    for end in range(len(data)):
        (root / "index").write_bytes(data[:end])
        if not _knows_nothing(root):
            believed.append(end)
    assert believed == []


def test_with_any_bit_flipped_it_is_dropped(root: Path) -> None:
    data = _filled(root)

    @settings(deadline=None, database=None)
    @given(bit=st.integers(0, len(data) * 8 - 1))
    def flip(bit: int) -> None:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (root / "index").write_bytes(flipped)
        assert _knows_nothing(root)

    flip()


def _of(value: object) -> bytes:
    body = msgspec.msgpack.encode(value)
    return _HEADER + zlib.crc32(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SQLite format 3\0" + bytes(100),
        _of([2, {}, {}, {}, {}, {}, {}]),
        _of([1, {}, {}, {"f": [["fp32"]]}, {}, {}, {"net/fp32@ada": "soon"}]),
        _of({"format": 1}),
        _of(None),
        _of("text"),
    ],
)
def test_of_another_format_it_is_dropped(root: Path, data: bytes) -> None:
    (root / "index").write_bytes(data)
    assert _knows_nothing(root)
    _filled(root)
    assert not _knows_nothing(root)


def test_a_head_that_claims_gigabytes_makes_no_room_for_them(root: Path) -> None:
    (root / "index").write_bytes(_HEADER + b"\xff" * 12)
    tracemalloc.start()
    assert _knows_nothing(root)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_two_that_save_at_once_lose_nothing(root: Path) -> None:
    code = """
import sys
from pathlib import Path
from engineforge.store.index import Index
root, name = Path(sys.argv[1]), sys.argv[2]
for number in range(20):
    index = Index(root)
    index.know_history(f"{name}-{number}", "a" * 64, float(number))
    index.save(root / "staging")
"""
    running = [subprocess.Popen([sys.executable, "-c", code, str(root), n]) for n in "abcd"]
    assert [each.wait() for each in running] == [0] * 4
    index = Index(root)
    lost = [f"{n}-{i}" for n in "abcd" for i in range(20) if index.history(f"{n}-{i}") is None]
    assert lost == []
    assert [each.name for each in (root / "staging").iterdir()] == ["locks"]


def test_a_later_save_keeps_what_another_saved_meanwhile(root: Path) -> None:
    first, second = Index(root), Index(root)
    first.know_history("first", "a" * 64, 1.0)
    second.know_history("second", "b" * 64, 2.0)
    _save(first, root)
    _save(second, root)
    _save(first, root)
    loaded = Index(root)
    assert loaded.history("first") is not None
    assert loaded.history("second") is not None


def _in_place(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _by_rename(path: Path, data: bytes) -> None:
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


def _with_its_time_put_back(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    os.utime(path, ns=(1_000_000_000, 1_000_000_000))


def _patched(path: Path, data: bytes) -> None:
    with path.open("r+b") as file:
        file.write(data)


@pytest.mark.parametrize("rewrite", [_in_place, _by_rename, _with_its_time_put_back, _patched])
@pytest.mark.parametrize("clock", ["fine", "coarse"])
def test_a_rewrite_of_the_same_size_is_never_missed(
    root: Path, mount: Mount, rewrite: Callable[[Path, bytes], None], clock: str
) -> None:
    if clock == "coarse":
        # ramfs has only the kernel's ticks, as ext4, xfs and tmpfs had before Linux 6.13.
        root = mount("size=1m", "ramfs") / "cache"
        (root / "staging").mkdir(parents=True)
    # As on a disk of such a kernel: of ramfs itself nothing is remembered, for another reason.
    stats = Stats(root, mounts="1 0 8:1 / / rw - ext4 /dev/sda1 rw\n")
    path, index, missed = root.parent / "source", Index(root, stats), []
    path.write_bytes(b"start...")
    for number in range(150):
        data = number.to_bytes(8, "big")
        rewrite(path, data)
        if index.digest(path) != digest_bytes(data):
            missed.append(number)
        if number % 50 == 0:
            _save(index, root)
            index = Index(root, stats)
    assert missed == []


def test_a_rewrite_while_it_is_hashed_is_not_missed_afterwards(root: Path) -> None:
    path, index = root.parent / "source", Index(root)
    path.write_bytes(bytes(8))
    for round_ in range(10):
        stop, last = threading.Event(), [b""]

        def write(start: int, stop: threading.Event, last: list[bytes]) -> None:
            number = start
            while not stop.is_set():
                number += 1
                last[0] = number.to_bytes(8, "big")
                path.write_bytes(last[0])

        writer = threading.Thread(target=write, args=(round_ << 32, stop, last), daemon=True)
        writer.start()
        for _ in range(3):
            # It may be refused: what changes all the time has no digest.
            with contextlib.suppress(OSError):
                index.digest(path)
        stop.set()
        writer.join()
        assert index.digest(path) == digest_bytes(last[0])


def test_touch_with_the_time_of_another_file_is_seen(root: Path) -> None:
    path, like, index = root.parent / "source", root.parent / "like", Index(root)
    path.write_bytes(b"one")
    like.write_bytes(b"")
    subprocess.run(["touch", "-r", path, like], check=True)
    index.digest(path)
    path.write_bytes(b"two")
    subprocess.run(["touch", "-r", like, path], check=True)
    assert path.stat().st_mtime_ns == like.stat().st_mtime_ns
    assert index.digest(path) == digest_bytes(b"two")


def test_a_young_file_of_another_file_system_is_not_remembered(root: Path, mount: Mount) -> None:
    path, index = mount("size=1m") / "source", Index(root)
    path.write_bytes(b"one")
    index.digest(path)
    index.digest(path)
    assert index.files_hashed == 2


def test_a_file_of_the_cache_s_own_file_system_is_remembered_at_once(root: Path) -> None:
    path, index = root.parent / "source", Index(root)
    path.write_bytes(b"one")
    index.digest(path)
    index.digest(path)
    assert index.files_hashed == 1


def test_telling_the_time_leaves_no_file_behind(root: Path) -> None:
    (root.parent / "source").write_bytes(b"one")
    Index(root).digest(root.parent / "source")
    assert list((root / "staging").iterdir()) == []


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def _of_a_later_version(path: Path) -> None:
    path.write_bytes(_of([99, "all", "is", "other"]))


def _deleted(path: Path) -> None:
    path.unlink()


def _a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _a_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    "spoil",
    [_truncated, _of_a_later_version, _a_folder, _a_loop],
)
def test_without_a_sound_index_nothing_is_rebuilt_and_nothing_said(
    built: Forge, spoil: Callable[[Path], None]
) -> None:
    spoil(built.cache / "index")
    result = built.build()
    assert result.code == 0
    assert result.outcomes() == {"fp32@ada": "reused"}
    assert result.err == ""
    assert result.json["faults"] == []
    assert [each.name for each in (built.cache / "staging").iterdir()] == ["locks"]


@pytest.mark.parametrize("spoil", [_flipped, _deleted])
def test_a_dropped_index_is_written_anew(built: Forge, spoil: Callable[[Path], None]) -> None:
    spoil(built.cache / "index")
    built.build()
    assert built.build().json["effort"]["files_hashed"] == 0


def test_a_file_that_never_stands_still_is_said_to_change(root: Path) -> None:
    path, index, stop = root.parent / "source", Index(root), threading.Event()
    path.write_bytes(bytes(64 << 20))

    def grow() -> None:
        with path.open("ab") as file:
            while not stop.is_set():
                file.write(b"more")
                file.flush()

    writer = threading.Thread(target=grow, daemon=True)
    writer.start()
    try:
        with pytest.raises(OSError, match="it changes while it is read"):
            index.digest(path)
    finally:
        stop.set()
        writer.join()
