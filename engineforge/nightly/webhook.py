"""Tells a webhook what came of a night. Its URL is a secret, since whoever knows it may post: it is
in no message and no log."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from engineforge import __version__
from engineforge.errors import EngineForgeError, UsageError
from engineforge.store.far.web import through_proxy

VARIABLE = "ENGINEFORGE_WEBHOOK"
_SECONDS = 10.0
"""For all of one try: a server that sends a byte now and then is no faster."""
_PAUSE_SECONDS = 2.0
_TOO_MANY = 429
_ILL = 500
_SUCCESS = range(200, 300)
_REDIRECTS = range(300, 400)


class _Asked(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: a POST would become a GET that tells nobody anything, or what is told
    would go to a place that nobody named."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


def must_be_url(text: str) -> None:
    """UsageError, without the text, for what is no URL that can be posted to."""
    try:
        parts = urlsplit(text)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and text.isascii()
        right = right and text.isprintable() and " " not in text and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise UsageError(
            "the webhook is no URL that can be posted to",
            hint=f"expected https://… in --webhook or ${VARIABLE}; not shown, as it is a secret",
        )


def post(
    url: str,
    message: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    wait: Callable[[float], None],
    seconds: float = _SECONDS,
) -> str | None:
    """Post it as JSON, within `seconds`, and once more where that may help; None, or why it was not
    taken. Raises nothing."""
    body = json.dumps(message).encode()
    why, may_pass = _tried(url, body, environment, seconds)
    if why is not None and may_pass:
        wait(_PAUSE_SECONDS)
        why, _ = _tried(url, body, environment, seconds)
    return why


def _tried(
    url: str, body: bytes, environment: Mapping[str, str], seconds: float
) -> tuple[str | None, bool]:
    """Why it was not taken, or None; and whether that may pass by itself."""
    found: list[tuple[str | None, bool]] = []

    def ask() -> None:
        found.append(_asked(url, body, environment, seconds))

    # A thread, as a timeout of the socket is one of each byte.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else (f"no answer within {seconds:g} s", True)


def _asked(
    url: str, body: bytes, environment: Mapping[str, str], seconds: float
) -> tuple[str | None, bool]:
    try:
        headers = {"Content-Type": "application/json", "User-Agent": f"engineforge/{__version__}"}
        request = urllib.request.Request(url, body, headers)  # noqa: S310 - http or https, see above
        through_proxy(request, environment)
        handlers = (
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context()),
            _Asked(),
        )
        with urllib.request.build_opener(*handlers).open(request, timeout=seconds) as answer:
            status = answer.status
    except HTTPError as error:
        error.close()
        status = error.code
    except TimeoutError:
        return f"no answer within {seconds:g} s", True
    except URLError as error:
        return _reason(error.reason, seconds), True
    except EngineForgeError as error:  # of a proxy
        return str(error.args[0]), False
    except (OSError, http.client.HTTPException) as error:
        return _reason(error, seconds), True
    except ValueError:
        return "the URL cannot be used", False
    if status in _SUCCESS:
        return None, False
    if status in _REDIRECTS:
        return f"HTTP {status}: redirects are not followed; name the place that it leads to", False
    return f"HTTP {status}", status == _TOO_MANY or status >= _ILL


def _reason(error: object, seconds: float) -> str:
    """Never the text of an exception as it is: that may quote the URL."""
    match error:
        case TimeoutError():
            return f"no answer within {seconds:g} s"
        case ssl.SSLCertVerificationError():
            return "its certificate does not hold"
        case ConnectionRefusedError():
            return "the connection was refused"
        case OSError(strerror=str(told)):
            return told
        case _:
            return f"it broke off ({type(error).__name__})"
