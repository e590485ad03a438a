"""Files from elsewhere: whole or not at all, once, gone on with, and no credentials where they do
not belong."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engineforge.errors import EngineForgeError, UsageError
from engineforge.store import disk
from engineforge.store.far.download import WrongDigest, fetch
from tests.store.remote_servers import SECRET, S3Server, environment, proxy_before, s3_server
from tests.store.web_server import Site, site

MODEL = random.Random(0).randbytes(3 << 20)
TOKEN = "hf_ThisIsNoRealTokenOfAnybody"  # noqa: S105
PATH = "/models/model.onnx"
KEY = "/a folder/model.onnx"


def hexdigest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def server() -> Iterator[Site]:
    with site() as made:
        made.files[PATH] = MODEL
        yield made


@pytest.fixture
def cdn() -> Iterator[Site]:
    with site() as made:
        yield made


class Here:
    """One machine's disk: `get` fetches to `out`."""

    def __init__(self, folder: Path) -> None:
        self.out, self.partial = folder / "out", folder / "partial"
        self.told: list[tuple[int, int]] = []
        self.environment: dict[str, str] = {"HOME": str(folder)}

    def get(
        self,
        url: str,
        sha256: str | None = None,
        retries: int = 2,
        told: Callable[[int, int], None] | None = None,
    ) -> bytes:
        found = fetch(
            url,
            sha256=sha256,
            out=self.out,
            partial=self.partial,
            environment=self.environment,
            told=told or (lambda *each: self.told.append(each)),
            retries=retries,
        )
        data = self.out.read_bytes()
        assert found.digest.hex == hexdigest(data)
        self.out.unlink()
        return data

    def fails(self, url: str, sha256: str | None = None, retries: int = 0) -> EngineForgeError:
        with pytest.raises(EngineForgeError) as caught:
            self.get(url, sha256, retries)
        assert not self.out.exists()
        return caught.value

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.partial.iterdir()) if self.partial.exists() else []


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


@pytest.mark.parametrize("sha256", [None, hexdigest(MODEL)], ids=["unknown", "pinned"])
@pytest.mark.parametrize("length", ["told", "chunked"])
def test_a_file_comes_whole(server: Site, here: Here, sha256: str | None, length: str) -> None:
    server.length = length
    assert here.get(server.url + PATH, sha256) == MODEL
    assert here.kept() == []
    assert len(server.seen) == 1


def test_an_empty_file_is_a_file(server: Site, here: Here) -> None:
    server.files[PATH] = b""
    assert here.get(server.url + PATH) == b""


def test_how_far_it_is_is_told(server: Site, here: Here) -> None:
    here.get(server.url + PATH)
    assert here.told == sorted(here.told)
    assert here.told[-1] == (len(MODEL), len(MODEL))
    assert len(here.told) > 2


def test_a_wrong_digest_keeps_nothing_and_names_both(server: Site, here: Here) -> None:
    error = here.fails(server.url + PATH, "0" * 64)
    assert isinstance(error, WrongDigest)
    assert f"expected sha256 '{'0' * 64}', found '{hexdigest(MODEL)}'" in str(error)
    assert "`engineforge lock --update`" in (error.hint or "")
    assert here.kept() == []


@pytest.mark.parametrize("sha256", [None, hexdigest(MODEL)], ids=["unknown", "pinned"])
def test_a_dropped_connection_is_taken_up_where_it_was(
    server: Site, here: Here, sha256: str | None
) -> None:
    server.drop_after = [1_000_000, 500_000]
    assert here.get(server.url + PATH, sha256) == MODEL
    asked = [each.headers.get("Range") for each in server.seen]
    assert asked == [None, "bytes=1000000-", "bytes=1500000-"]
    assert server.seen[1].headers["If-Range"] == server.etag(MODEL)


def test_a_server_without_ranges_sends_it_all_again(server: Site, here: Here) -> None:
    server.drop_after, server.ranges = [1_000_000], False
    assert here.get(server.url + PATH) == MODEL
    assert here.told[-1] == (len(MODEL), len(MODEL))


def test_what_nothing_holds_together_begins_again(server: Site, here: Here) -> None:
    server.drop_after, server.validators = [1_000_000], False
    assert here.get(server.url + PATH) == MODEL
    assert [each.headers.get("Range") for each in server.seen] == [None, None]


def test_a_pinned_file_is_gone_on_with_though_nothing_else_holds_it_together(
    server: Site, here: Here
) -> None:
    server.drop_after, server.validators = [1_000_000], False
    assert here.get(server.url + PATH, hexdigest(MODEL)) == MODEL
    assert server.seen[1].headers["Range"] == "bytes=1000000-"


@pytest.mark.parametrize("ignores", [False, True], ids=["If-Range", "no If-Range"])
def test_what_changes_meanwhile_is_never_mixed(server: Site, here: Here, ignores: bool) -> None:
    server.drop_after, server.ignores_if_range = [1_000_000], ignores
    other = random.Random(1).randbytes(len(MODEL))

    def told(at: int, _size: int) -> None:
        if at < len(MODEL):
            server.files[PATH] = other

    assert here.get(server.url + PATH, told=told) == other


@pytest.mark.parametrize("ignores", [False, True], ids=["If-Range", "no If-Range"])
def test_what_has_become_shorter_begins_again(server: Site, here: Here, ignores: bool) -> None:
    server.drop_after, server.ignores_if_range = [1_000_000], ignores

    def told(_at: int, _size: int) -> None:
        server.files[PATH] = b"short"

    assert here.get(server.url + PATH, told=told) == b"short"


def test_a_truncated_file_is_none_and_the_next_call_goes_on(server: Site, here: Here) -> None:
    server.drop_after = [1_000_000, 0, 0, 0]
    error = here.fails(server.url + PATH)
    assert "after 1000000 of 3145728 bytes" in str(error)
    assert "what came is kept" in str(error)
    server.drop_after = []
    assert here.get(server.url + PATH) == MODEL
    assert server.seen[-1].headers["Range"] == "bytes=1000000-"
    assert here.kept() == []


def test_a_server_that_always_drops_is_given_up(server: Site, here: Here) -> None:
    server.validators, server.drop_after = False, [1_000_000] * 9
    assert "cannot be fetched: the connection ended" in str(
        here.fails(server.url + PATH, retries=1)
    )
    assert len(server.seen) == 2
    assert here.kept() == []


def test_without_a_length_or_a_digest_a_part_would_pass_for_the_whole(
    server: Site, here: Here
) -> None:
    server.length = "until the end"
    assert "comes without its length" in str(here.fails(server.url + PATH))
    assert here.get(server.url + PATH, hexdigest(MODEL)) == MODEL
    server.drop_after = [1000]
    error = here.fails(server.url + PATH, hexdigest(MODEL))
    assert "(1000 bytes, which may be a part: the server told no length)" in str(error)


def test_chunks_that_break_off_are_no_file(server: Site, here: Here) -> None:
    server.length, server.drop_after = "chunked", [1_000_000]
    assert "the connection broke: it ended too early" in str(here.fails(server.url + PATH))


def test_a_killed_process_is_gone_on_with(server: Site, here: Here, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(12 << 20)
    server.files[PATH], server.hold_after = data, 10 << 20
    program = f"""
import sys
from pathlib import Path
from engineforge.store import disk
from engineforge.store.far.download import fetch
folder = Path({str(tmp_path)!r})
fetch({server.url + PATH!r}, sha256=None, out=folder / "out", partial=folder / "partial",
      environment={{}}, told=lambda at, size: print(at, flush=True))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as said:
        for line in said:
            if int(line) == 10 << 20:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
    server.go_on.set()
    assert here.get(server.url + PATH) == data
    start = int(server.seen[-1].headers["Range"][6:-1])
    assert 8 << 20 <= start <= 10 << 20
    assert here.kept() == []


def test_what_a_power_cut_left_is_not_gone_on_with(server: Site, here: Here) -> None:
    server.drop_after = [1_000_000]
    here.fails(server.url + PATH)
    (part,) = (here.partial / name for name in here.kept() if len(name) == 64)
    with part.open("r+b") as file:
        file.seek(500_000)
        file.write(bytes(4096))
    assert here.get(server.url + PATH) == MODEL
    assert "Range" not in server.seen[-1].headers


def test_an_interrupted_download_is_gone_on_with(server: Site, here: Here) -> None:
    def told(at: int, _size: int) -> None:
        if at > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here.get(server.url + PATH, told=told)
    assert here.get(server.url + PATH) == MODEL
    assert int(server.seen[-1].headers["Range"][6:-1]) > 1_000_000


def test_what_was_whole_when_it_was_interrupted_is_asked_for_no_more(
    server: Site, here: Here
) -> None:
    def told(at: int, size: int) -> None:
        if at == size:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here.get(server.url + PATH, hexdigest(MODEL), told=told)
    assert here.get(server.url + PATH, hexdigest(MODEL)) == MODEL
    assert len(server.seen) == 1


def test_what_was_whole_is_asked_for_again_where_nothing_pins_it(server: Site, here: Here) -> None:
    def told(at: int, size: int) -> None:
        if at == size:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        here.get(server.url + PATH, told=told)
    server.files[PATH] = b"another"
    assert here.get(server.url + PATH) == b"another"


def test_a_full_disk_is_gone_on_with_when_there_is_room(server: Site, here: Here) -> None:
    def watch(change: disk.Change) -> None:
        written = change.path.stat().st_size if change.kind == "write" else 0
        if written > 1_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(change.path))

    with disk.watched(watch), pytest.raises(OSError, match="No space left"):
        here.get(server.url + PATH)
    assert here.get(server.url + PATH) == MODEL
    assert int(server.seen[-1].headers["Range"][6:-1]) >= 500_000


def test_without_locks_a_part_is_nobodys(
    server: Site, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    server.drop_after = [1_000_000]
    here.fails(server.url + PATH)
    assert [name for name in here.kept() if not name.endswith(".lock")] == []
    assert here.get(server.url + PATH) == MODEL


def test_two_at_once_do_not_mix(server: Site, tmp_path: Path) -> None:
    server.hold_after = 1 << 20
    got: list[bytes] = []

    def run(name: str) -> None:
        one = Here(tmp_path)
        one.out = tmp_path / name
        got.append(one.get(server.url + PATH))

    threads = [threading.Thread(target=run, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    while not server.seen:
        time.sleep(0.01)
    time.sleep(0.2)
    assert len(server.seen) == 1
    server.go_on.set()
    for thread in threads:
        thread.join()
    assert got == [MODEL, MODEL]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_a_server_may_get_over_is_asked_again(server: Site, here: Here, status: int) -> None:
    server.statuses = [status]
    assert here.get(server.url + PATH) == MODEL


def test_what_stays_ill_is_given_up(server: Site, here: Here) -> None:
    server.statuses = [503] * 9
    assert "503 Service Unavailable" in str(here.fails(server.url + PATH, retries=1))
    assert len(server.seen) == 2
    assert here.kept() == []


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (404, "there is no '{url}': the server answers 404 Not Found"),
        (401, "'{url}' is refused: the server answers 401 Unauthorized"),
        (403, "'{url}' is refused: the server answers 403 Forbidden"),
        (400, "'{url}' cannot be fetched: the server answers 400 Bad Request"),
    ],
)
def test_a_refusal_is_said_and_not_tried_again(
    server: Site, here: Here, status: int, said: str
) -> None:
    server.statuses = [status] * 9
    error = here.fails(server.url + PATH, retries=3)
    assert error.args[0] == said.format(url=server.url + PATH)
    assert len(server.seen) == 1
    assert here.kept() == []
    assert (error.hint or "").endswith("looked for in ~/.netrc: there were none") or status == 400


def test_a_host_that_is_not_there_is_said(here: Here) -> None:
    error = here.fails("http://127.0.0.1:9/model.onnx")
    assert "no answer from '127.0.0.1:9': Connection refused" in str(error)


def test_a_file_that_comes_compressed_is_refused(server: Site, here: Here) -> None:
    server.headers = {"Content-Encoding": "gzip"}
    assert "comes compressed ('gzip')" in str(here.fails(server.url + PATH))


def test_http_is_for_this_host_alone(here: Here) -> None:
    error = here.fails("http://example.invalid/model.onnx")
    assert isinstance(error, UsageError)
    assert str(error) == (
        "'http://example.invalid/model.onnx' is not encrypted\n"
        "hint: use https://, or set AWS_ALLOW_HTTP=true if that is meant"
    )


def test_http_to_others_can_be_meant(here: Here) -> None:
    here.environment["AWS_ALLOW_HTTP"] = "true"
    assert "no answer from" in str(here.fails("http://example.invalid/model.onnx"))


def test_a_redirect_to_an_unencrypted_host_is_refused(server: Site, here: Here) -> None:
    server.redirects[PATH] = "http://example.invalid/model.onnx?X-Amz-Signature=abcdef"
    error = here.fails(server.url + PATH)
    assert "'http://example.invalid/model.onnx?…', to which it redirects, is not encrypted" in str(
        error
    )


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://example.invalid/x", f"http://me:{TOKEN}@127.0.0.1/x"]
)
def test_a_redirect_leads_to_web_servers_alone(server: Site, here: Here, to: str) -> None:
    server.redirects[PATH] = to
    error = here.fails(server.url + PATH)
    assert "redirects and leads to no web server" in str(error)
    assert TOKEN not in everything_said(error)


def test_redirects_in_a_circle_end(server: Site, here: Here) -> None:
    server.redirects[PATH] = PATH
    assert "redirects more than 10 times" in str(here.fails(server.url + PATH))


def netrc(here: Here) -> str:
    """A password for the server, and the header that it makes."""
    (Path(here.environment["HOME"]) / ".netrc").write_text(
        f"machine 127.0.0.1 login me password {TOKEN}\n"
    )
    (Path(here.environment["HOME"]) / ".netrc").chmod(0o600)
    return "Basic " + base64.b64encode(f"me:{TOKEN}".encode()).decode()


def test_credentials_come_from_netrc(server: Site, here: Here) -> None:
    server.authorization = netrc(here)
    assert here.get(server.url + PATH) == MODEL


def test_credentials_are_not_sent_on_to_another_server(server: Site, cdn: Site, here: Here) -> None:
    """Another port of the same host is another server."""
    server.authorization = netrc(here)
    server.redirects[PATH] = f"{cdn.url}/blob?X-Amz-Signature=abc"
    cdn.files["/blob"] = MODEL
    assert here.get(server.url + PATH) == MODEL
    assert "Authorization" in server.seen[-1].headers
    assert [name for name in cdn.seen[0].headers if "auth" in name.lower()] == []
    assert cdn.seen[0].path == "/blob?X-Amz-Signature=abc"


def test_credentials_stay_within_one_server(server: Site, here: Here) -> None:
    server.authorization = netrc(here)
    server.redirects["/old"] = PATH
    assert here.get(f"{server.url}/old") == MODEL


def test_a_download_that_was_redirected_is_gone_on_with(
    server: Site, cdn: Site, here: Here
) -> None:
    server.redirects[PATH] = f"{cdn.url}/blob?signature=1"
    cdn.files["/blob"], cdn.drop_after = MODEL, [1_000_000]
    assert here.get(server.url + PATH) == MODEL
    assert [each.headers.get("Range") for each in cdn.seen] == [None, "bytes=1000000-"]


def test_a_proxy_is_gone_through(server: Site, here: Here) -> None:
    here.environment |= {"http_proxy": server.url, "AWS_ALLOW_HTTP": "1"}
    server.files["/behind"] = MODEL
    assert here.get("http://example.invalid/behind") == MODEL
    assert server.seen[0].path == "http://example.invalid/behind"


def test_a_proxy_is_passed_by_where_no_proxy_says(server: Site, here: Here) -> None:
    here.environment |= {"http_proxy": "http://127.0.0.1:9", "no_proxy": "other, 127.0.0.1"}
    assert here.get(server.url + PATH) == MODEL


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://example.com/x", "a file cannot be fetched from 'ftp://…'"),
        ("model.onnx", "that is no URL"),
        ("https://", "the URL 'https://' names no host"),
        ("https://example.com", "the URL 'https://example.com' names no file"),
        ("https://example.com/a b", "'https://example.com/a b' holds a space"),
        ("s3://bucket/a\tb", "the URL 's3://bucket/a?b' holds a control character"),
        ("https://example.com/a#b", "the URL 'https://example.com/a' ends in a '#…'"),
        ("hf://org/repo", "'hf://org/repo' names no file of a repository"),
        ("hf://datasets/org/repo/x", "only repositories of models are read"),
        ("hf://org/repo@/x", "'hf://org/repo@/x' names no repository or revision"),
        ("s3://bucket", "'s3://bucket' names no object"),
    ],
)
def test_a_url_that_cannot_be_meant_is_said(here: Here, url: str, said: str) -> None:
    error = here.fails(url)
    assert said in str(error)
    assert error.exit_code == 2


@pytest.mark.parametrize(
    "url",
    [
        f"https://me:{TOKEN}@example.com/model.onnx",
        f"https://me:{TOKEN[:4]}/{TOKEN[4:]}@example.com/model.onnx",
        f"https://{TOKEN}@example.com:x/model.onnx",
        f"s3://me:{TOKEN}@bucket/model.onnx",
        f"az://container/model.onnx?sv=1&sig={TOKEN}",
        f"https://example.com/model.onnx\n?X-Amz-Signature={TOKEN}",
    ],
)
def test_a_url_with_a_password_is_refused_and_not_repeated(here: Here, url: str) -> None:
    error = here.fails(url)
    assert error.exit_code == 2
    assert TOKEN not in everything_said(error)
    assert TOKEN[4:] not in everything_said(error)


@pytest.mark.parametrize("name", ["X-Amz-Signature", "sig", "access_token", "private-token"])
def test_a_signed_url_is_fetched_and_its_signature_told_nowhere(
    server: Site, here: Here, name: str
) -> None:
    url = f"{server.url}{PATH}?id=3&{name}={TOKEN}"
    assert here.get(url, hexdigest(MODEL)) == MODEL
    assert TOKEN in server.seen[0].path
    server.drop_after = [1_000_000]
    assert TOKEN not in everything_said(here.fails(url, hexdigest(MODEL)))
    everything = [path.read_bytes() for path in here.partial.iterdir()]
    assert everything
    assert not [data for data in everything if TOKEN.encode() in data]
    server.statuses = [403]
    assert TOKEN not in everything_said(here.fails(url))
    # Signed again, it is the same file.
    assert here.get(url.replace(TOKEN, "another"), hexdigest(MODEL)) == MODEL
    assert server.seen[-1].headers["Range"] == "bytes=1000000-"


def everything_said(error: BaseException) -> str:
    """The messages of an error and of all that led to it, as a traceback has them."""
    said = "".join(traceback.format_exception_only(error)) + str(error)
    if error.__cause__ is not None:
        said += everything_said(error.__cause__)
    elif error.__context__ is not None and not error.__suppress_context__:
        said += everything_said(error.__context__)
    return said


# Hugging Face


@pytest.fixture
def hub(server: Site, here: Here) -> Site:
    server.repositories["org/net"] = {
        "main": ("a" * 40, {"onnx/model.onnx": MODEL}),
        "refs/pr/1": ("b" * 40, {"onnx/model.onnx": b"of a pull request"}),
    }
    here.environment |= {"HF_ENDPOINT": server.url}
    return server


@pytest.mark.parametrize(
    ("url", "data"),
    [
        ("hf://org/net/onnx/model.onnx", MODEL),
        ("hf://org/net@main/onnx/model.onnx", MODEL),
        (f"hf://org/net@{'a' * 40}/onnx/model.onnx", MODEL),
        ("hf://org/net@refs%2Fpr%2F1/onnx/model.onnx", b"of a pull request"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_a_file_comes_from_the_hub(here: Here, url: str, data: bytes) -> None:
    assert here.get(url) == data


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(
    hub: Site, cdn: Site, here: Here
) -> None:
    hub.authorization = f"Bearer {TOKEN}"
    here.environment["HF_TOKEN"] = f"{TOKEN}\n"
    hub.redirects["/org/net/resolve/main/onnx/model.onnx"] = f"{cdn.url}/blob"
    cdn.files["/blob"], cdn.drop_after = MODEL, [1_000_000]
    assert here.get("hf://org/net/onnx/model.onnx") == MODEL
    assert len(cdn.seen) == 2
    assert not [each for each in cdn.seen if TOKEN in str(each)]


def test_the_token_is_not_sent_unencrypted(hub: Site, here: Here) -> None:
    here.environment |= {"HF_TOKEN": TOKEN, "HF_ENDPOINT": "http://hub.invalid"}
    here.environment |= {"AWS_ALLOW_HTTP": "true", "http_proxy": hub.url}
    here.get("hf://org/net/onnx/model.onnx")
    assert TOKEN not in str(hub.seen)


@pytest.mark.parametrize("where", ["HF_TOKEN_PATH", "HF_HOME", "XDG_CACHE_HOME", "HOME"])
def test_the_token_may_be_in_a_file(hub: Site, here: Here, tmp_path: Path, where: str) -> None:
    below = {"HF_HOME": "token", "XDG_CACHE_HOME": "huggingface/token"}
    path = tmp_path / "it" / below.get(where, ".cache/huggingface/token")
    path.parent.mkdir(parents=True)
    path.write_text(f"{TOKEN}\n")
    here.environment[where] = str(path if where == "HF_TOKEN_PATH" else tmp_path / "it")
    hub.authorization = f"Bearer {TOKEN}"
    assert here.get("hf://org/net/onnx/model.onnx") == MODEL


def test_a_refusal_of_the_hub_says_where_a_token_was_looked_for(hub: Site, here: Here) -> None:
    hub.authorization, hub.headers = "Bearer another", {"X-Error-Code": "GatedRepo"}
    error = here.fails("hf://org/net/onnx/model.onnx")
    home = here.environment["HOME"]
    assert str(error) == (
        "'hf://org/net/onnx/model.onnx' is refused: the server answers 401 Unauthorized "
        "(GatedRepo)\n"
        "hint: accept its conditions on its page; credentials were looked for in HF_TOKEN and "
        f"'{home}/.cache/huggingface/token': there were none"
    )
    here.environment["HF_TOKEN"] = TOKEN
    error = here.fails("hf://org/net/onnx/model.onnx")
    assert str(error).endswith("they were found in HF_TOKEN")
    assert TOKEN not in everything_said(error)


@pytest.mark.usefixtures("hub")
def test_a_token_that_is_none_is_not_repeated(here: Here) -> None:
    here.environment["HF_TOKEN"] = f"{TOKEN}\r\nX-Header: 1"
    error = here.fails("hf://org/net/onnx/model.onnx")
    assert error.args[0] == "what HF_TOKEN holds is no token: it has characters that none has"
    assert TOKEN not in everything_said(error)


# Buckets


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    pytest.importorskip("obstore", reason="needs: python -m pip install 'engineforge[remote]'")
    pytest.importorskip("moto", reason="needs: python -m pip install 'engineforge[test]'")
    with s3_server() as started:
        yield started


def put(s3: S3Server, bucket: str, data: bytes) -> str | None:
    """Put the object, and have back its version in a bucket that keeps them."""
    import obstore
    from obstore.store import S3Store

    given = {name.lower(): value for name, value in environment(s3.url).items()}
    del given["aws_allow_http"]
    config: Any = given
    store = S3Store(
        bucket.removeprefix("s3://"), config=config, client_options={"allow_http": True}
    )
    return obstore.put(store, KEY, data)["version"]


def keep_versions(s3: S3Server, bucket: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", s3.port)
    text = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    with contextlib.closing(connection):
        connection.request("PUT", f"/{bucket.removeprefix('s3://')}?versioning", text)
        assert connection.getresponse().status == http.HTTPStatus.OK


@pytest.fixture
def bucket(s3: S3Server, here: Here) -> str:
    here.environment |= environment(s3.url)
    made = s3.bucket(f"b{secrets.token_hex(6)}")
    put(s3, made, MODEL)
    return made


def test_an_object_comes_whole(bucket: str, here: Here) -> None:
    assert here.get(bucket + KEY) == MODEL
    assert here.get(bucket + KEY, hexdigest(MODEL)) == MODEL


def test_an_object_of_a_version_is_that_one(s3: S3Server, bucket: str, here: Here) -> None:
    keep_versions(s3, bucket)
    first = put(s3, bucket, b"first")
    second = put(s3, bucket, b"second")
    assert here.get(bucket + KEY) == b"second"
    assert here.get(f"{bucket}{KEY}?versionId={first}") == b"first"
    assert here.get(f"{bucket}{KEY}?versionId={second}") == b"second"


def test_an_object_whose_connection_breaks_is_gone_on_with(
    s3: S3Server, bucket: str, here: Here
) -> None:
    with proxy_before(s3) as proxy:
        here.environment["AWS_ENDPOINT_URL"] = proxy.url
        proxy.faults.match = "^GET"
        proxy.faults.cut_after = [2_000_000]
        assert here.get(bucket + KEY) == MODEL
        assert proxy.faults.count("^GET .* bytes=[1-9]") == 1


def test_an_object_that_changes_meanwhile_is_never_mixed(
    s3: S3Server, bucket: str, here: Here
) -> None:
    """What is read in the process that goes on is not what the one before it began with."""
    with proxy_before(s3) as proxy:
        here.environment["AWS_ENDPOINT_URL"] = proxy.url

        def told(at: int, _size: int) -> None:
            if at > 1_000_000:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            here.get(bucket + KEY, told=told)
        other = random.Random(1).randbytes(len(MODEL))
        put(s3, bucket, other)
        assert here.get(bucket + KEY) == other
        assert proxy.faults.count("^GET .* bytes=[1-9]") >= 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_object_says_where_credentials_were_looked_for(
    s3: S3Server, bucket: str, here: Here, status: int
) -> None:
    with proxy_before(s3) as proxy:
        here.environment["AWS_ENDPOINT_URL"] = proxy.url
        proxy.faults.always = status
        error = here.fails(bucket + KEY)
    assert error.args[0].startswith(f"'{bucket}{KEY}' is refused: ")
    assert error.hint == (
        "credentials were looked for in AWS_ACCESS_KEY_ID, AWS_WEB_IDENTITY_TOKEN_FILE, "
        "AWS_CONTAINER_CREDENTIALS_FULL_URI and what this machine itself is given: they were "
        "found in AWS_ACCESS_KEY_ID; AWS_SKIP_SIGNATURE=true reads a public bucket"
    )
    assert SECRET not in everything_said(error)


def test_an_object_that_is_not_there_is_said(bucket: str, here: Here) -> None:
    error = here.fails(f"{bucket}/another.onnx")
    assert error.args[0].startswith(f"there is no '{bucket}/another.onnx': ")
    assert here.kept() == []


def test_an_ill_bucket_is_given_up(s3: S3Server, bucket: str, here: Here) -> None:
    with proxy_before(s3) as proxy:
        here.environment["AWS_ENDPOINT_URL"] = proxy.url
        proxy.faults.always = 503
        error = here.fails(bucket + KEY)
    assert "503" in str(error)
