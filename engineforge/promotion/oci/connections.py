"""urllib3's connections, but for answers whose head breaks off: http.client takes the end of a
connection for the end of a head, and half a digest for a digest."""

from __future__ import annotations

import http.client
import io
import ssl
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection


class _Watched:
    """The lines of a head, and whether the connection ended before their last. No io class: these
    close what they read from when they go."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file, self.ended = file, False

    def readline(self, size: int = -1, /) -> bytes:
        line = self._file.readline(size)
        self.ended = self.ended or not line.endswith(b"\n")
        return line

    def close(self) -> None:
        self._file.close()


class _WholeHead(http.client.HTTPResponse):
    def begin(self) -> None:
        file = self.fp
        watched = _Watched(file)
        self.fp = watched  # type: ignore[assignment]  # all that `begin` uses of it
        try:
            super().begin()
        finally:
            if self.fp is watched:  # type: ignore[comparison-overlap]
                self.fp = file
        if watched.ended:
            self.close()
            raise http.client.RemoteDisconnected("it ended within the head of an answer")


class _Connection(HTTPConnection):
    response_class = _WholeHead


class _EncryptedConnection(HTTPSConnection):
    response_class = _WholeHead


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _EncryptedPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _EncryptedConnection


def manager(proxy: str | None, context: ssl.SSLContext, most: int) -> urllib3.PoolManager:
    """Keeps at most so many connections to each host for the next request."""
    more: dict[str, Any] = {"ssl_context": context, "maxsize": most}
    made = urllib3.PoolManager(**more) if proxy is None else urllib3.proxy_from_url(proxy, **more)
    made.pool_classes_by_scheme = {"http": _Pool, "https": _EncryptedPool}
    return made
