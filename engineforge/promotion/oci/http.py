"""HTTP as registries speak it: tried again where that may help, redirected without credentials, and
logged in. Owns urllib3; knows nothing of blobs and manifests."""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit
from urllib.request import proxy_bypass

from engineforge import __version__
from engineforge.errors import EngineForgeError, HostUnfit
from engineforge.promotion.oci.answer import Answer, BrokenOff, Opened, SourceFailed
from engineforge.promotion.oci.documents import MOST_BYTES
from engineforge.promotion.oci.login import Login, Scopes, TokenRefused
from engineforge.store.far.objects import RemoteUnavailable
from engineforge.store.far.web import is_local, trusted

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

Body = Callable[[], Iterable[bytes]]
"""The bytes to send; called again where they have to be sent again."""

_CONNECT_SECONDS = 20.0
"""For a connection, and for each piece of a body to be taken."""
SILENCE_SECONDS = 60.0
_PIECE = 1 << 18
"""Of a body: small enough that a slow line takes it in time."""
_RECEIVED = 1 << 20
_TRIES = 6
_BACKOFF_SECONDS, _MOST_BACKOFF_SECONDS = 0.2, 10.0
_SAID_FROM_SECONDS = 5.0
_MOST_REDIRECTS = 10
_MOST_LOGINS = 2
_TRIPS = 64
_KEPT = 8
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFUSED = frozenset({401, 403})


class Client:
    """Of one registry; for all threads."""

    def __init__(
        self,
        origin: str,
        login: Login,
        *,
        environment: Mapping[str, str],
        said: Callable[[str], None],
        wait: Callable[[float], None],
        clear: Callable[[str], bool],
    ) -> None:
        """`origin` is `https://host[:port]`, or http; `clear` says for which hosts (with port)
        connections may be unencrypted. HostUnfit without urllib3."""
        self.origin = origin
        self._urllib3, self._connections = _loaded()
        self._login, self._said, self._wait, self._clear = login, said, wait, clear
        self._environment = environment
        self._context = trusted()
        self._pools: dict[str | None, PoolManager] = {}
        self._trips: deque[float] = deque([0.0], maxlen=_TRIPS)

    @property
    def host(self) -> str:
        return urlsplit(self.origin).netloc

    @property
    def longest_trip(self) -> float:
        """Seconds, of the latest requests for manifests, which are small."""
        return max(tuple(self._trips))

    def url(self, target: str, base: str | None = None) -> str:
        """That of a path, or of what a header Location says. What leads to the registry's host is
        asked there as everything is, for a registry behind a proxy that ends TLS may say http."""
        joined = urljoin(base or self.origin, target)
        parts, own = urlsplit(joined), urlsplit(self.origin)
        if parts.scheme == "http" and own.scheme == "https" and parts.hostname == own.hostname:
            return parts._replace(scheme=own.scheme, netloc=own.netloc).geturl()
        return joined

    def ask(
        self,
        method: str,
        target: str,
        *,
        scopes: Scopes,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        once: bool = False,
        silence: float = SILENCE_SECONDS,
    ) -> Answer:
        """The answer, with whatever status but those that may pass by themselves: these are asked
        again, or BrokenOff if only `once`. RemoteUnavailable where that does not help, and where
        the registry refuses this user. `silence` is how many seconds nothing may come."""

        def asked() -> Answer:
            began = time.monotonic()
            sent = self._sent(
                method, target, scopes=scopes, headers=headers or {}, body=body, silence=silence
            )
            with sent as (got, url):
                answer = self._read(got, url)
            if "/manifests/" in target:
                self._trips.append(time.monotonic() - began)
            if answer.status in _MAY_PASS:
                raise BrokenOff(f"the registry answers {answer.told}", answer.asked_to_wait)
            if answer.status in _REFUSED:
                raise self.refused(answer)
            return answer

        return asked() if once else self.again(asked)

    @contextlib.contextmanager
    def opened(
        self, target: str, *, scopes: Scopes, headers: Mapping[str, str]
    ) -> Iterator[Opened]:
        """The answer to one GET; BrokenOff and RemoteUnavailable as with `ask` that asks once."""
        with self._sent("GET", target, scopes=scopes, headers=headers) as (got, url):
            if got.status in _MAY_PASS | _REFUSED:
                answer = self._read(got, url)
                if answer.status in _REFUSED:
                    raise self.refused(answer)
                raise BrokenOff(f"the registry answers {answer.told}", answer.asked_to_wait)
            yield Opened(status=got.status, headers=got.headers, chunks=self._chunks(got))

    def again(self, ask: Callable[[], Answer]) -> Answer:
        """Whatever `ask` gives, asked again where it broke off."""
        pauses = self.pauses()
        while True:
            try:
                return ask()
            except BrokenOff as error:
                next(pauses)(error)

    def pauses(self) -> Iterator[Callable[[BrokenOff], None]]:
        """For each time in a row that something broke off, what waits before the next try, and at
        the end what raises RemoteUnavailable."""
        for tries in range(_TRIES - 1):
            least = min(_BACKOFF_SECONDS * 2**tries, _MOST_BACKOFF_SECONDS)

            def pause(error: BrokenOff, least: float = least) -> None:
                seconds = max(least, error.wait)
                if seconds >= _SAID_FROM_SECONDS:
                    self._said(f"'{self.host}': {error}; trying again in {seconds:.0f} s")
                self._wait(seconds)

            yield pause
        while True:
            yield self._give_up

    def _give_up(self, error: BrokenOff) -> None:
        raise RemoteUnavailable(
            f"the registry '{self.host}' cannot be used: {error}",
            hint="check the network, the host and its port, and try again: what is there already"
            " is not sent again",
        ) from None

    def refused(self, answer: Answer) -> RemoteUnavailable:
        return RemoteUnavailable(
            f"the registry '{self.host}' refuses this: {self.told(answer)}",
            hint=f"log in with 'docker login {self.host}', as someone who may do that;"
            f" {self._login.told}",
        )

    def unexpected(self, answer: Answer, doing: str) -> RemoteUnavailable:
        """For an answer that the specification has no such place for."""
        return RemoteUnavailable(
            f"the registry '{self.host}' does not {doing}: {self.told(answer)}",
            hint="check the repository's name, and that the registry takes OCI artifacts",
        )

    def told(self, answer: Answer) -> str:
        return self._login.without_secrets(answer.told)

    @contextlib.contextmanager
    def _sent(
        self,
        method: str,
        target: str,
        *,
        scopes: Scopes,
        headers: Mapping[str, str],
        body: bytes | Body | None = None,
        silence: float = SILENCE_SECONDS,
    ) -> Iterator[tuple[BaseHTTPResponse, str]]:
        """Logged in where asked to, redirects followed."""
        first = here = self.url(target)
        logins = redirects = 0
        while True:
            ours = _origin(here) == _origin(self.origin)
            authorization = self._authorization(scopes) if ours else None
            sending = dict(headers)
            if authorization is not None:
                sending["Authorization"] = authorization
            got = self._once(method, here, sending, body, silence)
            try:
                location = got.headers.get("Location")
                if got.status == HTTPStatus.UNAUTHORIZED and ours and logins < _MOST_LOGINS:
                    logins += 1
                    challenges = got.headers.getlist("WWW-Authenticate")
                    if self._challenged(challenges, scopes, authorization):
                        got.drain_conn()
                        here = first
                        continue
                if got.status in _REDIRECTS and location and method in ("GET", "HEAD"):
                    redirects += 1
                    got.drain_conn()
                    here = self._redirected(here, location, redirects)
                    continue
                yield got, here
                return
            finally:
                # One that was read to its end has gone back to the pool before.
                got.close()

    def _redirected(self, here: str, location: str, count: int) -> str:
        to = self.url(location, here)
        parts = urlsplit(to)
        plain = is_local(parts.hostname or "") or self._clear(parts.netloc)
        if count > _MOST_REDIRECTS or not (
            parts.scheme == "https" or (parts.scheme == "http" and plain)
        ):
            where = f"'{parts.scheme}://{parts.hostname}'"
            raise RemoteUnavailable(
                f"the registry '{self.host}' redirects to {where}, which is not encrypted"
                if count <= _MOST_REDIRECTS
                else f"the registry '{self.host}' redirects more than {_MOST_REDIRECTS} times",
                hint="have its operator correct that",
            )
        return to

    def _authorization(self, scopes: Scopes) -> str | None:
        with self._login_told():
            return self._login.authorization(scopes, self._token_from)

    def _challenged(self, challenges: list[str], scopes: Scopes, sent: str | None) -> bool:
        with self._login_told():
            return self._login.challenged(challenges, scopes, sent, self._token_from)

    @contextlib.contextmanager
    def _login_told(self) -> Iterator[None]:
        try:
            yield
        except TokenRefused as error:
            raise RemoteUnavailable(
                f"no login at the registry '{self.host}': {error}",
                hint=f"log in with 'docker login {self.host}'; {self._login.told}",
            ) from None

    def _token_from(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        """Of a token server: redirects are not followed, since secrets would be."""
        got = self._once(method, url, headers, body, SILENCE_SECONDS)
        try:
            answer = self._read(got, url)
        finally:
            got.close()
        if answer.status in _MAY_PASS:
            host = urlsplit(url).netloc
            raise BrokenOff(f"'{host}' answers {answer.told}", answer.asked_to_wait)
        return answer.status, answer.body

    def _once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Body | None,
        silence: float,
    ) -> BaseHTTPResponse:
        errors = self._urllib3.exceptions
        timeout = self._urllib3.Timeout(connect=_CONNECT_SECONDS, read=silence)
        host = urlsplit(url).netloc
        try:
            return self._pool(url).urlopen(
                method,
                url,
                headers={"User-Agent": f"engineforge/{__version__}", **headers},
                body=_pieces(body()) if callable(body) else body,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
        except errors.SSLError as error:
            cause = error.args[0] if error.args else error
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise RemoteUnavailable(
                    f"the certificate of '{host}' is not trusted: {cause.verify_message}",
                    hint="SSL_CERT_FILE names a file with certificates that this host is to trust",
                ) from None
            reason = _reason(error)
            if "WRONG_VERSION_NUMBER" in reason:  # what OpenSSL says of an answer in plain HTTP
                reason += "; ENGINEFORGE_INSECURE_REGISTRIES may name hosts without encryption"
            raise BrokenOff(f"no encrypted connection to '{host}': {reason}") from None
        except (errors.HTTPError, OSError) as error:
            raise BrokenOff(f"no answer from '{host}': {_reason(error)}") from None

    def _pool(self, url: str) -> PoolManager:
        proxy = self._proxy(url)
        if proxy not in self._pools:
            self._pools[proxy] = self._connections.manager(proxy, self._context, _KEPT)
        return self._pools[proxy]

    def _proxy(self, url: str) -> str | None:
        def named(name: str) -> str:
            return self._environment.get(name) or self._environment.get(name.upper()) or ""

        parts = urlsplit(url)
        proxy = named(f"{parts.scheme}_proxy") or named("all_proxy")
        passed = proxy_bypass(parts.netloc, {"no": named("no_proxy")})
        if not proxy or passed or is_local(parts.hostname or ""):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    def _read(self, got: BaseHTTPResponse, url: str) -> Answer:
        """With at most one byte more than documents may have."""
        body = bytearray()
        for chunk in self._chunks(got):
            body += chunk
            if len(body) > MOST_BYTES:
                break
        body = body[: MOST_BYTES + 1]
        return Answer(status=got.status, headers=got.headers, body=bytes(body), url=url)

    def _chunks(self, got: BaseHTTPResponse) -> Iterator[bytes]:
        try:
            yield from got.stream(_RECEIVED, decode_content=False)
        except (self._urllib3.exceptions.HTTPError, OSError) as error:
            raise BrokenOff(f"the connection to '{self.host}' broke: {_reason(error)}") from None


def _pieces(chunks: Iterable[bytes]) -> Iterator[memoryview]:
    try:
        for chunk in chunks:
            whole = memoryview(chunk)
            for at in range(0, len(whole), _PIECE):
                yield whole[at : at + _PIECE]
    except (EngineForgeError, OSError) as error:
        raise SourceFailed from error


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)


def _reason(error: BaseException) -> str:
    """The innermost reason, without the objects that urllib3 names in front of it."""
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException) and inner is not error:
        return _reason(inner)
    causes = [each for each in error.args if isinstance(each, OSError)]
    if causes:
        return _reason(causes[0])
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return re.sub(r"^<?\w+\([^)]*\)>?: ", "", str(error)) or type(error).__name__


def _loaded() -> tuple[ModuleType, ModuleType]:
    try:
        import urllib3

        from engineforge.promotion.oci import connections
    except ImportError as error:
        raise HostUnfit(
            "an environment in a registry needs urllib3, which is not installed",
            hint="python -m pip install 'engineforge[promotion]'",
        ) from error
    return urllib3, connections
