"""Whatever is done to files, by whatever means: a remembered digest is that of their bytes."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from engineforge.digest import Digest, digest_value
from engineforge.store.index import Index
from engineforge.store.local import LocalStore
from engineforge.store.manifest import PlanRecord
from engineforge.store.stats import Stat, Stats, folder_stats, stat_of
from engineforge.store.trust import whole
from tests.store.conftest import Mount
from tests.store.writes import SIZE, TICK_SECONDS, YOUNG_NS, Files, filled, true_digest


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "cache" / "staging").mkdir(parents=True)
    return tmp_path / "cache"


def _overlay(mount: Mount, tmp_path: Path) -> Path:
    for each in ("lower", "upper", "work"):
        (tmp_path / each).mkdir()
    layers = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    return mount(layers, "overlay")


@pytest.fixture(params=["own", "tmpfs", "ramfs", "overlay"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, mount: Mount) -> Path:
    """Where the files are: on the file system of the cache, or on another one."""
    if request.param == "own":
        (tmp_path / "files").mkdir()
        return tmp_path / "files"
    if request.param == "overlay":
        return _overlay(mount, tmp_path)
    return mount("size=4m", str(request.param))


def test_after_any_writes_the_digest_is_that_of_the_bytes(root: Path, folder: Path) -> None:
    class Here(Files):
        pass

    Here.folder, Here.root = folder, root
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=25,
            stateful_step_count=12,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file mapped to be written to, and no longer open."""
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), SIZE)
    yield mapped
    mapped.close()


def _late(root: Path) -> Index:
    """An index to which no file is young."""
    return Index(root, Stats(root, now=lambda: time.time_ns() + YOUNG_NS))


@pytest.mark.parametrize("msync", [False, True])
def test_a_store_through_a_mapping_that_was_written_to_before_is_seen(
    root: Path, folder: Path, msync: bool
) -> None:
    path, index = folder / "source", _late(root)
    path.write_bytes(filled(1))
    with _mapped(path) as mapped:
        mapped[0] = 65
        time.sleep(TICK_SECONDS)
        index.digest(path)
        mapped[1] = 66  # no stamp: the page is the mapping's already
        if msync:
            mapped.flush()
        assert index.digest(path) == true_digest(path)
    assert index.digest(path) == true_digest(path)


def test_a_store_through_a_new_mapping_that_was_read_first_is_seen(
    root: Path, folder: Path
) -> None:
    path, index = folder / "source", _late(root)
    path.write_bytes(filled(1))
    time.sleep(TICK_SECONDS)
    index.digest(path)
    with _mapped(path) as mapped:
        mapped[1] = mapped[0] ^ 1
        assert index.digest(path) == true_digest(path)
    assert index.digest(path) == true_digest(path)


def test_on_tmpfs_nothing_is_remembered_as_its_stats_do_not_tell_of_mapped_stores(
    root: Path, mount: Mount
) -> None:
    path, index = mount("size=4m") / "source", _late(root)
    path.write_bytes(filled(1))
    index.digest(path)
    before = stat_of(path)
    with _mapped(path) as mapped:
        mapped[1] = mapped[0] ^ 1
    assert stat_of(path) == before
    assert not index.knows(path)


def test_on_an_overlay_file_system_digests_are_remembered(
    root: Path, tmp_path: Path, mount: Mount
) -> None:
    path, index = _overlay(mount, tmp_path) / "source", _late(root)
    path.write_bytes(filled(1))
    index.digest(path)
    assert index.knows(path)


def test_what_is_open_for_writing_is_not_remembered(root: Path, tmp_path: Path) -> None:
    """One write(2) stamps the file when it begins, and may last for seconds."""
    path, index = tmp_path / "source", Index(root)
    path.write_bytes(filled(1))
    with path.open("r+b"):
        index.digest(path)
        assert not index.knows(path)
    index.digest(path)
    assert index.knows(path)


@pytest.mark.slow
def test_one_long_write_in_place_is_not_taken_for_its_middle(root: Path, tmp_path: Path) -> None:
    code = """
import mmap, os, sys
size = 256 << 20
with open(sys.argv[1], "rb") as cold:
    os.posix_fadvise(cold.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    source = mmap.mmap(cold.fileno(), size, prot=mmap.PROT_READ)
    source.madvise(mmap.MADV_RANDOM)  # read page by page, while it is written
to = os.open(sys.argv[2], os.O_WRONLY)
print("now", flush=True)
os.write(to, source)
"""
    cold, path, index = tmp_path / "cold", tmp_path / "source", Index(root)
    for each, byte in ((cold, b"n"), (path, b"o")):
        with each.open("wb") as file:
            file.truncate(0)
            for _ in range(256):
                file.write(byte * (1 << 20))
            file.flush()
            os.fsync(file.fileno())
    with subprocess.Popen(
        [sys.executable, "-c", code, cold, path], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        while writer.poll() is None:
            with contextlib.suppress(OSError):
                index.digest(path)
    assert index.digest(path) == true_digest(path)


def test_a_name_that_comes_to_mean_another_file_and_back_is_not_believed(
    root: Path, tmp_path: Path
) -> None:
    one, two, name = tmp_path / "one", tmp_path / "two", tmp_path / "name"
    one.write_bytes(b"one")
    two.write_bytes(b"two")

    def point_to(file: Path) -> None:
        name.unlink(missing_ok=True)
        name.symlink_to(file)

    class Flipping(Stats):
        def tells_of_changes(self, handle: int, path: Path, stat: Stat) -> bool:
            point_to(two)
            return super().tells_of_changes(handle, path, stat)

    point_to(one)
    index = Index(root, Flipping(root))
    index.digest(name)
    point_to(one)
    assert index.digest(name) == true_digest(one)
    assert index.digest(two) == true_digest(two)


def test_whole_seconds_may_come_again_and_are_not_remembered(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(b"one")
    stat = stat_of(path)
    with path.open("rb") as file:
        stats = Stats(root)
        assert stats.tells_of_changes(file.fileno(), path, stat)
        whole_second = (*stat[:4], stat[4] // 1_000_000_000 * 1_000_000_000)
        assert not stats.tells_of_changes(file.fileno(), path, whole_second)


def test_when_the_clock_was_put_back_a_file_of_another_file_system_is_not_remembered(
    root: Path, tmp_path: Path, mount: Mount
) -> None:
    path = _overlay(mount, tmp_path) / "source"
    path.write_bytes(b"one")
    for back, remembered in ((3600, False), (-3, True)):
        now = time.time_ns() - back * 1_000_000_000
        index = Index(root, Stats(root, now=lambda now=now: now))  # type: ignore[misc]
        index.digest(path)
        assert index.knows(path) == remembered


@pytest.mark.parametrize(
    ("mounts", "remembered"),
    [
        ("{at} rw - ext4 /dev/sda1 rw", True),
        ("{at} rw shared:1 master:2 - btrfs /dev/sda1 rw", True),
        ("{at} rw - nfs4 host:/export rw", False),
        ("{at} rw - cifs //host/share rw", False),
        ("{at} rw - fuse.sshfs host:/ rw", False),
        ("{at} rw - zfs pool/data rw", False),
        ("{at} rw - newfs none rw", False),
        ("{at}2 rw - nfs4 host:/export rw", True),
        ("{at} rw - nfs4 host:/export rw\n2 1 0:2 / {at} rw - xfs /dev/sdb rw", True),
        ("nonsense", True),
    ],
)
def test_digests_are_remembered_where_the_file_system_is_known_to_tell_of_all_changes(
    root: Path, tmp_path: Path, mounts: str, remembered: bool
) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = folder / "source"
    path.write_bytes(b"one")
    rest = mounts.format(at=str(folder).replace(" ", "\\040"))
    table = f"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:1 / {rest}\n"
    index = Index(root, Stats(root, mounts=table))
    index.digest(path)
    assert index.knows(path) == remembered


def test_without_a_table_of_mounts_nothing_is_remembered(root: Path, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"one")
    index = Index(root, Stats(root, mounts=""))
    index.digest(tmp_path / "source")
    assert not index.knows(tmp_path / "source")


def test_whoever_opens_a_file_while_it_is_looked_at_disturbs_nobody(
    root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "source"
    path.write_bytes(b"one")
    code = """
import os, sys
for _ in range(100_000):
    os.close(os.open(sys.argv[1], os.O_RDWR))
"""
    with subprocess.Popen([sys.executable, "-c", code, path]) as opener:
        asked = 0
        while opener.poll() is None:
            assert Index(root).digest(path) == true_digest(path)
            asked += 1
    assert opener.returncode == 0
    assert asked > 0


_KEY = {"format": 1}


def _published(cache: Path) -> Path:
    store = LocalStore(cache)
    with store.session() as session, session.staged() as staged:
        (staged / "model.engine").write_bytes(filled(1))
        made, _ = store.publish(staged, stage="engine", key_document=_KEY, digests={}, record={})
    return made.path


@pytest.mark.parametrize("kind", ["own", "tmpfs"])
def test_an_entry_is_remembered_once_hashed(tmp_path: Path, mount: Mount, kind: str) -> None:
    cache = (tmp_path if kind == "own" else mount("size=4m")) / "cache"
    _published(cache)
    store, index = LocalStore(cache), _late(cache)
    for _ in range(2):
        assert whole(store, index, "engine", digest_value(_KEY)) is not None
    assert index.files_hashed == 1


def test_an_entry_that_is_mapped_to_be_written_to_is_not_trusted(tmp_path: Path) -> None:
    entry = _published(tmp_path / "cache")
    store, index = LocalStore(tmp_path / "cache"), Index(tmp_path / "cache")
    engine = entry / "model.engine"
    engine.chmod(0o644)
    with _mapped(engine) as mapped:
        engine.chmod(0o444)
        mapped[0] = mapped[0]
        time.sleep(TICK_SECONDS)
        assert whole(store, index, "engine", digest_value(_KEY)) is not None
        mapped[1] ^= 1
        assert whole(store, index, "engine", digest_value(_KEY)) is None


def test_an_entry_that_may_be_written_to_is_not_remembered(tmp_path: Path) -> None:
    entry = _published(tmp_path / "cache")
    (entry / "model.engine").chmod(0o644)
    index = Index(tmp_path / "cache")
    index.know_entry("engine", entry.name, folder_stats(entry))
    assert not index.entry_is_known("engine", entry.name, entry)


def test_a_plan_is_not_remembered_by_a_record_that_took_the_place_of_the_one_read(
    root: Path,
) -> None:
    first, second = digest_value("one engine"), digest_value("another")
    plan = digest_value(_KEY)

    def put(engine: Digest) -> None:
        store.entry_path("engine", engine).mkdir(parents=True)
        store.put_record(
            PlanRecord(key=plan, key_document=_KEY, entries={"engine": engine}), root / "staging"
        )

    store, index = LocalStore(root), Index(root)
    put(first)
    put(second)
    index.know_engine_of(plan.hex, first.hex)
    assert index.engine_of(plan.hex) is None
    index.know_engine_of(plan.hex, second.hex)
    assert index.engine_of(plan.hex) == second.hex


def test_what_is_forgotten_is_hashed_again_also_where_this_process_hashed_it(
    root: Path, tmp_path: Path
) -> None:
    path, index = tmp_path / "source", Index(root)
    path.write_bytes(b"one")
    index.digest(path)
    index.forget()
    index.digest(path)
    assert index.files_hashed == 2


def test_another_user_s_file_is_remembered_when_it_is_not_young_and_its_mappings_are_told_of(
    mount: Mount,
) -> None:
    """Only its owner is given a lease, which tells who has a file open."""
    mount("size=1m")  # or it is skipped: to be another user takes root, too
    with tempfile.TemporaryDirectory() as folder:
        root, path = Path(folder, "cache"), Path(folder, "source")
        (root / "staging").mkdir(parents=True)
        for each in (Path(folder), root, root / "staging"):
            each.chmod(0o777)
        path.write_bytes(filled(1))
        with _mapped(path) as mapped:
            mapped[0] = 65
            time.sleep(TICK_SECONDS)
            known = []
            os.seteuid(65534)
            try:
                for late in (0, YOUNG_NS):
                    index = Index(root, Stats(root, now=lambda late=late: time.time_ns() + late))  # type: ignore[misc]
                    index.digest(path)
                    known.append(index.knows(path))
            finally:
                os.seteuid(0)
            assert known == [False, True]
            mapped[1] = 66
            assert index.digest(path) == true_digest(path)
