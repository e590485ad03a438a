"""A proxy before an HTTP server that ends the connection at the request that it is told to."""

from __future__ import annotations

import contextlib
import enum
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_PIECE = 1 << 16


class Cut(enum.Enum):
    BEFORE = "before the server sees anything of the request"
    IN_REQUEST = "in the middle of the request's body"
    BEFORE_ANSWER = "after the server has answered, before the client sees anything of that"
    IN_ANSWER = "in the middle of the answer's body, or of its head where there is no body"


CUTS = tuple(Cut)


@dataclass
class CuttingProxy:
    """Counts requests from 1; `cut` and `heal` begin to count again."""

    host: str
    server: str
    requests: list[str] = field(default_factory=list)
    """METHOD and path of each since it began to count."""
    on_request: Callable[[str], None] = lambda _: None
    """Called with it before anything of a request is passed on."""
    _at: int = 0
    _how: Cut = Cut.BEFORE
    _onwards: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def cut(self, at: int, how: Cut, *, onwards: bool = False) -> None:
        """At this request; with `onwards`, at all after it as well, as if the network had gone."""
        with self._lock:
            self._at, self._how, self._onwards = at, how, onwards
            self.requests.clear()

    def heal(self) -> None:
        """Cut nothing from now on."""
        self.cut(0, Cut.BEFORE)

    def seen(self, request: str) -> Cut | None:
        with self._lock:
            self.requests.append(request)
            count = len(self.requests)
            if self._at and (count == self._at or (self._onwards and count > self._at)):
                # After the cut nothing arrives at all.
                return self._how if count == self._at else Cut.BEFORE
            return None


@contextlib.contextmanager
def cutting_proxy(server: str) -> Iterator[CuttingProxy]:
    """Before the server at `server` (HOST:PORT)."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.05)
    proxy = CuttingProxy(f"127.0.0.1:{listening.getsockname()[1]}", server)
    stopped = threading.Event()
    threads: list[threading.Thread] = []

    def accept() -> None:
        while not stopped.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = listening.accept()
                thread = threading.Thread(target=_serve, args=(client, proxy, stopped))
                threads.append(thread)
                thread.start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield proxy
    finally:
        stopped.set()
        accepting.join()
        for thread in threads:
            thread.join()
        listening.close()


def _serve(client: socket.socket, proxy: CuttingProxy, stopped: threading.Event) -> None:
    client.settimeout(0.1)
    with client, contextlib.suppress(OSError, _Ended):
        while not stopped.is_set():
            head = _head(client, stopped)
            line = head.partition(b"\r\n")[0].decode().rpartition(" ")[0]
            proxy.on_request(line)
            _pass(client, head, line, proxy, stopped)


class _Ended(Exception):
    """The connection, by the client or by a cut."""


def _head(client: socket.socket, stopped: threading.Event) -> bytes:
    """With its empty line; of what follows nothing is taken."""
    found = b""
    while not found.endswith(b"\r\n\r\n"):
        try:
            peeked = client.recv(_PIECE, socket.MSG_PEEK)
        except TimeoutError:
            if stopped.is_set():
                raise _Ended from None
            continue
        if not peeked:
            raise _Ended
        end = (found + peeked).find(b"\r\n\r\n")
        take = len(peeked) if end < 0 else end + 4 - len(found)
        found += client.recv(take)
    return found


def _pass(
    client: socket.socket,
    head: bytes,
    line: str,
    proxy: CuttingProxy,
    stopped: threading.Event,
) -> None:
    how = proxy.seen(line)
    if how is Cut.BEFORE:
        raise _Ended
    length = re.search(rb"(?im)^content-length: *(\d+)", head)
    assert not re.search(rb"(?im)^transfer-encoding", head), "only bodies of a told length"
    size = int(length[1]) if length else 0
    if how is Cut.IN_REQUEST and size == 0:
        raise _Ended
    host, _, port = proxy.server.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as server:
        # One request for each connection there, so that the end of the answer can be told.
        head = re.sub(rb"(?im)^connection:.*\r\n", b"", head)
        server.sendall(head[:-2] + b"Connection: close\r\n\r\n")
        left = size // 2 if how is Cut.IN_REQUEST else size
        while left:
            try:
                piece = client.recv(min(left, _PIECE))
            except TimeoutError:
                if stopped.is_set():
                    raise _Ended from None
                continue
            if not piece:
                raise _Ended
            server.sendall(piece)
            left -= len(piece)
        if how is Cut.IN_REQUEST:
            raise _Ended
        _answer(client, server, how)


def _answer(client: socket.socket, server: socket.socket, how: Cut | None) -> None:
    if how is None:
        first = True
        while piece := server.recv(_PIECE):
            if first:  # this connection goes on
                piece, first = re.sub(rb"(?i)\r\nconnection: close", b"", piece), False
            client.sendall(piece)
        return
    whole = b""
    while piece := server.recv(_PIECE):
        whole += piece
    if how is Cut.IN_ANSWER:
        head, mark, body = whole.partition(b"\r\n\r\n")
        client.sendall(head + mark + body[: len(body) // 2] if body else head[: len(head) // 2])
    raise _Ended
