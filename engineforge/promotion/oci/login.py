"""Logging in at a registry: basic authentication, and tokens of a token server
(distribution.github.io/distribution/spec/auth/token). Sends nothing itself."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, urlencode, urlsplit

from engineforge.promotion.oci import credentials
from engineforge.promotion.oci.credentials import Credentials
from engineforge.store.far.web import is_local

Scopes = frozenset[str]
"""What a token is to be good for: `repository:NAME:pull,push`."""

Fetch = Callable[[str, str, Mapping[str, str], bytes | None], tuple[int, bytes]]
"""Method, URL, headers and body of a request to its answer's status and body."""

_CLIENT = "engineforge"
# By the specification, where the server says nothing.
_LIVES_SECONDS = 60.0
_SHORTEST_SECRET = 4


class TokenRefused(Exception):
    """A token server that gives none, or is not to be trusted with credentials."""


@dataclass(frozen=True, slots=True)
class _Bearer:
    realm: str
    service: str


@dataclass(frozen=True, slots=True)
class _Token:
    header: str
    until: float


class Login:
    """At one repository of one registry; for all threads."""

    def __init__(
        self,
        host: str,
        name: str,
        *,
        environment: Mapping[str, str],
        clear: Callable[[str], bool] = lambda _: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`host` with its port; `clear` says to which hosts credentials may go unencrypted, besides
        this one."""
        self._host, self._name = host, name
        self._environment, self._clear, self._clock = environment, clear, clock
        self._lock = threading.RLock()
        self._looked = False
        self._found: Credentials | None = None
        self._scheme: _Bearer | str | None = None
        self._tokens: dict[Scopes, _Token] = {}
        self._more: dict[Scopes, Scopes] = {}
        self._identity = ""

    @property
    def told(self) -> str:
        """Where credentials were looked for, and found."""
        looked = f"credentials were looked for in {credentials.looked_in(self._environment)}"
        with self._lock:
            found = self._found
        return f"{looked}: " + (f"found in {found.found_in}" if found else "there were none")

    def without_secrets(self, text: str) -> str:
        with self._lock:
            secrets = [*(self._found.secrets if self._found else ()), self._identity]
            secrets += [each.header.partition(" ")[2] for each in self._tokens.values()]
        for secret in sorted(secrets, key=len, reverse=True):
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return text

    def authorization(self, scopes: Scopes, fetch: Fetch) -> str | None:
        """The header for a request, as far as the registry has asked for one by now."""
        with self._lock:
            if self._scheme is None:
                return None
            if isinstance(self._scheme, str):
                found = self._credentials()
                return found.basic if found else None
            token = self._tokens.get(scopes)
            if token is None or token.until <= self._clock():
                token = self._tokens[scopes] = self._token(self._scheme, scopes, fetch)
            return token.header

    def challenged(
        self, challenges: list[str], scopes: Scopes, sent: str | None, fetch: Fetch
    ) -> bool:
        """Take in what a 401 asks for; whether asking again may help. `sent` is the header that
        the request had."""
        with self._lock:
            scheme, asked = _parsed(challenges)
            if scheme is None:
                return False
            known, self._scheme = self._scheme, scheme
            if isinstance(scheme, str):
                header = self.authorization(scopes, fetch)
                return header is not None and header != sent
            more = frozenset(asked) - scopes
            if scheme != known:
                self._tokens.clear()
            held = self._tokens.get(scopes)
            if held is not None and held.header == sent:
                del self._tokens[scopes]  # taken back, or it ended earlier than was said
            self._more[scopes] = self._more.get(scopes, frozenset()) | more
            return self.authorization(scopes, fetch) != sent

    def _credentials(self) -> Credentials | None:
        if not self._looked:
            self._found = credentials.find(self._host, self._name, self._environment)
            self._looked = True
        return self._found

    def _token(self, bearer: _Bearer, scopes: Scopes, fetch: Fetch) -> _Token:
        found = self._credentials()
        if found is not None and found.token:
            return _Token(f"Bearer {found.token}", float("inf"))
        wanted = sorted(scopes | self._more.get(scopes, frozenset()))
        realm = urlsplit(bearer.realm)
        host = realm.netloc
        if realm.scheme not in ("https", "http") or not realm.hostname or "@" in host:
            raise TokenRefused("it sends to a token server whose URL is none")
        encrypted = realm.scheme == "https" or is_local(realm.hostname) or self._clear(host)
        if found is not None and not encrypted:
            raise TokenRefused(
                f"it sends to the token server '{host}' without encryption, and credentials do"
                " not go there"
            )
        began = self._clock()
        if found is not None and (identity := self._identity or found.identity):
            form = {
                "grant_type": "refresh_token",
                "refresh_token": identity,
                "service": bearer.service,
                "client_id": _CLIENT,
                "scope": " ".join(wanted),
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            status, body = fetch("POST", bearer.realm, headers, urlencode(form).encode())
        else:
            asked = [("service", bearer.service), *(("scope", each) for each in wanted)]
            query = urlencode([pair for pair in asked if pair[1]], quote_via=quote)
            url = f"{bearer.realm}{'&' if realm.query else '?'}{query}"
            basic = found.basic if found else None
            headers = {} if basic is None else {"Authorization": basic}
            status, body = fetch("GET", url, headers, None)
        if status != HTTPStatus.OK:
            raise TokenRefused(f"the token server '{host}' answers {status}")
        return self._read(body, host, began)

    def _read(self, body: bytes, host: str, began: float) -> _Token:
        try:
            raw = json.loads(body)
            text = raw.get("token") or raw["access_token"]
            lives = float(raw.get("expires_in") or _LIVES_SECONDS)
            identity = raw.get("refresh_token")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise TokenRefused(f"the token server '{host}' gives no token") from None
        if not isinstance(text, str) or not re.fullmatch(r"[!-~]+", text):
            raise TokenRefused(f"the token server '{host}' gives what is no token")
        if isinstance(identity, str) and identity and self._found and self._found.identity:
            self._identity = identity  # servers may give another one each time
        # Early enough that a request begun with it is answered before it ends.
        return _Token(f"Bearer {text}", began + lives * 0.8)


def _parsed(challenges: list[str]) -> tuple[_Bearer | str | None, list[str]]:
    """What is asked for (RFC 9110, 11.6.1), a token where there is a choice; and its scopes."""
    basic: str | None = None
    for challenge in challenges:
        for found in re.finditer(
            r'(?i)\b(bearer|basic)\b((?:[\s,]*\w+=(?:"[^"]*"|[^\s,"]+))*)', challenge
        ):
            if found[1].lower() == "basic":
                basic = "basic"
                continue
            values = {
                name.lower(): quoted or plain
                for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,"]+))', found[2])
            }
            if realm := values.get("realm"):
                bearer = _Bearer(realm, values.get("service", ""))
                return bearer, values.get("scope", "").split()
    return basic, []
