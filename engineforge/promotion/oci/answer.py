"""What a registry answers, and that it does not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urljoin

_LONGEST_WAIT_SECONDS = 120.0


class BrokenOff(Exception):
    """What may pass by itself: no answer, half of one, or a server that is ill; and the seconds
    after which that said to ask again."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


class SourceFailed(Exception):
    """Whoever gave a body's bytes failed, and no connection: the cause says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Names of headers are in any case; `date` is the registry's own clock."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    url: str

    @property
    def date(self) -> datetime | None:
        try:
            return parsedate_to_datetime(self.headers["Date"])
        except (KeyError, ValueError):
            return None

    @property
    def errors(self) -> list[tuple[str, str]]:
        """Codes and messages, as the distribution specification has them in a body."""
        try:
            return [
                (str(each.get("code", "")), str(each.get("message", "")))
                for each in json.loads(self.body)["errors"]
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            return []

    @property
    def told(self) -> str:
        """Its status and what it says of an error, for people; not without what it may repeat."""
        try:
            status = f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            status = str(self.status)
        said = "; ".join(f"{code} {message}".strip() for code, message in self.errors[:3])
        said = re.sub(r"[^ -~]+", " ", said)[:300]
        return f"{status} ({said})" if said else status

    @property
    def asked_to_wait(self) -> float:
        """Seconds, by the header Retry-After; never very long."""
        seconds = self.headers.get("Retry-After", "")
        return min(float(seconds), _LONGEST_WAIT_SECONDS) if seconds.isdecimal() else 0.0

    @property
    def next_page(self) -> str | None:
        """The URL of the next page, where a Link header names one (RFC 8288)."""
        found = re.search(r'<([^>]*)>\s*;[^,]*\brel="?next\b', self.headers.get("Link", ""))
        return urljoin(self.url, found[1]) if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An answer whose body is yet to come."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    chunks: Iterator[bytes] = field(repr=False)
    """BrokenOff where the connection ends before the body does."""
