"""Webhooks, by real servers that are slow, ill, gone or elsewhere."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from engineforge.errors import UsageError
from engineforge.nightly.webhook import must_be_url, post

SECRET = "T0/B0/s3cr3t"  # noqa: S105 - of a server that the tests make
Answer = Callable[[BaseHTTPRequestHandler, int], None]


@dataclass
class Hook:
    """A server with what it was sent; `answer` gets how many requests there were before."""

    url: str = ""
    answer: Answer = lambda handler, _: _status(handler, 200)
    got: list[Any] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)


def _status(handler: BaseHTTPRequestHandler, status: int, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@contextlib.contextmanager
def serving() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.got.append(json.loads(body))
            with contextlib.suppress(ConnectionError):
                hook.answer(self, len(hook.got) - 1)

        def do_GET(self) -> None:
            hook.got.append("GET")
            _status(self, 200)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hook.url = f"http://127.0.0.1:{server.server_port}/{SECRET}"
    try:
        yield hook
    finally:
        hook.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hook() -> Iterator[Hook]:
    with serving() as made:
        yield made


def _post(url: str, *, seconds: float = 10, **environment: str) -> tuple[str | None, list[float]]:
    """Why it was not taken, and the pauses that were made."""
    pauses: list[float] = []
    why = post(url, {"text": "ü"}, environment=environment, wait=pauses.append, seconds=seconds)
    assert why is None or SECRET not in why
    return why, pauses


def test_it_gets_what_is_said_once(hook: Hook) -> None:
    assert _post(hook.url) == (None, [])
    assert hook.got == [{"text": "ü"}]


def test_a_server_that_is_ill_for_a_moment_is_asked_again(hook: Hook) -> None:
    hook.answer = lambda handler, before: _status(handler, 200 if before else 503)
    why, pauses = _post(hook.url)
    assert (why, len(pauses), len(hook.got)) == (None, 1, 2)


@pytest.mark.parametrize(("status", "tries"), [(500, 2), (429, 2), (404, 1), (403, 1)])
def test_what_it_refuses_with_is_told(status: int, tries: int, hook: Hook) -> None:
    hook.answer = lambda handler, _: _status(handler, status)
    assert _post(hook.url)[0] == f"HTTP {status}"
    assert len(hook.got) == tries


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_not_taken_for_success(status: int, hook: Hook) -> None:
    with serving() as other:
        hook.answer = lambda handler, _: _status(handler, status, Location=other.url)
        why, pauses = _post(hook.url)
        assert other.got == []
    assert (pauses, len(hook.got)) == ([], 1)
    assert f"HTTP {status}: redirects are not followed" in (why or "")


def test_one_that_does_not_answer_is_given_up(hook: Hook) -> None:
    def hang(*_: object) -> None:
        hook.stopped.wait(20)

    hook.answer = hang
    assert _post(hook.url, seconds=0.2)[0] == "no answer within 0.2 s"
    assert len(hook.got) == 2


def test_one_that_answers_by_drops_is_given_up(hook: Hook) -> None:
    def drip(handler: BaseHTTPRequestHandler, _: int) -> None:
        while not hook.stopped.wait(0.05):
            handler.wfile.write(b"H")
            handler.wfile.flush()

    hook.answer = drip
    assert _post(hook.url, seconds=0.3)[0] == "no answer within 0.3 s"


def test_one_that_hangs_up_is_asked_again_and_told(hook: Hook) -> None:
    hook.answer = lambda *_: None
    why, pauses = _post(hook.url)
    assert why == "it broke off (RemoteDisconnected)"
    assert (len(pauses), len(hook.got)) == (1, 2)


def test_a_refused_connection_is_told() -> None:
    with serving() as gone:
        pass
    assert _post(gone.url) == ("the connection was refused", [2.0])


def test_a_host_that_there_is_not_is_told_without_its_name() -> None:
    why, _ = _post(f"http://no-such-host.invalid/{SECRET}")
    assert why is not None
    assert "no-such-host" not in why


def test_a_proxy_is_asked_that_the_environment_names(hook: Hook) -> None:
    proxy = hook.url.rpartition("/T0")[0]
    assert _post(f"http://hooks.invalid/{SECRET}", http_proxy=proxy)[0] is None
    assert len(hook.got) == 1


@pytest.mark.parametrize(
    "url",
    [
        f"htps://hooks.example.com/{SECRET}",
        f"hooks.example.com/{SECRET}",
        f"https:/hooks.example.com/{SECRET}",
        f"https://hooks.example.com/{SECRET}\nx",
        f"https://hooks.example.com:99999/{SECRET}",
        f"https://[::/{SECRET}",
        f"file:///{SECRET}",
        SECRET,
    ],
)
def test_what_is_no_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as told:
        must_be_url(url)
    assert SECRET not in str(told.value)
    assert "example" not in str(told.value)
    assert "ENGINEFORGE_WEBHOOK" in str(told.value)
