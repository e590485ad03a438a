"""An S3-compatible server as a process of its own, and a proxy before it that fails as networks
and servers do."""

from __future__ import annotations

import contextlib
import http
import http.client
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from engineforge.digest import digest_value
from engineforge.store.local import Entry, LocalStore
from engineforge.store.manifest import PlanRecord

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # noqa: S105  # as in Amazon's own examples
_START_SECONDS = 30
_ONCE = threading.Lock()


def environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class S3Server:
    """moto's server. What it holds is gone when it is killed."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                assert time.monotonic() < end, "moto does not start"
                time.sleep(0.02)

    def bucket(self, name: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        with contextlib.closing(connection):
            connection.request("PUT", f"/{name}")
            assert connection.getresponse().status == http.HTTPStatus.OK
        return f"s3://{name}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def s3_server(port: int | None = None) -> Iterator[S3Server]:
    server = S3Server(port)
    try:
        yield server
    finally:
        server.kill()


@dataclass
class Faults:
    """What goes wrong with the next requests whose method and path match, and what came."""

    match: str = ""
    statuses: list[int] = field(default_factory=list)
    cut_after: list[int] = field(default_factory=list)
    """Bytes of the answer's body after which the connection ends."""
    flips: int = 0
    """So many answers come with one bit of their body changed."""
    always: int | None = None
    seen: list[str] = field(default_factory=list)

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, each)) for each in self.seen)


@dataclass(frozen=True)
class Proxy:
    url: str
    faults: Faults


@contextlib.contextmanager
def proxy_before(server: S3Server) -> Iterator[Proxy]:
    faults = Faults()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            line = f"{self.command} {self.path} {self.headers.get('Range', '')}"
            with _ONCE:
                faults.seen.append(line)
                matches = re.search(faults.match, line) is not None
                status = faults.always if matches else None
                if matches and faults.statuses:
                    status = faults.statuses.pop(0)
                cut = None
                if matches and status is None and faults.cut_after:
                    cut = faults.cut_after.pop(0)
                flip = matches and status is None and faults.flips > 0
                faults.flips -= flip
            if status is not None:
                text = f"<Error><Code>Refused</Code><Key>{SECRET}</Key></Error>".encode()
                self._answer(status, {"Content-Length": str(len(text))}, text, None)
                return
            upstream = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            try:
                headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                data = answer.read()
                if flip:
                    data = data[:-1] + bytes([data[-1] ^ 1])
                kept = {
                    name: value
                    for name, value in answer.getheaders()
                    if name.lower() not in ("connection", "transfer-encoding", "date", "server")
                }
                if self.command != "HEAD":
                    kept["Content-Length"] = str(len(data))
                self._answer(answer.status, kept, data, cut)
            except OSError:
                self.close_connection = True
            finally:
                upstream.close()

        def _answer(
            self, status: int, headers: dict[str, str], data: bytes, cut: int | None
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data if cut is None else data[:cut])
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield Proxy(f"http://127.0.0.1:{port}", faults)


@contextlib.contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[int]:
    """The port of a server that runs in a thread."""
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def published(
    store: LocalStore, contents: dict[str, bytes], stage: str = "engine", what: str = "a test"
) -> Entry:
    """An entry with these files; its key is of `what`."""
    with store.session() as session, session.staged() as staged:
        for name, data in contents.items():
            (staged / name).write_bytes(data)
        document = {"format": 1, "what": what}
        entry, _ = store.publish(staged, stage=stage, key_document=document, digests={}, record={})
        return entry


def recorded(store: LocalStore, *entries: Entry, what: str = "a plan") -> PlanRecord:
    """The record, put in this store, of a plan that led to these entries."""
    document = {"format": 1, "what": what}
    record = PlanRecord(
        key=digest_value(document),
        key_document=document,
        entries={entry.manifest.stage: entry.manifest.key for entry in entries},
    )
    with store.session() as session:
        store.put_record(record, session.folder)
    return record


def objects_in(folder: Path) -> list[Path]:
    """The objects of a remote store in a folder, but for its work in progress."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != "staging"
    )
