"""Entries as one file: whole and checked before anything of it is published, or refused."""

from __future__ import annotations

import io
import os
import secrets
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engineforge.digest import digest_bytes
from engineforge.errors import EngineForgeError, StoreCorrupt, UsageError
from engineforge.store.far import layout
from engineforge.store.far.archive import BadArchive, Counts, export, import_
from engineforge.store.far.remote import Remote
from engineforge.store.local import LocalStore
from engineforge.store.manifest import PlanRecord
from tests.store.remote_servers import objects_in, published, recorded

FILES = {"model.engine": b"engine" * 100, "build.log": b"log", "empty": b""}
TYPED = {"model.onnx": b"typed", "build.log": b"log"}


@pytest.fixture
def near(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "near")


@pytest.fixture
def far(tmp_path: Path) -> LocalStore:
    """The store of a machine that no network reaches."""
    store = LocalStore(tmp_path / "far")
    store.create()
    return store


@pytest.fixture
def record(near: LocalStore) -> PlanRecord:
    typed = published(near, TYPED, stage="typed", what="typed")
    return recorded(near, typed, published(near, FILES))


@pytest.fixture
def file(near: LocalStore, record: PlanRecord, tmp_path: Path) -> Path:
    path = tmp_path / "engines.tar"
    export(near, [record], path)
    return path


def imported(file: Path, store: LocalStore) -> Counts:
    with store.session() as session:
        return import_(file, store, session)


def holds_nothing(store: LocalStore) -> bool:
    return store.stages() == [] and list(store.plan_records("")) == []


def members(file: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(file) as tar:
        return [(each.name, tar.extractfile(each).read()) for each in tar]  # type: ignore[union-attr]


def written(file: Path, contents: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, data in contents:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file


def test_what_one_store_exports_another_imports(
    record: PlanRecord, file: Path, far: LocalStore
) -> None:
    size = sum(len(data) for data in (FILES | TYPED).values())
    assert imported(file, far) == Counts(entries=2, records=1, bytes=size + len(b"log"), known=0)
    assert far.plan_record(record.key) == record
    for stage, files in (("engine", FILES), ("typed", TYPED)):
        entry = far.get(stage, record.entries[stage])
        assert entry is not None
        assert far.broken_files(entry) == []
        assert {name: entry.file(name).read_bytes() for name in files} == files


def test_an_imported_manifest_has_the_bytes_that_were_exported(
    near: LocalStore, record: PlanRecord, file: Path, far: LocalStore
) -> None:
    imported(file, far)
    path = near.entry_path("engine", record.entries["engine"]) / "manifest.json"
    assert (far.root / path.relative_to(near.root)).read_bytes() == path.read_bytes()


def test_importing_twice_changes_nothing(file: Path, far: LocalStore) -> None:
    imported(file, far)
    before = {path: path.stat().st_mtime_ns for path in objects_in(far.root)}
    assert imported(file, far) == Counts(entries=0, records=0, bytes=0, known=2)
    assert {path: path.stat().st_mtime_ns for path in objects_in(far.root)} == before


def test_nothing_is_left_in_staging(file: Path, far: LocalStore) -> None:
    imported(file, far)
    assert [each for each in (far.root / "staging").iterdir() if each.name != "locks"] == []


def test_the_same_entries_are_the_same_archive(
    near: LocalStore, record: PlanRecord, file: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again.tar"
    export(near, [record, record], again)
    assert again.read_bytes() == file.read_bytes()


def test_an_archive_is_a_remote_store_when_it_is_unpacked(
    record: PlanRecord, file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "unpacked"
    for name, data in members(file):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    remote = Remote.open(str(folder), environment={})
    assert remote.record(record.key) == record
    manifest = remote.manifest("engine", record.entries["engine"])
    assert manifest is not None
    remote.fetch(manifest, tmp_path, tmp_path / "partial")
    assert (tmp_path / "model.engine").read_bytes() == FILES["model.engine"]


def test_equal_files_are_in_it_once(file: Path) -> None:
    blobs = [name for name, _ in members(file) if isinstance(layout.parse(name), layout.Blob)]
    assert len(blobs) == len(set(blobs)) == 4


def test_the_entry_that_is_here_stays(file: Path, far: LocalStore) -> None:
    mine = published(far, {"model.engine": b"mine"})
    assert imported(file, far).known == 1
    entry = far.get("engine", mine.manifest.key)
    assert entry is not None
    assert entry.file("model.engine").read_bytes() == b"mine"


def test_progress_ends_at_all_bytes(near: LocalStore, far: LocalStore, tmp_path: Path) -> None:
    record = recorded(near, published(near, {"model.engine": secrets.token_bytes(3 << 20)}))
    file, told = tmp_path / "a.tar", []
    export(near, [record], file, progress=lambda *each: told.append(each))
    assert told[-1] == (3 << 20, 3 << 20)
    told.clear()
    with far.session() as session:
        import_(file, far, session, progress=lambda *each: told.append(each))
    assert told[-1][1] == file.stat().st_size
    assert told == sorted(told)


def test_a_file_that_was_changed_is_not_exported(
    near: LocalStore, record: PlanRecord, tmp_path: Path
) -> None:
    engine = near.get("engine", record.entries["engine"])
    assert engine is not None
    path = engine.file("model.engine")
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(StoreCorrupt, match=r"'model\.engine' is not what its manifest says"):
        export(near, [record], tmp_path / "a.tar")
    assert list(tmp_path.glob("*.tar*")) == []
    assert list(tmp_path.glob(".*")) == []
    assert near.get("engine", record.entries["engine"]) is None


def test_an_entry_that_is_missing_is_not_exported(
    near: LocalStore, record: PlanRecord, tmp_path: Path
) -> None:
    engine = near.get("engine", record.entries["engine"])
    assert engine is not None
    near.quarantine(engine, "for this test")
    with pytest.raises(StoreCorrupt, match=r"the engine entry .* is not in the cache"):
        export(near, [record], tmp_path / "a.tar")


def test_a_file_that_cannot_be_written_is_said(near: LocalStore, record: PlanRecord) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        export(near, [record], near.root / "no" / "folder" / "a.tar")


def test_a_file_that_is_not_there_is_said(far: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no '.*/none\.tar'"):
        imported(tmp_path / "none.tar", far)


def test_a_folder_is_no_archive(far: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no file.*\n.*engineforge cache export"):
        imported(tmp_path, far)


def test_a_device_is_no_archive(far: LocalStore) -> None:
    with pytest.raises(UsageError, match="'/dev/null' is no file"):
        imported(Path("/dev/null"), far)


def test_a_pipe_into_which_nobody_writes_is_no_archive(far: LocalStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe' is no file"):
        imported(tmp_path / "pipe", far)


def test_a_file_below_a_file_is_said(far: LocalStore, file: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: Not a directory"):
        imported(file / "a.tar", far)


def test_nothing_but_a_file_is_replaced_by_an_export(near: LocalStore, record: PlanRecord) -> None:
    os.mkfifo(near.root / "pipe")
    for path in (near.root / "pipe", near.root):
        with pytest.raises(UsageError, match="is there, and no file"):
            export(near, [record], path)
    assert (near.root / "pipe").is_fifo()


@pytest.mark.parametrize("data", [b"", b"no tar", bytes(2048)], ids=["empty", "text", "zeros"])
def test_another_kind_of_file_is_refused(far: LocalStore, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(BadArchive):
        imported(tmp_path / "a.tar", far)


def _ends(file: Path) -> Iterator[int]:
    """Every cut near a boundary of tar's blocks, and some between, before the empty end blocks."""
    with tarfile.open(file) as tar:
        last = tar.getmembers()[-1]
    whole = last.offset_data + last.size
    yield from sorted({each for at in range(0, whole, 512) for each in (at, at + 1, at + 255)})
    yield whole - 1


def test_an_archive_that_was_cut_off_anywhere_is_refused(
    file: Path, far: LocalStore, tmp_path: Path
) -> None:
    data, taken = file.read_bytes(), []
    short = tmp_path / "short.tar"
    tried = 0
    for end in _ends(file):
        short.write_bytes(data[:end])
        tried += 1
        try:
            imported(short, far)
        except BadArchive:
            continue
        taken.append(end)
    assert taken == []
    assert tried > 40
    assert holds_nothing(far)


def test_an_archive_with_a_changed_byte_publishes_nothing_that_is_broken(
    record: PlanRecord, file: Path, tmp_path: Path
) -> None:
    """Every 97th byte: in headers, seals, blobs and the room between them."""
    data, odd = file.read_bytes(), []
    tried = range(0, max(_ends(file)), 97)
    refused = 0
    for at in tried:
        changed = bytearray(data)
        changed[at] ^= 0x41
        (tmp_path / "changed.tar").write_bytes(changed)
        far = LocalStore(tmp_path / f"far-{at}")
        try:
            imported(tmp_path / "changed.tar", far)
        except EngineForgeError:
            refused += 1
            if not holds_nothing(far):
                odd.append(at)
            continue
        entries = [far.get(stage, key) for stage, key in record.entries.items()]
        if any(entry is None or far.broken_files(entry) for entry in entries):
            odd.append(at)
    assert odd == []
    assert refused > len(tried) // 4


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../outside",
        "entries-v1/engine/../../x",
        "README",
        "entries-v1/engine/ab/" + "ab" * 32,
        "entries-v1/ENGINE/ab/" + "ab" * 32 + ".json",
        "blobs-v1/sha256/cd/" + "ab" * 32,
        "blobs-v1/sha256/ab/" + "ab" * 32 + ".json",
        "plans-v1/ab/" + "AB" * 32 + ".json",
    ],
)
def test_a_member_that_does_not_belong_is_refused_by_name(
    file: Path, far: LocalStore, tmp_path: Path, name: str
) -> None:
    odd = written(tmp_path / "odd.tar", [(name, b"x"), *members(file)])
    with pytest.raises(BadArchive, match="does not belong in an archive") as caught:
        imported(odd, far)
    assert f"'{name}'" in str(caught.value)
    assert holds_nothing(far)


def test_a_link_is_refused(file: Path, far: LocalStore, tmp_path: Path) -> None:
    odd = tmp_path / "odd.tar"
    with tarfile.open(odd, "w") as tar:
        link = tarfile.TarInfo(layout.blob_path(digest_bytes(b"")))
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(BadArchive, match="is no plain file"):
        imported(odd, far)


Change = Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda all_: [*all_, all_[-1]], "is there twice"),
        (lambda all_: all_[::-1], "is out of order"),
        (lambda all_: all_[:-1], "which is not in the archive"),
        (lambda all_: all_[1:], "names the engine entry .* which is not in the archive"),
        (lambda all_: [*all_[:-1], (all_[-1][0], b"other")], "is corrupt: its digest is"),
        (lambda all_: [(all_[0][0], all_[1][1]), *all_[1:]], "it is the manifest of another"),
        (lambda all_: [(all_[0][0], all_[0][1][:-3]), *all_[1:]], "is corrupt: not JSON"),
        (lambda all_: [*all_[:2], (all_[2][0], b"{}"), *all_[3:]], "plans-v1/.* is corrupt"),
    ],
    ids=["twice", "order", "no-blob", "no-entry", "blob", "swapped", "cut", "plan"],
)
def test_what_is_wrong_with_an_archive_is_said_and_nothing_published(
    file: Path, far: LocalStore, tmp_path: Path, change: Change, message: str
) -> None:
    odd = written(tmp_path / "odd.tar", change(members(file)))
    with pytest.raises(BadArchive, match=message):
        imported(odd, far)
    assert holds_nothing(far)


def test_a_record_whose_entries_are_here_needs_them_not_in_the_archive(
    file: Path, record: PlanRecord, far: LocalStore, tmp_path: Path
) -> None:
    published(far, TYPED, stage="typed", what="typed")
    published(far, FILES)
    plan = [each for each in members(file) if each[0].startswith("plans-v1/")]
    assert imported(written(tmp_path / "plan.tar", plan), far).records == 1
    assert far.plan_record(record.key) == record
