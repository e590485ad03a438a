"""What holds for every remote store: in a folder, and in a bucket of an S3-compatible server."""

from __future__ import annotations

import functools
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engineforge.digest import Digest, digest_bytes, digest_value
from engineforge.errors import EngineForgeError, HostUnfit, StoreCorrupt, UsageError
from engineforge.store.far import layout
from engineforge.store.far.bucket import Bucket
from engineforge.store.far.objects import Objects, RemoteUnavailable
from engineforge.store.far.remote import Remote, RemoteCorrupt
from engineforge.store.local import Entry, LocalStore
from engineforge.store.manifest import Manifest, PlanRecord
from tests.store.conftest import Mount
from tests.store.remote_servers import (
    S3Server,
    environment,
    objects_in,
    published,
    recorded,
    s3_server,
    serving,
)

FILES = {"model.engine": b"engine" * 1000, "build.log": b"log", "empty": b"", "copy": b"log"}


class Far:
    """A remote store, and what is said of it."""

    def __init__(self, url: str, environment: Mapping[str, str]) -> None:
        self.url, self.environment = url, environment
        self.told: list[str] = []
        self.remote = self.again()

    def again(self) -> Remote:
        """As another machine opens it."""
        return Remote.open(self.url, environment=self.environment, said=self.told.append)

    @property
    def objects(self) -> Objects:
        return self.remote._objects

    def spoil(self, path: str, change: Callable[[bytes], bytes]) -> None:
        found = self.objects.read(path)
        assert found is not None
        assert self.objects.swap(path, change(found.data), found.version)

    def read(self, path: str) -> bytes | None:
        found = self.objects.read(path)
        return None if found is None else found.data


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    pytest.importorskip("obstore", reason="needs: python -m pip install 'engineforge[remote]'")
    pytest.importorskip("moto", reason="needs: python -m pip install 'engineforge[test]'")
    with s3_server() as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Far:
    if request.param == "folder":
        return Far(str(tmp_path / "far"), {})
    server: S3Server = request.getfixturevalue("server")
    bucket = server.bucket(f"b{secrets.token_hex(6)}")
    return Far(f"{bucket}/a/prefix", environment(server.url))


@pytest.fixture
def near(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "near")


def fetched(remote: Remote, manifest: Manifest, tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / f"fetched-{secrets.token_hex(4)}"
    folder.mkdir()
    remote.fetch(manifest, folder, tmp_path / "partial")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def engine_path(entry: Entry) -> str:
    return layout.blob_path(entry.manifest.files["model.engine"].sha256)


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_what_one_machine_pushes_another_fetches(
    far: Far, near: LocalStore, tmp_path: Path
) -> None:
    entry = published(near, FILES)
    assert far.remote.push(entry) == entry.manifest
    other = far.again()
    manifest = other.manifest("engine", entry.manifest.key)
    assert manifest == entry.manifest
    assert fetched(other, manifest, tmp_path) == FILES
    assert far.told == []


def test_a_manifest_is_there_with_the_bytes_that_it_has_here(far: Far, near: LocalStore) -> None:
    entry = published(near, FILES)
    far.remote.push(entry)
    path = layout.entry_path("engine", entry.manifest.key)
    assert far.read(path) == entry.file("manifest.json").read_bytes()


def test_what_is_not_there_is_a_miss(far: Far) -> None:
    key = digest_bytes(b"nothing")
    assert far.remote.manifest("engine", key) is None
    assert far.remote.record(key) is None
    assert far.remote.last("net:fp32@ada") is None
    assert far.told == []


def test_a_record_is_there_with_its_entries(far: Far, near: LocalStore, tmp_path: Path) -> None:
    typed = published(near, {"model.onnx": b"typed"}, stage="typed", what="typed")
    record = recorded(near, typed, published(near, FILES))
    assert far.remote.push_record(near, record) == record
    assert far.remote.record(record.key) == record
    for stage, key in record.entries.items():
        manifest = far.remote.manifest(stage, key)
        assert manifest is not None
        fetched(far.remote, manifest, tmp_path)


def test_the_first_record_stays(far: Far, near: LocalStore) -> None:
    one = published(near, FILES)
    other = published(near, {"model.engine": b"other"}, what="another")
    first = recorded(near, one)
    second = recorded(near, other)
    assert first.key == second.key
    far.remote.push_record(near, first)
    assert far.remote.push_record(near, second) == first
    assert far.remote.record(first.key) == first


def test_a_record_of_entries_that_are_gone_gives_way(far: Far, near: LocalStore) -> None:
    first = recorded(near, published(near, FILES))
    second = recorded(near, published(near, {"model.engine": b"other"}, what="another"))
    far.remote.put_record(first)  # and its entry never came
    assert far.remote.push_record(near, second) == second
    assert far.remote.record(first.key) == second


def test_a_plan_whose_entry_is_missing_here_is_not_pushed(far: Far, near: LocalStore) -> None:
    entry = published(near, FILES)
    record = recorded(near, entry)
    near.quarantine(entry, "for this test")
    with pytest.raises(StoreCorrupt, match="is not in the cache"):
        far.remote.push_record(near, record)
    assert far.remote.record(record.key) is None


def test_the_last_plan_of_a_label_is_the_one_put_last(far: Far) -> None:
    first, second = digest_bytes(b"1"), digest_bytes(b"2")
    far.remote.put_last("net:fp32@ada", first)
    far.remote.put_last("net:fp32@ada", second)
    assert far.again().last("net:fp32@ada") == second
    assert far.remote.last("net:fp16@ada") is None


def test_a_broken_hint_is_none(far: Far) -> None:
    far.remote.put_last("net", digest_bytes(b"1"))
    far.spoil(layout.last_path("net"), lambda _: b'{"plan": "x"}')
    assert far.remote.last("net") is None


def test_of_two_with_one_key_the_first_wins_and_the_second_adopts(far: Far, tmp_path: Path) -> None:
    one = published(LocalStore(tmp_path / "one"), {"model.engine": b"one", "log": b"1"})
    two = published(LocalStore(tmp_path / "two"), {"model.engine": b"two", "log": b"2"})
    assert far.remote.push(one) == one.manifest
    assert far.again().push(two) == one.manifest
    assert fetched(far.remote, one.manifest, tmp_path)["model.engine"] == b"one"


def test_of_many_threads_with_one_key_all_adopt_one(far: Far, tmp_path: Path) -> None:
    entries = [
        published(LocalStore(tmp_path / f"{i}"), {"model.engine": b"%d" % i, "log": b"l%d" % i})
        for i in range(8)
    ]
    with ThreadPoolExecutor(8) as pool:
        stand = list(pool.map(lambda entry: far.again().push(entry), entries))
    assert all(each == stand[0] for each in stand)
    (winner,) = [entry for entry in entries if entry.manifest == stand[0]]
    expected = winner.file("model.engine").read_bytes()
    assert fetched(far.remote, stand[0], tmp_path)["model.engine"] == expected
    assert far.told == []


_PUSHES = """
import sys
from pathlib import Path
from engineforge.digest import Digest
from engineforge.store.local import LocalStore
from engineforge.store.far.remote import Remote
import os
url, cache, key = sys.argv[1:]
entry = LocalStore(Path(cache)).get("engine", Digest(key))
remote = Remote.open(url, environment=os.environ)
input()
print(remote.push(entry).files["model.engine"].sha256)
"""


def test_of_many_processes_with_one_key_all_adopt_one(far: Far, tmp_path: Path) -> None:
    entries = [
        published(LocalStore(tmp_path / f"{i}"), {"model.engine": b"%d" % i}) for i in range(4)
    ]
    key = entries[0].manifest.key
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PUSHES, far.url, str(tmp_path / f"{i}"), key],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **far.environment},
        )
        for i in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    adopted = {process.communicate()[0].strip() for process in processes}
    assert len(adopted) == 1
    manifest = far.remote.manifest("engine", key)
    assert manifest is not None
    assert adopted == {manifest.files["model.engine"].sha256}
    fetched(far.remote, manifest, tmp_path)


def test_a_blob_that_was_changed_is_caught_and_moved_aside_with_its_entry(
    far: Far, near: LocalStore, tmp_path: Path
) -> None:
    entry = published(near, FILES)
    far.remote.push(entry)
    path = engine_path(entry)
    far.spoil(path, flipped)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(RemoteCorrupt):
        far.remote.fetch(entry.manifest, folder, tmp_path / "partial")
    assert not (folder / "model.engine").exists()
    assert far.remote.manifest("engine", entry.manifest.key) is None
    found = flipped(FILES["model.engine"])
    assert far.read(layout.quarantine_path(path, digest_bytes(found))) == found
    assert [" is corrupt: " in each or " is not what it was" in each for each in far.told] == [
        True,
        True,
    ]


def test_an_entry_that_was_moved_aside_is_replaced_by_a_push(
    far: Far, near: LocalStore, tmp_path: Path
) -> None:
    entry = published(near, FILES)
    far.remote.push(entry)
    far.spoil(engine_path(entry), flipped)
    with pytest.raises(RemoteCorrupt):
        fetched(far.remote, entry.manifest, tmp_path)
    assert far.again().push(entry) == entry.manifest
    assert fetched(far.remote, entry.manifest, tmp_path) == FILES


def test_another_build_of_an_entry_that_was_moved_aside_takes_its_place(
    far: Far, tmp_path: Path
) -> None:
    first = published(LocalStore(tmp_path / "one"), FILES)
    again = published(LocalStore(tmp_path / "two"), {"model.engine": b"built again"})
    far.remote.push(first)
    far.spoil(engine_path(first), lambda data: data[:5])
    with pytest.raises(RemoteCorrupt):
        fetched(far.remote, first.manifest, tmp_path)
    assert far.remote.push(again) == again.manifest
    assert fetched(far.again(), again.manifest, tmp_path) == {"model.engine": b"built again"}


@pytest.mark.parametrize(
    "change",
    [
        flipped,
        lambda data: data[:-9],
        lambda _: b"{}",
        lambda data: data.replace(b'"a test"', b'"b"'),
    ],
    ids=["flipped", "cut", "other", "edited"],
)
def test_a_manifest_that_was_changed_is_a_miss_and_replaced_by_a_push(
    far: Far, near: LocalStore, change: Callable[[bytes], bytes]
) -> None:
    entry = published(near, FILES)
    far.remote.push(entry)
    far.spoil(layout.entry_path("engine", entry.manifest.key), change)
    assert far.remote.manifest("engine", entry.manifest.key) is None
    (told,) = far.told
    assert "is corrupt" in told
    assert "moved to 'quarantine/entries-v1/engine/" in told
    assert far.remote.manifest("engine", entry.manifest.key) is None
    assert len(far.told) == 1
    assert far.remote.push(entry) == entry.manifest
    assert far.remote.manifest("engine", entry.manifest.key) == entry.manifest


def test_the_manifest_of_another_entry_is_not_taken(far: Far, near: LocalStore) -> None:
    entry = published(near, FILES)
    data = entry.manifest.to_bytes()
    other = digest_bytes(b"another key")
    assert far.objects.create(layout.entry_path("engine", other), data)
    assert far.objects.create(layout.entry_path("typed", entry.manifest.key), data)
    assert far.remote.manifest("engine", other) is None
    assert far.remote.manifest("typed", entry.manifest.key) is None


def test_a_record_that_was_changed_is_a_miss_and_replaced(far: Far, near: LocalStore) -> None:
    record = recorded(near, published(near, FILES))
    far.remote.push_record(near, record)
    far.spoil(layout.plan_path(record.key), flipped)
    assert far.remote.record(record.key) is None
    assert far.remote.push_record(near, record) == record
    assert far.remote.record(record.key) == record


def test_an_entry_with_a_file_missing_is_made_whole_by_one_who_has_it(
    far: Far, near: LocalStore, tmp_path: Path
) -> None:
    entry = published(near, FILES)
    far.remote.push(entry)
    far.spoil(engine_path(entry), lambda _: b"")
    assert far.remote.push(entry) == entry.manifest
    assert fetched(far.remote, entry.manifest, tmp_path) == FILES


def test_an_entry_with_a_file_missing_gives_way_to_one_who_has_another(
    far: Far, tmp_path: Path
) -> None:
    first = published(LocalStore(tmp_path / "one"), FILES)
    again = published(LocalStore(tmp_path / "two"), {"model.engine": b"built again"})
    far.remote.push(first)
    far.spoil(engine_path(first), lambda _: b"")
    assert far.remote.push(again) == again.manifest
    assert far.remote.manifest("engine", again.manifest.key) == again.manifest


def test_a_file_that_was_changed_here_is_never_given_away(far: Far, near: LocalStore) -> None:
    big = secrets.token_bytes(9 << 20)  # in parts, which only come to something when all are there
    for what, data in (("small", b"engine"), ("large", big)):
        entry = published(near, {"model.engine": data}, what=what)
        path = entry.file("model.engine")
        path.chmod(0o644)
        path.write_bytes(flipped(data))
        with pytest.raises(StoreCorrupt, match="is not what its manifest says"):
            far.remote.push(entry)
        assert far.read(engine_path(entry)) is None
        assert far.remote.manifest("engine", entry.manifest.key) is None


def test_equal_files_are_there_once(far: Far, near: LocalStore) -> None:
    sent: list[int] = []
    far.remote.push(published(near, FILES), lambda _, total: sent.append(total))
    assert set(sent) == {6003}  # `copy` has the bytes of `build.log`
    sent.clear()
    far.remote.push(published(near, FILES, what="more"), lambda _, total: sent.append(total))
    assert sent == []


def test_progress_ends_at_all_bytes(far: Far, near: LocalStore, tmp_path: Path) -> None:
    record = recorded(near, published(near, {"model.engine": secrets.token_bytes(3 << 20)}))
    pushed: list[tuple[int, int]] = []
    far.remote.push_record(near, record, lambda done, total: pushed.append((done, total)))
    assert pushed[-1] == (3 << 20, 3 << 20)
    assert pushed == sorted(pushed)
    got: list[tuple[int, int]] = []
    manifest = far.remote.manifest("engine", record.entries["engine"])
    assert manifest is not None
    far.remote.fetch(manifest, tmp_path, tmp_path / "partial", lambda *each: got.append(each))
    assert got[-1] == (3 << 20, 3 << 20)
    assert len(got) > 1


class Interrupted(Exception):
    pass


def test_what_progress_raises_ends_a_transfer(far: Far, near: LocalStore, tmp_path: Path) -> None:
    def interrupt(_done: int, _total: int) -> None:
        raise Interrupted

    entry = published(near, FILES)
    with pytest.raises(Interrupted):
        far.remote.push(entry, interrupt)
    assert far.remote.manifest("engine", entry.manifest.key) is None
    far.remote.push(entry)
    with pytest.raises(Interrupted):
        far.remote.fetch(entry.manifest, tmp_path, tmp_path / "partial", interrupt)


def test_an_interrupted_download_goes_on_where_it_was(
    far: Far, near: LocalStore, tmp_path: Path
) -> None:
    data = secrets.token_bytes(5 << 20)
    entry = published(near, {"model.engine": data})
    far.remote.push(entry)

    def interrupt(done: int, _total: int) -> None:
        if done >= 2 << 20:
            raise Interrupted

    partial, folder = tmp_path / "partial", tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(Interrupted):
        far.remote.fetch(entry.manifest, folder, partial, interrupt)
    (left,) = partial.iterdir()
    begun = left.stat().st_size
    assert data.startswith(left.read_bytes())
    # What is there is not asked for again: were it, this would be caught.
    far.spoil(engine_path(entry), lambda stored: bytes(begun) + stored[begun:])
    far.remote.fetch(entry.manifest, folder, partial)
    assert (folder / "model.engine").read_bytes() == data
    assert list(partial.iterdir()) == []


@pytest.mark.parametrize("length", [10, 6000, 6001, 7000], ids=str)
def test_a_spoiled_partial_download_is_not_blamed_on_the_remote(
    far: Far, near: LocalStore, tmp_path: Path, length: int
) -> None:
    entry = published(near, FILES)
    far.remote.push(entry)
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / entry.manifest.files["model.engine"].sha256.hex).write_bytes(b"x" * length)
    assert fetched(far.remote, entry.manifest, tmp_path) == FILES
    assert far.told == []


def test_many_may_fetch_one_entry_at_once(far: Far, near: LocalStore, tmp_path: Path) -> None:
    entry = published(near, {"model.engine": secrets.token_bytes(4 << 20)})
    far.remote.push(entry)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: fetched(far.remote, entry.manifest, tmp_path), range(6)))
    assert all(each == found[0] for each in found)
    assert list((tmp_path / "partial").iterdir()) == []


def test_file_names_that_lead_elsewhere_are_refused(far: Far, near: LocalStore) -> None:
    entry = published(near, FILES).manifest
    for name in ("..", "", "manifest.json"):
        bad = Manifest(
            stage=entry.stage,
            key=entry.key,
            key_document=entry.key_document,
            files={name: entry.files["build.log"]},
            record={},
        )
        far.objects.put(layout.entry_path("engine", entry.key), bad.to_bytes())
        assert far.remote.manifest("engine", entry.key) is None
        assert "no name for a file of an entry" in far.told[-1]


def test_a_file_url_and_a_path_are_the_same_folder(near: LocalStore, tmp_path: Path) -> None:
    entry = published(near, FILES)
    folder = tmp_path / "with a space"
    Remote.open(str(folder), environment={}).push(entry)
    url = f"file://{str(folder).replace(' ', '%20')}"
    assert Remote.open(url, environment={}).manifest("engine", entry.manifest.key)


def test_a_folder_holds_nothing_but_its_objects(near: LocalStore, tmp_path: Path) -> None:
    folder = tmp_path / "far"
    record = recorded(near, published(near, FILES))
    Remote.open(str(folder), environment={}).push_record(near, record)
    assert len(objects_in(folder)) == 3 + 1 + 1  # three different files, a manifest, a record
    assert [each.name for each in (folder / "staging").iterdir() if each.name != "locks"] == []


def test_a_folder_that_cannot_be_written_is_said(near: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "far").write_text("a file")
    with pytest.raises(RemoteUnavailable, match="cannot be used: Not a directory"):
        Remote.open(str(tmp_path / "far"), environment={}).push(published(near, FILES))


@pytest.mark.parametrize("url", ["ftp://host/x", "s4://bucket"])
def test_another_kind_of_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="cannot be at"):
        Remote.open(url, environment={})


@pytest.mark.parametrize("url", ["https:/bob:hunter22@host/x", "s3:bucket", "bob:hunter22@host"])
def test_what_is_nearly_a_url_is_no_folder_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match="cannot be at") as caught:
        Remote.open(url, environment={})
    assert "hunter22" not in str(caught.value)


def test_a_file_url_with_a_host_is_refused() -> None:
    with pytest.raises(UsageError, match="no absolute path"):
        Remote.open("file://host/path", environment={})


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UsageError, match="colour"):
        Bucket("s3://bucket", environment={}, options={"colour": "red"})


def test_without_obstore_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(HostUnfit, match=r"pip install 'engineforge\[remote\]'"):
        Remote.open("s3://bucket", environment={})


def test_a_folder_needs_no_obstore(
    monkeypatch: pytest.MonkeyPatch, near: LocalStore, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    Remote.open(str(tmp_path / "far"), environment={}).push(published(near, FILES))


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def over_http(near: LocalStore, tmp_path: Path) -> Iterator[tuple[Far, Entry]]:
    """An entry in a folder, and the folder behind a plain HTTP server that knows no ranges."""
    pytest.importorskip("obstore")
    entry = published(near, FILES)
    Remote.open(str(tmp_path / "far"), environment={}).push(entry)
    handler = functools.partial(_Quiet, directory=str(tmp_path / "far"))
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as port:
        yield Far(f"http://me:pass-word@127.0.0.1:{port}/", {}), entry


def test_an_http_server_is_read(over_http: tuple[Far, Entry], tmp_path: Path) -> None:
    far, entry = over_http
    assert far.remote.manifest("engine", entry.manifest.key) == entry.manifest
    assert fetched(far.remote, entry.manifest, tmp_path) == FILES
    assert far.remote.record(entry.manifest.key) is None


def test_without_ranges_a_download_goes_on_all_the_same(
    over_http: tuple[Far, Entry], tmp_path: Path
) -> None:
    far, entry = over_http
    partial = tmp_path / "partial"
    partial.mkdir()
    begun = partial / entry.manifest.files["model.engine"].sha256.hex
    begun.write_bytes(FILES["model.engine"][:4321])
    assert fetched(far.remote, entry.manifest, tmp_path) == FILES


def test_pushing_over_http_is_refused(over_http: tuple[Far, Entry]) -> None:
    far, entry = over_http
    assert far.remote.read_only
    with pytest.raises(UsageError, match="is read over HTTP"):
        far.remote.push(entry)
    record = PlanRecord(key=entry.manifest.key, key_document={}, entries={})
    with pytest.raises(UsageError, match="is read over HTTP"):
        far.remote.put_record(record)


def test_what_is_broken_behind_http_is_said_and_stays(
    over_http: tuple[Far, Entry], tmp_path: Path
) -> None:
    far, entry = over_http
    blob = tmp_path / "far" / engine_path(entry)
    blob.chmod(0o644)
    blob.write_bytes(flipped(FILES["model.engine"]))
    with pytest.raises(RemoteCorrupt):
        fetched(far.remote, entry.manifest, tmp_path)
    assert len(far.told) == 2
    assert far.remote.manifest("engine", entry.manifest.key) == entry.manifest


def test_a_password_in_a_url_is_in_no_message(over_http: tuple[Far, Entry]) -> None:
    far, entry = over_http
    assert "pass-word" not in far.remote.url
    with pytest.raises(EngineForgeError) as caught:
        far.remote.push(entry)
    assert "pass-word" not in str(caught.value)
    dead = Remote.open("http://me:pass-word@127.0.0.1:9/", environment={})
    with pytest.raises(RemoteUnavailable) as unavailable:
        dead.record(Digest(entry.manifest.key))
    assert "pass-word" not in str(unavailable.value)


def test_a_folder_that_is_in_none_is_said_and_not_made(near: LocalStore, tmp_path: Path) -> None:
    """As that of a file system which is not mounted."""
    remote = Remote.open(str(tmp_path / "mnt" / "far"), environment={})
    with pytest.raises(RemoteUnavailable, match="in no folder that is there"):
        remote.record(digest_value("any"))
    with pytest.raises(RemoteUnavailable, match="in no folder that is there"):
        remote.push(published(near, {"a": b"a"}))
    assert not (tmp_path / "mnt").exists()


_PUSHING = """
import sys
from pathlib import Path
from engineforge.store.local import LocalStore
from engineforge.store.far.remote import Remote
(entry,) = LocalStore(Path(sys.argv[1])).entries("engine")
failures = []
try:
    Remote.open(sys.argv[2], environment={}).push(entry)
except Exception as error:
    failures.append(error)  # and with it, what it was raised through
print(failures)
"""


def test_a_process_ends_whose_push_found_no_room(near: LocalStore, mount: Mount) -> None:
    """Only a process of its own shows whether something keeps it alive."""
    published(near, {"a": b"a" * (8 << 20)})
    words = [sys.executable, "-c", _PUSHING, str(near.root), str(mount("size=2m") / "far")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert "No space left on device" in done.stdout
