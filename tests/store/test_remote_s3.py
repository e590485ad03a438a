"""A bucket whose server and network fail: what is tried again, what is not, and that nothing is
lost."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from engineforge.digest import digest_bytes, digest_value
from engineforge.errors import EngineForgeError, UsageError
from engineforge.store.far import layout
from engineforge.store.far.bucket import Bucket
from engineforge.store.far.objects import RemoteUnavailable
from engineforge.store.far.remote import Remote, RemoteCorrupt
from engineforge.store.local import LocalStore
from tests.store.remote_servers import (
    SECRET,
    Proxy,
    S3Server,
    environment,
    free_port,
    proxy_before,
    published,
    recorded,
    s3_server,
)

pytest.importorskip("obstore", reason="needs: python -m pip install 'engineforge[remote]'")
pytest.importorskip("moto", reason="needs: python -m pip install 'engineforge[test]'")

KEY = digest_bytes(b"a key")
MIB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(server: S3Server) -> str:
    return server.bucket(f"b{secrets.token_hex(6)}")


@pytest.fixture
def proxy(server: S3Server) -> Iterator[Proxy]:
    with proxy_before(server) as proxy:
        yield proxy


def opened(bucket: str, endpoint: str, **options: str) -> Remote:
    return Remote(Bucket(bucket, environment=environment(endpoint), options=options))


@pytest.fixture
def near(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "near")


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_what_a_server_may_get_over_is_asked_again(bucket: str, proxy: Proxy, status: int) -> None:
    proxy.faults.statuses = [status, status]
    assert opened(bucket, proxy.url).record(KEY) is None
    assert proxy.faults.count("^GET") == 3


def test_a_push_is_tried_again_too(bucket: str, proxy: Proxy, near: LocalStore) -> None:
    entry = published(near, {"model.engine": b"engine"})
    proxy.faults.match = "^PUT"
    proxy.faults.statuses = [503, 503]
    assert opened(bucket, proxy.url).push(entry) == entry.manifest
    assert proxy.faults.count("^PUT") == 4


@pytest.mark.parametrize("status", [400, 401, 403])
def test_what_is_refused_is_asked_once(bucket: str, proxy: Proxy, status: int) -> None:
    proxy.faults.always = status
    with pytest.raises(RemoteUnavailable):
        opened(bucket, proxy.url).record(KEY)
    assert len(proxy.faults.seen) == 1


def test_a_refusal_says_what_to_check(bucket: str, proxy: Proxy) -> None:
    proxy.faults.always = 403
    with pytest.raises(RemoteUnavailable) as caught:
        opened(bucket, proxy.url).record(KEY)
    first, hint = str(caught.value).splitlines()
    assert first.startswith(f"the remote store '{bucket}' refuses this: ")
    assert first.endswith("status code: 403 Forbidden (Refused)")
    assert hint == "hint: check the credentials, and that they may read, list and write there"


def test_a_profile_that_is_not_read_is_said(bucket: str, proxy: Proxy) -> None:
    proxy.faults.always = 403
    given = {**environment(proxy.url), "AWS_PROFILE": "work"}
    with pytest.raises(RemoteUnavailable, match="aws configure export-credentials"):
        Remote.open(bucket, environment=given).record(KEY)


def test_a_server_that_stays_ill_is_given_up(bucket: str, proxy: Proxy) -> None:
    proxy.faults.always = 503
    with pytest.raises(RemoteUnavailable, match="cannot be used"):
        opened(bucket, proxy.url, retries="2").record(KEY)
    assert len(proxy.faults.seen) == 3


def test_a_server_that_is_not_there_is_said(bucket: str) -> None:
    with pytest.raises(RemoteUnavailable, match=f"'{bucket}' cannot be used"):
        opened(bucket, f"http://127.0.0.1:{free_port()}", retries="1").record(KEY)


def _everything_said(error: BaseException) -> str:
    said = []
    while error is not None:
        said.append(str(error))
        if error.__suppress_context__ and error.__cause__ is None:
            break
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return "\n".join(said)


@pytest.mark.parametrize("status", [400, 403, 503])
def test_credentials_are_in_no_message(bucket: str, proxy: Proxy, status: int) -> None:
    """The server of this test repeats the secret, and no message does."""
    proxy.faults.always = status
    with pytest.raises(EngineForgeError) as caught:
        opened(bucket, proxy.url, retries="0").record(KEY)
    assert SECRET not in _everything_said(caught.value)
    assert "AKIAIOSFODNN7EXAMPLE" not in _everything_said(caught.value)


def test_an_endpoint_without_encryption_must_be_meant(bucket: str) -> None:
    given = {**environment("http://10.0.0.1:9000"), "AWS_ALLOW_HTTP": "false"}
    with pytest.raises(UsageError, match="AWS_ALLOW_HTTP=true"):
        Remote.open(bucket, environment=given)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://bucket", "AWS_ENDPOINT_URL"),
        ("s3://bucket", "AWS_ENDPOINT_URL_S3"),
        ("az://container", "AZURE_STORAGE_ENDPOINT"),
    ],
)
def test_each_endpoint_of_data_must_be_encrypted(url: str, name: str) -> None:
    given = {"AZURE_STORAGE_ACCOUNT_NAME": "account", name: "http://10.0.0.1:9000"}
    with pytest.raises(UsageError, match="is not encrypted"):
        Remote.open(url, environment=given)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://bucket", "AWS_METADATA_ENDPOINT"),
        ("s3://bucket", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ("az://container", "AZURE_MSI_ENDPOINT"),
    ],
)
def test_an_endpoint_on_the_instance_itself_need_not_be_encrypted(url: str, name: str) -> None:
    given = {"AZURE_STORAGE_ACCOUNT_NAME": "account", name: "http://169.254.169.254"}
    assert Remote.open(url, environment=given).url == url


@pytest.mark.parametrize(
    "spoilt", [("blobs", 3 * MIB), ("blobs", 40 * MIB), ("entries", MIB), ("plans", MIB)]
)
def test_what_is_spoilt_on_the_way_is_read_again_and_not_judged(
    bucket: str, proxy: Proxy, near: LocalStore, tmp_path: Path, spoilt: tuple[str, int]
) -> None:
    what, size = spoilt
    data = secrets.token_bytes(size)
    entry = published(near, {"model.engine": data})
    record = recorded(near, entry)
    told: list[str] = []
    remote = Remote(opened(bucket, proxy.url)._objects, told.append)
    remote.push_record(near, record)
    proxy.faults.match = f"^GET .*/{what}-v1/"
    proxy.faults.flips = 1
    assert remote.record(record.key) == record
    assert remote.manifest("engine", entry.manifest.key) == entry.manifest
    remote.fetch(entry.manifest, tmp_path, tmp_path / "partial")
    assert (tmp_path / "model.engine").read_bytes() == data
    assert proxy.faults.flips == 0
    assert told == []
    assert remote.manifest("engine", entry.manifest.key) == entry.manifest


def test_what_is_spoilt_again_and_again_is_judged(
    bucket: str, proxy: Proxy, near: LocalStore, tmp_path: Path
) -> None:
    entry = published(near, {"model.engine": b"engine" * 1000})
    remote = opened(bucket, proxy.url)
    remote.push(entry)
    proxy.faults.match = "^GET .*/blobs-v1/"
    proxy.faults.flips = 2
    with pytest.raises(RemoteCorrupt):
        remote.fetch(entry.manifest, tmp_path, tmp_path / "partial")
    assert remote.manifest("engine", entry.manifest.key) is None
    assert proxy.faults.count("^GET .*/blobs-v1/") == 2


@pytest.mark.parametrize(
    "given",
    [
        {"AZURE_STORAGE_ACCOUNT_KEY": "c2VjcmV0LWtleQ=="},
        {"AZURE_STORAGE_SAS_KEY": "sv=1&sig=secret-sas-key"},
        {"AZURE_CLIENT_ID": "a", "AZURE_CLIENT_SECRET": "b", "AZURE_TENANT_ID": "c"},
    ],
    ids=["key", "sas", "client"],
)
def test_azure_is_opened_with_its_own_credentials(given: Mapping[str, str]) -> None:
    url = "az://container/path"
    remote = Remote.open(url, environment={"AZURE_STORAGE_ACCOUNT_NAME": "account", **given})
    assert (remote.url, remote.read_only) == (url, False)


def test_a_key_that_google_does_not_take_is_said_and_not_shown() -> None:
    given = {"GOOGLE_SERVICE_ACCOUNT_KEY": '{"private_key": "a-secret"}'}
    with pytest.raises(UsageError, match="'gs://bucket/path' cannot be opened") as caught:
        Remote.open("gs://bucket/path", environment=given)
    assert "a-secret" not in _everything_said(caught.value)


@pytest.mark.parametrize("size", [3 * MIB, 40 * MIB], ids=["one", "ranges"])
def test_a_download_that_breaks_off_again_and_again_comes_to_its_end(
    bucket: str, proxy: Proxy, near: LocalStore, tmp_path: Path, size: int
) -> None:
    data = secrets.token_bytes(size)
    entry = published(near, {"model.engine": data})
    opened(bucket, proxy.url).push(entry)
    proxy.faults.match = "^GET .*/blobs-v1/"
    proxy.faults.cut_after = [MIB + 17, 0, 5, 9]
    opened(bucket, proxy.url).fetch(entry.manifest, tmp_path, tmp_path / "partial")
    assert (tmp_path / "model.engine").read_bytes() == data
    assert proxy.faults.cut_after == []


def test_a_large_file_is_read_in_parts(
    bucket: str, server: S3Server, proxy: Proxy, near: LocalStore, tmp_path: Path
) -> None:
    entry = published(near, {"model.engine": secrets.token_bytes(33 * MIB)})
    opened(bucket, server.url).push(entry)
    opened(bucket, proxy.url).fetch(entry.manifest, tmp_path, tmp_path / "partial")
    assert proxy.faults.count(r"^GET .* bytes=\d+-\d+") == 5


def test_a_large_file_that_was_begun_is_not_asked_for_again(
    bucket: str, server: S3Server, proxy: Proxy, near: LocalStore, tmp_path: Path
) -> None:
    data = secrets.token_bytes(40 * MIB)
    entry = published(near, {"model.engine": data})
    opened(bucket, server.url).push(entry)
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / digest_bytes(data).hex).write_bytes(data[: 39 * MIB])
    opened(bucket, proxy.url).fetch(entry.manifest, tmp_path, partial)
    assert (tmp_path / "model.engine").read_bytes() == data
    assert proxy.faults.count(r"^GET .* bytes=40894464-") == 1
    assert proxy.faults.count("^GET") == 1


def test_a_conditional_put_whose_answer_was_lost_is_not_taken_for_anothers(
    bucket: str, proxy: Proxy, near: LocalStore
) -> None:
    """It is sent again, and finds itself there."""
    record = recorded(near, published(near, {"model.engine": b"engine"}))
    remote = opened(bucket, proxy.url)
    proxy.faults.match = "^PUT .*/(entries|plans)-v1/"
    proxy.faults.cut_after = [0]
    assert remote.push_record(near, record) == record
    proxy.faults.match = "^$"
    assert remote.record(record.key) == record


def _push_of(server: S3Server, bucket: str, near: LocalStore, when: Callable[[int], bool]) -> None:
    """Push what `near` has, and kill the server on the way."""
    record = next(iter(near.plan_records("")))

    def killing(done: int, _total: int) -> None:
        if when(done):
            server.kill()

    with pytest.raises(RemoteUnavailable):
        opened(bucket, server.url, retries="1").push_record(near, record, killing)


def test_a_server_that_dies_under_a_push_loses_nothing(near: LocalStore) -> None:
    """It comes back empty, which is more than most lose; a bucket that keeps its parts is next."""
    data = secrets.token_bytes(24 * MIB)
    record = recorded(near, published(near, {"model.engine": data, "build.log": b"log"}))
    with s3_server() as server:
        bucket = server.bucket("engines")
        _push_of(server, bucket, near, lambda done: done > 8 * MIB)
        port = server.port
    assert near.plan_record(record.key) == record
    with s3_server(port) as server:
        bucket = server.bucket("engines")
        remote = opened(bucket, server.url)
        assert remote.record(record.key) is None
        assert remote.push_record(near, record) == record
        assert remote.record(record.key) == record


def test_a_push_that_was_cut_short_leaves_no_entry_and_sends_the_rest_the_next_time(
    bucket: str, server: S3Server, proxy: Proxy, near: LocalStore
) -> None:
    small, large = secrets.token_bytes(MIB), secrets.token_bytes(24 * MIB)
    entry = published(near, {"model.engine": large, "layers.json": small})
    remote = opened(bucket, proxy.url, retries="0")
    proxy.faults.match = "^PUT .*partNumber=3"
    proxy.faults.always = 500
    with pytest.raises(RemoteUnavailable):
        remote.push(entry)
    assert opened(bucket, server.url).manifest("engine", entry.manifest.key) is None
    proxy.faults.always = None
    # Whichever were whole are there, and are not sent again.
    there = [
        file
        for file in entry.manifest.files.values()
        if remote._objects.stat(layout.blob_path(file.sha256)) is not None
    ]
    sent: list[int] = []
    assert remote.push(entry, lambda _, total: sent.append(total)) == entry.manifest
    assert set(sent) == {25 * MIB - sum(file.size for file in there)}


def test_a_server_that_dies_under_a_fetch_is_gone_on_with(near: LocalStore, tmp_path: Path) -> None:
    data = secrets.token_bytes(64 * MIB)
    entry = published(near, {"model.engine": data})
    partial, folder = tmp_path / "partial", tmp_path / "folder"
    folder.mkdir()
    with s3_server() as server:
        opened(server.bucket("engines"), server.url).push(entry)
        killed = threading.Event()

        def killing(done: int, _total: int) -> None:
            if done > 10 * MIB and not killed.is_set():
                killed.set()
                server.kill()

        with pytest.raises(RemoteUnavailable):
            opened("s3://engines", server.url, retries="1").fetch(
                entry.manifest, folder, partial, killing
            )
        port = server.port
    (left,) = partial.iterdir()
    begun = left.stat().st_size
    assert begun >= 10 * MIB
    assert data.startswith(left.read_bytes())
    assert list(folder.iterdir()) == []
    with s3_server(port) as server:
        opened(server.bucket("engines"), server.url).push(entry)
        with proxy_before(server) as proxy:
            opened("s3://engines", proxy.url).fetch(entry.manifest, folder, partial)
            assert not any("bytes=0-" in each for each in proxy.faults.seen)
            assert proxy.faults.count(rf"bytes={begun}-") == 1
    assert (folder / "model.engine").read_bytes() == data


_MEASURED = """
import os, resource, sys
from pathlib import Path
from engineforge.digest import Digest
from engineforge.store.local import LocalStore
from engineforge.store.far.remote import Remote
what, url, cache, key, folder = sys.argv[1:]
remote = Remote.open(url, environment=os.environ)
remote.record(Digest(key))
entry = LocalStore(Path(cache)).get("engine", Digest(key))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if what == "push":
    remote.push(entry)
else:
    remote.fetch(entry.manifest, Path(folder), Path(folder) / "partial")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["folder", "s3"])
def test_a_large_file_is_never_in_memory_as_a_whole(
    bucket: str, server: S3Server, near: LocalStore, tmp_path: Path, where: str
) -> None:
    entry = published(near, {"model.engine": secrets.token_bytes(200 * MIB)})
    url = str(tmp_path / "far") if where == "folder" else bucket
    into = tmp_path / "into"
    into.mkdir()
    for what in ("push", "fetch"):
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, what, url, near.root, entry.manifest.key, into],
            env={**os.environ, **environment(server.url)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(done.stdout) < 100 * 1024, f"{what}: {int(done.stdout) // 1024} MiB"
    assert near.broken_files(entry) == []
    (into / "model.engine").unlink()


def test_an_endpoint_for_s3_alone_goes_before_the_one_for_all(
    bucket: str, proxy: Proxy, server: S3Server
) -> None:
    given = {**environment(server.url), "AWS_ENDPOINT_URL_S3": proxy.url}
    assert Remote.open(bucket, environment=given).record(KEY) is None
    assert proxy.faults.count("^GET") == 1


def test_a_bucket_that_is_not_there_is_said(server: S3Server, near: LocalStore) -> None:
    """A typo in its name must not look like an empty store."""
    remote = Remote.open("s3://no-such-bucket/x", environment=environment(server.url))
    with pytest.raises(RemoteUnavailable, match="has no such bucket"):
        remote.record(digest_value("any"))
    with pytest.raises(RemoteUnavailable, match="has no such bucket"):
        remote.push(published(near, {"a": b"a"}))
