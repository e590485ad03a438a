"""Files behind HTTP and at Hugging Face, with the standard library alone. Redirects are followed
here: credentials stay with the server that they are for, and nothing goes on unencrypted."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import ipaddress
import netrc
import re
import ssl
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.error import URLError
from urllib.parse import quote, unquote, urljoin, urlsplit

from engineforge import __version__
from engineforge.errors import EngineForgeError, UsageError
from engineforge.spec import url as urls

_TIMEOUT_SECONDS = 30
"""How long nothing may come: neither a connection nor a byte."""
_MOST_REDIRECTS = 10
_PIECE = 1 << 18
_LONGEST_WAIT_SECONDS = 30.0
_REDIRECTS = (
    HTTPStatus.MOVED_PERMANENTLY,
    HTTPStatus.FOUND,
    HTTPStatus.SEE_OTHER,
    HTTPStatus.TEMPORARY_REDIRECT,
    HTTPStatus.PERMANENT_REDIRECT,
)
_MAY_PASS = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
)
_HUB = "https://huggingface.co"
# As huggingface_hub reads them (huggingface.co/docs/huggingface_hub/package_reference/
# environment_variables); the second is its older name.
_HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class DownloadFailed(EngineForgeError):
    """A file cannot be fetched from where it is said to be, and trying again would not help."""


class BrokenOff(Exception):
    """What may pass by itself: no answer, half of one, or a server that is ill; it says what, and
    what the server said of when to ask again, in seconds."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What is sent to a server, where there is anything, and where that was looked for."""

    looked_in: tuple[str, ...]
    found_in: str | None = None
    authorization: str | None = field(default=None, repr=False)

    @property
    def told(self) -> str:
        looked = " and ".join(filter(None, [", ".join(self.looked_in[:-1]), self.looked_in[-1]]))
        found = f"they were found in {self.found_in}" if self.found_in else "there were none"
        return f"credentials were looked for in {looked}: {found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer whose body was not read yet; names of headers are in any case."""

    status: int
    headers: http.client.HTTPMessage
    body: http.client.HTTPResponse = field(repr=False)

    @property
    def length(self) -> int | None:
        text = self.headers.get("Content-Length") or ""
        return int(text) if text.isdecimal() else None

    @property
    def ends_visibly(self) -> bool:
        """Whether an answer that broke off can be told from a whole one."""
        return self.length is not None or self.body.chunked

    def chunks(self) -> Iterator[bytes]:
        try:
            while chunk := self.body.read1(_PIECE):
                yield chunk
        except (OSError, http.client.HTTPException) as error:
            raise BrokenOff(f"the connection broke: {_reason(error)}") from None


def trusted() -> ssl.SSLContext:
    """For connections to those whose certificates this host trusts, by default or by what OpenSSL's
    variables name. These are read once, and when they change: it takes some 25 ms."""
    paths = ssl.get_default_verify_paths()
    return _trusted(paths, *map(_changed, (paths.cafile, paths.capath)))


@functools.lru_cache(maxsize=1)
def _trusted(paths: ssl.DefaultVerifyPaths, *changed: int | None) -> ssl.SSLContext:
    return ssl.create_default_context()


def _changed(path: str | None) -> int | None:
    return None if path is None else Path(path).stat().st_mtime_ns


@contextlib.contextmanager
def asked(
    url: str,
    *,
    headers: Mapping[str, str],
    credentials: Credentials,
    environment: Mapping[str, str],
) -> Iterator[Answer]:
    """The answer to a GET, redirects followed: whatever its status but 408, 425, 429 and 5xx, which
    are BrokenOff. Proxies are those that `environment` names. DownloadFailed where a redirect leads
    nowhere, or from an encrypted connection to one that is not."""
    opener = urllib.request.OpenerDirector()  # neither redirects nor errors are handled by it
    encrypted = urllib.request.HTTPSHandler(context=trusted())
    for handler in (urllib.request.HTTPHandler(), encrypted):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", f"engineforge/{__version__}")]
    first = here = _encoded(url, "the URL")
    for _ in range(_MOST_REDIRECTS):
        refuse_unencrypted(here, environment, redirected=here != first)
        request = urllib.request.Request(here, headers=dict(headers))  # noqa: S310 - looked at above
        if credentials.authorization is not None and _may_be_sent(first, here):
            request.add_unredirected_header("Authorization", credentials.authorization)
        through_proxy(request, environment)
        with contextlib.closing(_opened(opener, request)) as response:
            location = response.headers.get("Location")
            if response.status in _REDIRECTS and location:
                here = _encoded(urljoin(here, location), f"'{urls.shown(first)}' redirects and")
                continue
            if response.status in _MAY_PASS or response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                wait = response.headers.get("Retry-After") or ""
                raise BrokenOff(
                    f"the server answers {_status(response.status)}",
                    min(float(wait), _LONGEST_WAIT_SECONDS) if wait.isdecimal() else 0.0,
                )
            yield Answer(status=response.status, headers=response.headers, body=response)
            return
    raise DownloadFailed(f"'{urls.shown(url)}' redirects more than {_MOST_REDIRECTS} times")


def _opened(
    opener: urllib.request.OpenerDirector, request: urllib.request.Request
) -> http.client.HTTPResponse:
    try:
        found: http.client.HTTPResponse = opener.open(request, timeout=_TIMEOUT_SECONDS)
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise DownloadFailed(
                f"the certificate of '{request.host}' is not trusted: {cause.verify_message}",
                hint="SSL_CERT_FILE names a file with certificates that this host is to trust",
            ) from None
        raise BrokenOff(f"no answer from '{request.host}': {_reason(cause)}") from None
    return found


def _reason(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, http.client.IncompleteRead):
        return "it ended too early"
    return str(error) or type(error).__name__


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _encoded(url: str, what: str) -> str:
    """A URL that a request can be made of. DownloadFailed where that cannot be."""
    parts = urlsplit(url)
    try:
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode()
    except (ValueError, UnicodeError):
        host, port = "", None
    if parts.scheme not in urls.WEB or not host or parts.username is not None:
        raise DownloadFailed(f"{what} leads to no web server that a file can be fetched from")
    if ":" in host:
        host = f"[{host}]"
    place = host if port is None else f"{host}:{port}"
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    query = "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~?[]") if parts.query else ""
    return f"{parts.scheme}://{place}{path}{query}"


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return (
        parts.scheme,
        parts.hostname or "",
        parts.port or {"http": 80, "https": 443}[parts.scheme],
    )


def _may_be_sent(first: str, here: str) -> bool:
    encrypted = here.startswith("https://") or is_local(urlsplit(here).hostname or "")
    return encrypted and _origin(first) == _origin(here)


def is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_unencrypted(
    url: str, environment: Mapping[str, str], *, redirected: bool = False
) -> None:
    """UsageError for http:// to another host than this one, unless the environment allows it."""
    parts = urlsplit(url)
    allowed = environment.get("AWS_ALLOW_HTTP", "").lower() in ("true", "1", "yes")
    if parts.scheme == "https" or allowed or is_local(parts.hostname or ""):
        return
    raise UsageError(
        f"'{urls.shown(url)}'{', to which it redirects,' * redirected} is not encrypted",
        hint="use https://, or set AWS_ALLOW_HTTP=true if that is meant",
    )


def through_proxy(request: urllib.request.Request, environment: Mapping[str, str]) -> None:
    """Send it by the proxy that the environment names for it, if any; UsageError for one that is
    not spoken to by HTTP."""

    def named(name: str) -> str:
        return environment.get(name) or environment.get(name.upper()) or ""

    proxy = named(f"{request.type}_proxy") or named("all_proxy")
    if not proxy or _passed_by(request.host, named("no_proxy")):
        return
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    place = parts.netloc.rpartition("@")[2]
    if parts.scheme != "http" or not place:
        raise UsageError(
            f"the proxy for {request.type}:// is none that is spoken to by HTTP",
            hint=f"{request.type}_proxy=http://HOST:PORT",
        )
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_unredirected_header("Proxy-Authorization", _basic(login))
    request.set_proxy(place, request.type)


def _passed_by(place: str, given: str) -> bool:
    """Whether no_proxy names a host, a domain that it is in, or all with '*'."""
    host = place.rpartition(":")[0] if re.search(r":\d+$", place) else place
    for name in (each.strip().lstrip(".").lower() for each in given.split(",")):
        if name == "*" or (
            name and (name in (host.lower(), place) or host.lower().endswith(f".{name}"))
        ):
            return True
    return False


def _basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


def of_netrc(url: str, environment: Mapping[str, str]) -> Credentials:
    """Those that ~/.netrc, or the file that NETRC names, has for the host of a URL."""
    home = environment.get("HOME")
    named = environment.get("NETRC") or (f"{home}/.netrc" if home else None)
    if named is None:
        return Credentials(looked_in=("NETRC",))
    where = "$NETRC" if environment.get("NETRC") else "~/.netrc"
    try:
        # Not `authenticators`: its default would be sent to any host.
        entry = netrc.netrc(named).hosts.get(urlsplit(url).hostname or "")
    except OSError:
        entry = None
    except (netrc.NetrcParseError, UnicodeDecodeError) as error:
        line = f", line {error.lineno}" if isinstance(error, netrc.NetrcParseError) else ""
        raise UsageError(f"'{named}'{line} cannot be read as a netrc file") from None
    if entry is None:
        return Credentials(looked_in=(where,))
    return Credentials(
        looked_in=(where,), found_in=where, authorization=_basic(f"{entry[0]}:{entry[2]}")
    )


def hub(environment: Mapping[str, str]) -> str:
    """Where Hugging Face is, or its mirror."""
    return (environment.get("HF_ENDPOINT") or _HUB).rstrip("/")


def of_hub(environment: Mapping[str, str]) -> Credentials:
    """The token for Hugging Face, by the names that its own library reads it from."""
    cache = environment.get("XDG_CACHE_HOME") or (
        f"{environment['HOME']}/.cache" if environment.get("HOME") else None
    )
    home = environment.get("HF_HOME") or (f"{cache}/huggingface" if cache else None)
    file = environment.get("HF_TOKEN_PATH") or (f"{home}/token" if home else None)
    looked = (*_HUB_TOKENS[:1], *([f"'{file}'"] if file else []))
    for name in _HUB_TOKENS:
        if token := environment.get(name, "").strip():
            return _bearer(looked, name, token)
    if file is not None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if token := Path(file).read_text(encoding="ascii").strip():
                return _bearer(looked, f"'{file}'", token)
    return Credentials(looked_in=looked)


def _bearer(looked: tuple[str, ...], where: str, token: str) -> Credentials:
    # Anything else would end up in what http.client says of it.
    if not re.fullmatch(r"[!-~]+", token):
        raise UsageError(f"what {where} holds is no token: it has characters that none has")
    return Credentials(looked_in=looked, found_in=where, authorization=f"Bearer {token}")


def hub_address(file: urls.HubFile, environment: Mapping[str, str]) -> str:
    revision, path = quote(file.revision, safe=""), quote(file.path)
    return f"{hub(environment)}/{file.repository}/resolve/{revision}/{path}"


def refusal(answer: Answer, shown: str, credentials: Credentials) -> DownloadFailed | None:
    """Why an answer holds no file; None where it does."""
    if answer.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        encoding = answer.headers.get("Content-Encoding", "identity").lower()
        if encoding == "identity":
            return None
        return DownloadFailed(
            f"'{shown}' comes compressed ('{encoding}'), which was not asked for",
            hint="its sha256 would depend on how; have the server send it as it is",
        )
    said = f"the server answers {_status(answer.status)}"
    code = answer.headers.get("X-Error-Code", "")  # of Hugging Face
    if re.fullmatch(r"[A-Za-z]{1,40}", code):
        said += f" ({code})"
    if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        gated = "accept its conditions on its page; " if code == "GatedRepo" else ""
        return DownloadFailed(f"'{shown}' is refused: {said}", hint=gated + credentials.told)
    if answer.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return DownloadFailed(
            f"there is no '{shown}': {said}",
            hint="check the URL; a server may also say that of what it does not show everybody: "
            + credentials.told,
        )
    return DownloadFailed(f"'{shown}' cannot be fetched: {said}")
