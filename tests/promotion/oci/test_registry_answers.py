"""Registries that answer as the specification lets them, and as docker-registry does not."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from engineforge.digest import digest_bytes
from engineforge.promotion.oci.documents import (
    EMPTY_CONFIG,
    MANIFEST,
    MOST_BYTES,
    Descriptor,
    ImageIndex,
    ImageManifest,
)
from engineforge.promotion.oci.registry import Registry
from engineforge.promotion.oci.repository import BlobCorrupt
from engineforge.store.far.objects import RemoteUnavailable
from tests.store.remote_servers import serving

Headers = Mapping[str, str]
Answer = tuple[int, Headers, bytes]
DATA = bytes(range(256)) * 8192  # 2 MiB
BLOB = Descriptor.of(DATA, "application/octet-stream")
SUBJECT = digest_bytes(b"a subject")


@dataclass
class Site:
    """Answers each request by what `answer` says of its line, headers and body; of the next
    answers' bodies, only as many bytes as `cuts` has go out before the connection ends."""

    answer: Callable[[str, Headers, bytes], Answer] = lambda *_: (404, {}, b"")
    cuts: list[int] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    url: str = ""

    def open(self) -> Registry:
        return Registry.open(
            self.url, environment={}, said=self.said.append, wait=self.waited.append
        )


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            line = f"{self.command} {self.path}"
            made.seen.append(line)
            status, headers, data = made.answer(line, dict(self.headers.items()), body)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                if self.command != "HEAD":
                    cut = made.cuts.pop(0) if made.cuts and data else None
                    self.wfile.write(data[:cut])
                    self.close_connection = cut is not None

        do_GET = do_PUT = do_HEAD = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        made.url = f"oci://127.0.0.1:{port}/a"
        yield made


def _blob(_: str, headers: Headers, __: bytes) -> Answer:
    wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
    if wanted is None:
        return 200, {}, DATA
    start = int(wanted[1])
    return 206, {"Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"}, DATA[start:]


@pytest.mark.parametrize("answer", [_blob, lambda *_: (200, {}, DATA)], ids=["ranges", "no ranges"])
def test_a_download_goes_on_where_it_broke_off(
    site: Site, answer: Callable[[str, Headers, bytes], Answer]
) -> None:
    site.answer, site.cuts = answer, [1_500_000, 1_900_000, 100_000]
    assert b"".join(site.open().stream(BLOB)) == DATA


def test_another_part_than_was_asked_for_is_corrupt(site: Site) -> None:
    def answer(line: str, headers: Headers, body: bytes) -> Answer:
        status, more, data = _blob(line, headers, body)
        return status, dict.fromkeys(more, "bytes 0-9/10"), data

    site.answer, site.cuts = answer, [1_500_000]
    with pytest.raises(BlobCorrupt, match="another part"):
        list(site.open().stream(BLOB))


def test_a_download_that_makes_no_headway_is_given_up(site: Site) -> None:
    site.answer, site.cuts = _blob, [0] * 100
    with pytest.raises(RemoteUnavailable, match="broke"):
        list(site.open().stream(BLOB))
    assert len(site.seen) == 6


def test_a_manifest_that_is_too_large_is_not_read(site: Site) -> None:
    data = b"{" + b" " * MOST_BYTES + b"}"
    site.answer = lambda *_: (200, {}, data)
    with pytest.raises(BlobCorrupt, match="more than 4194304 bytes"):
        site.open().manifest(digest_bytes(data))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_may_pass_is_asked_again(site: Site, status: int) -> None:
    answers: Iterator[Answer] = iter([(status, {}, b"")] * 3)
    site.answer = lambda *_: next(answers, (200, {}, b'{"tags": ["net"]}'))
    assert site.open().tags() == ["net"]
    assert site.waited == [0.2, 0.4, 0.8]


def test_a_registry_says_how_long_to_wait(site: Site) -> None:
    answers = iter([(429, {"Retry-After": "7"}, b"")])
    site.answer = lambda *_: next(answers, (200, {}, b'{"tags": ["net"]}'))
    site.open().tags()
    assert site.waited == [7.0]
    assert "trying again in 7 s" in site.said[0]


def test_what_does_not_pass_is_told_with_what_the_registry_says(site: Site) -> None:
    said = {"errors": [{"code": "TOOMANYREQUESTS", "message": "slow\x1b[31m down"}]}
    site.answer = lambda *_: (429, {}, json.dumps(said).encode())
    with pytest.raises(RemoteUnavailable) as error:
        site.open().tags()
    assert "429 Too Many Requests (TOOMANYREQUESTS slow [31m down)" in str(error.value)


def test_a_tag_without_its_digest_in_a_header_is_read(site: Site) -> None:
    site.answer = lambda *_: (200, {}, b"{}")
    assert site.open().resolve("net") == digest_bytes(b"{}")


@pytest.mark.parametrize(("status", "removed"), [(202, True), (404, True), (405, False)])
def test_a_tag_is_removed_where_that_can_be(site: Site, status: int, removed: bool) -> None:
    site.answer = lambda line, *_: (status if line.startswith("DELETE") else 404, {}, b"")
    assert site.open().untag("net") is removed


def test_referrers_come_over_several_pages(site: Site) -> None:
    made = [Descriptor.of(str(n).encode(), MANIFEST, artifact_type=f"a/{n}") for n in range(3)]

    def answer(line: str, *_: object) -> Answer:
        number = int(line.partition("?page=")[2] or 0)
        more = {"Link": f'<{line.split()[1].partition("?")[0]}?page={number + 1}>; rel="next"'}
        index = ImageIndex(manifests=(made[number],)).to_bytes()
        return 200, more if number < 2 else {}, index

    site.answer = answer
    assert site.open().referrers(SUBJECT) == made


def test_a_list_without_end_is_given_up(site: Site) -> None:
    site.answer = lambda line, *_: (200, {"Link": f'<{line.split()[1]}>; rel="next"'}, b"{}")
    with pytest.raises(RemoteUnavailable, match="come to the end of a list"):
        site.open().tags()
    assert len(site.seen) == 1


def test_a_registry_that_keeps_referrers_itself_gets_no_tag_for_them(site: Site) -> None:
    subject = Descriptor.of(b"a subject", MANIFEST)
    data = ImageManifest(
        artifact_type="a/b", config=EMPTY_CONFIG, layers=(), subject=subject
    ).to_bytes()

    def answer(line: str, *_: object) -> Answer:
        return (201, {"OCI-Subject": SUBJECT}, b"") if line.startswith("PUT") else (200, {}, data)

    site.answer = answer
    site.open().put_manifest(data)
    assert [line.split()[0] for line in site.seen] == ["PUT", "GET"]


@dataclass
class Uploads:
    """A registry that takes parts of 100 MiB at least, and keeps of one that broke off the half."""

    held: bytes = b""
    parts: list[str] = field(default_factory=list)
    breaks: list[bool] = field(default_factory=list)

    def answer(self, line: str, headers: Headers, body: bytes) -> Answer:
        method = line.split(maxsplit=1)[0]
        there = {"Location": "/v2/a/blobs/uploads/1?state=a%2Fb"}
        if method == "POST":
            return 202, {**there, "OCI-Chunk-Min-Length": str(100 << 20)}, b""
        if method == "PATCH":
            self.parts.append(headers["Content-Range"])
            broken = self.breaks.pop(0) if self.breaks else False
            self.held += body[: len(body) // 2] if broken else body
            return (503 if broken else 202), {**there, "Range": f"0-{len(self.held) - 1}"}, b""
        if method == "GET":
            return 204, {**there, "Range": f"0-{len(self.held) - 1}"}, b""
        if method == "PUT":
            assert line == f"PUT /v2/a/blobs/uploads/1?state=a%2Fb&digest={BLOB.digest}".replace(
                "sha256:", "sha256%3A"
            )
            return 201, {}, b""
        return 200, {"Content-Length": str(len(self.held))}, b""


def test_an_upload_goes_on_from_what_the_registry_kept(site: Site) -> None:
    uploads = Uploads(breaks=[True, True])
    site.answer = uploads.answer
    site.open().push(BLOB, lambda at: iter((DATA[at : at + 500_000], DATA[at + 500_000 :])))
    assert uploads.held == DATA
    assert uploads.parts == ["0-2097151", "1048576-2097151", "1572864-2097151"]


def test_parts_are_as_large_as_the_registry_wants(site: Site) -> None:
    uploads = Uploads()
    site.answer = uploads.answer
    site.open().push(BLOB, lambda at: iter((DATA[at:],)))
    assert len(uploads.parts) == 1
