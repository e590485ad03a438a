"""A web server that drops connections, changes what it has, redirects, wants a token and answers as
Hugging Face does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from tests.store.remote_servers import serving


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Site:
    """What a server has, and how it behaves from now on."""

    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    authorization: str | None = None
    """The header that every request must have; without it: 401."""
    statuses: list[int] = field(default_factory=list)
    """What the next requests are answered with, in place of a file."""
    headers: dict[str, str] = field(default_factory=dict)
    """What answers have besides; what is None there, they have not."""
    drop_after: list[int] = field(default_factory=list)
    """Of the next answers, the bytes of the body after which the connection ends."""
    validators: bool = True
    ranges: bool = True
    ignores_if_range: bool = False
    length: str = "told"
    """Or 'chunked', or 'until the end'."""
    hold_after: int | None = None
    """Bytes of the body after which answers wait for `go_on`."""
    go_on: threading.Event = field(default_factory=threading.Event)
    repositories: dict[str, dict[str, tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    """Name -> revision -> its commit, and its files."""
    large: set[str] = field(default_factory=set)
    seen: list[Request] = field(default_factory=list)
    url: str = ""

    def etag(self, data: bytes) -> str:
        return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'

    def asked(self, path: str = "") -> list[Request]:
        return [each for each in self.seen if path in each.path]

    def found(self, path: str) -> bytes | None:
        if path in self.files:
            return self.files[path]
        if listed := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", path):
            return self._listing(listed[1], unquote(listed[2]))
        if resolved := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._revision(resolved[1], unquote(resolved[2]))[1].get(unquote(resolved[3]))
        return None

    def _revision(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        revisions = self.repositories.get(name, {})
        by_commit = {commit: (commit, files) for commit, files in revisions.values()}
        return revisions.get(revision) or by_commit.get(revision) or ("", {})

    def _listing(self, name: str, revision: str) -> bytes | None:
        commit, files = self._revision(name, revision)
        if not commit:
            return None
        siblings = []
        for path, data in files.items():
            one: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": "0" * 40}
            if path in self.large:
                digest = hashlib.sha256(data).hexdigest()
                one["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
            siblings.append(one)
        return json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode()


@contextlib.contextmanager
def site() -> Iterator[Site]:
    made = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            made.seen.append(Request("GET", self.path, dict(self.headers.items())))
            path = urlsplit(self.path).path
            if made.authorization and self.headers.get("Authorization") != made.authorization:
                self._end(401)
            elif made.statuses:
                self._end(made.statuses.pop(0))
            elif path in made.redirects:
                self._end(302, {"Location": made.redirects[path]})
            elif (data := made.found(path)) is None:
                self._end(404)
            else:
                self._send(data)

        def _end(self, status: int, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {**made.headers, **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, data: bytes) -> None:
            etag, start = made.etag(data), 0
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            condition = self.headers.get("If-Range")
            holds = made.ignores_if_range or condition in (None, etag)
            if wanted and made.ranges and holds:
                start = int(wanted[1])
                if start >= len(data):
                    self._end(416)
                    return
            body = data[start:]
            headers = {"ETag": etag} if made.validators else {}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if made.length == "told":
                headers["Content-Length"] = str(len(body))
            elif made.length == "chunked":
                headers["Transfer-Encoding"] = "chunked"
            self.send_response(206 if start else 200)
            for name, value in {**headers, **made.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            cut = made.drop_after.pop(0) if made.drop_after else None
            with contextlib.suppress(OSError):  # the client may have gone
                self._body(body if cut is None else body[:cut], whole=cut is None)
            if cut is not None or made.length == "until the end":
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

        def _body(self, body: bytes, *, whole: bool) -> None:
            if made.hold_after is not None:
                self.wfile.write(body[: made.hold_after])
                self.wfile.flush()
                made.go_on.wait(30)
                body = body[made.hold_after :]
            if made.length == "chunked":
                for at in range(0, len(body), 1000):
                    piece = body[at : at + 1000]
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                self.wfile.write(b"0\r\n\r\n" if whole else b"")
            else:
                self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        made.url = f"http://127.0.0.1:{port}"
        yield made
        made.go_on.set()
