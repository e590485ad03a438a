"""What URLs stand for now: asked of servers, and what was fetched for it is not fetched again."""

from __future__ import annotations

import hashlib
import random
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from engineforge.errors import EngineForgeError
from engineforge.spec.lock import Lock, Locked, pinned
from engineforge.spec.sources import UrlFile
from engineforge.store.far.download import WrongDigest, fetch
from engineforge.store.far.resolve import resolve
from tests.store.remote_servers import S3Server, environment, s3_server
from tests.store.test_download import KEY, keep_versions, put
from tests.store.web_server import Site, site

MODEL = random.Random(0).randbytes(1 << 20)
COMMIT, LATER = "a1" * 20, "b2" * 20
TOKEN = "hf_ThisIsNoRealTokenOfAnybody"  # noqa: S105


class Here:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment: dict[str, str] = {}

    def resolve(self, url: str) -> Locked:
        return resolve(
            url,
            partial=self.folder / "partial",
            environment=self.environment,
            told=lambda _done, _total: None,
            retries=0,
        )

    def fails(self, url: str) -> EngineForgeError:
        with pytest.raises(EngineForgeError) as caught:
            self.resolve(url)
        return caught.value

    def get(self, locked: Locked) -> bytes:
        """What a build fetches."""
        file = pinned(UrlFile(url=locked.url), Lock(entries={locked.url: locked}))
        out = self.folder / "out"
        fetch(
            file.url,
            sha256=file.sha256,
            out=out,
            partial=self.folder / "partial",
            environment=self.environment,
            told=lambda _done, _total: None,
            retries=0,
        )
        data = out.read_bytes()
        out.unlink()
        return data


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


@pytest.fixture
def server(here: Here) -> Iterator[Site]:
    with site() as made:
        here.environment["HF_ENDPOINT"] = made.url
        made.files["/model.onnx"] = MODEL
        made.repositories["org/net"] = {
            "main": (COMMIT, {"onnx/model.onnx": MODEL, "config.json": b"{}"})
        }
        made.large.add("onnx/model.onnx")
        yield made


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_of_a_server_is_fetched_once_for_lock_and_build(server: Site, here: Here) -> None:
    url = f"{server.url}/model.onnx"
    locked = here.resolve(url)
    assert locked == Locked(url=url, sha256=sha256(MODEL), size=len(MODEL))
    assert here.get(locked) == MODEL
    assert len(server.seen) == 1
    assert list((here.folder / "partial").iterdir()) == []


def test_what_was_left_and_spoilt_is_fetched_again(server: Site, here: Here) -> None:
    locked = here.resolve(f"{server.url}/model.onnx")
    (left,) = (path for path in (here.folder / "partial").iterdir() if path.suffix != ".json")
    left.write_bytes(bytes(len(MODEL)))
    assert here.get(locked) == MODEL
    assert len(server.seen) == 2


def test_a_large_file_of_the_hub_is_not_fetched(server: Site, here: Here) -> None:
    url = "hf://org/net/onnx/model.onnx"
    locked = here.resolve(url)
    assert locked == Locked(url=url, sha256=sha256(MODEL), size=len(MODEL), revision=COMMIT)
    assert [each.path for each in server.seen] == ["/api/models/org/net/revision/main?blobs=true"]
    assert here.get(locked) == MODEL
    assert server.seen[-1].path == f"/org/net/resolve/{COMMIT}/onnx/model.onnx"


def test_a_small_file_of_the_hub_is_fetched_at_the_commit(server: Site, here: Here) -> None:
    locked = here.resolve("hf://org/net@main/config.json")
    assert (locked.sha256, locked.size, locked.revision) == (sha256(b"{}"), 2, COMMIT)
    assert server.seen[-1].path == f"/org/net/resolve/{COMMIT}/config.json"


def test_a_branch_that_moves_is_still_what_it_was(server: Site, here: Here) -> None:
    locked = here.resolve("hf://org/net@main/onnx/model.onnx")
    server.repositories["org/net"] = {
        "old": server.repositories["org/net"]["main"],
        "main": (LATER, {"onnx/model.onnx": b"another"}),
    }
    assert here.get(locked) == MODEL
    assert here.resolve("hf://org/net@main/onnx/model.onnx").revision == LATER


def test_a_listing_that_lies_is_found_out_by_the_build(server: Site, here: Here) -> None:
    locked = here.resolve("hf://org/net/onnx/model.onnx")
    server.repositories["org/net"]["main"][1]["onnx/model.onnx"] = b"another"
    with pytest.raises(WrongDigest):
        here.get(locked)


def test_a_file_that_the_hub_does_not_list_is_said(server: Site, here: Here) -> None:
    assert str(here.fails("hf://org/net/onnx/model.onx")) == (
        "there is no file 'onnx/model.onx' in 'hf://org/net@main'\n"
        "hint: did you mean 'onnx/model.onnx'?"
    )


@pytest.mark.usefixtures("server")
def test_a_revision_that_is_not_there_is_said(here: Here) -> None:
    error = here.fails("hf://org/net@v9/onnx/model.onnx")
    assert error.args[0] == "there is no 'hf://org/net@v9': the server answers 404 Not Found"


def test_the_listing_is_asked_for_with_the_token(server: Site, here: Here) -> None:
    server.authorization = f"Bearer {TOKEN}"
    error = here.fails("hf://org/net/onnx/model.onnx")
    assert "'hf://org/net@main' is refused" in str(error)
    here.environment["HF_TOKEN"] = TOKEN
    assert here.resolve("hf://org/net/onnx/model.onnx").revision == COMMIT


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b'{"sha": "main"}'])
def test_what_does_not_answer_as_the_hub_does_is_said(
    server: Site, here: Here, answer: bytes
) -> None:
    server.files["/api/models/org/net/revision/main"] = answer
    said = str(here.fails("hf://org/net/onnx/model.onnx"))
    assert "does not answer as Hugging Face does" in said or "names no commit" in said


def test_a_listing_that_breaks_off_is_none(server: Site, here: Here) -> None:
    server.drop_after = [20]
    assert "cannot be asked for" in str(here.fails("hf://org/net/onnx/model.onnx"))


def test_a_signed_url_is_not_locked(server: Site, here: Here) -> None:
    error = here.fails(f"{server.url}/model.onnx?X-Amz-Signature={TOKEN}")
    assert TOKEN not in str(error)
    assert server.seen == []


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    pytest.importorskip("obstore", reason="needs: python -m pip install 'engineforge[remote]'")
    pytest.importorskip("moto", reason="needs: python -m pip install 'engineforge[test]'")
    with s3_server() as started:
        yield started


@pytest.mark.parametrize("versions", [False, True])
def test_an_object_is_locked_at_its_version(s3: S3Server, here: Here, versions: bool) -> None:
    here.environment |= environment(s3.url)
    bucket = s3.bucket(f"b{secrets.token_hex(6)}")
    if versions:
        keep_versions(s3, bucket)
    version = put(s3, bucket, MODEL)
    locked = here.resolve(bucket + KEY)
    assert locked == Locked(
        url=bucket + KEY,
        sha256=sha256(MODEL),
        size=len(MODEL),
        revision=version if versions else None,
    )
    assert here.get(locked) == MODEL
    put(s3, bucket, b"another")
    if versions:
        assert here.get(locked) == MODEL
    else:
        with pytest.raises(WrongDigest):
            here.get(locked)
