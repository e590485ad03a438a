"""From what a user calls a place to the objects there: a bucket, an HTTP server or a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from engineforge.errors import UsageError
from engineforge.store.far.bucket import SCHEMES, Bucket
from engineforge.store.far.folder import Folder
from engineforge.store.far.objects import Objects

_LIKE_A_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def objects_at(
    url: str,
    *,
    environment: Mapping[str, str],
    root: Path | None = None,
    what: str = "a remote store",
    besides: Sequence[str] = (),
) -> Objects:
    """The objects at `s3://bucket/path`, `gs://bucket/path`, `az://container/path`, `https://…`
    (for reading), `file:///path` or a path, from the folder `root` on; nothing is asked of it yet.

    Credentials come from `environment` by the names that the providers use. UsageError or
    HostUnfit where that cannot be; it tells of schemes `besides` these that `what` may have.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    if scheme in SCHEMES:
        return Bucket(url, options={}, environment=environment)
    known = ", ".join((*besides, *SCHEMES, "file"))
    if scheme not in ("", "file"):
        raise UsageError(
            f"{what} cannot be at '{scheme}://'", hint=f"expected a folder, or one of: {known}"
        )
    if not scheme and (like := _LIKE_A_URL.match(url)):  # its rest may hold a password
        raise UsageError(
            f"{what} cannot be at '{like[0]}…'",
            hint=f"two slashes follow a scheme: {known}; a folder: ./NAME",
        )
    path = Path(unquote(urlsplit(url).path)) if scheme else Path(url)
    if scheme and (urlsplit(url).netloc not in ("", "localhost") or not path.is_absolute()):
        raise UsageError("a 'file://' URL names no absolute path", hint="file:///path/to/it")
    return Folder(path if root is None else root / path)
