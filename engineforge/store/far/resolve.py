"""What a URL stands for now, to be written into the lock file: asked of Hugging Face, or learnt by
fetching the file."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engineforge.errors import UsageError
from engineforge.spec import url as urls
from engineforge.spec.lock import Locked
from engineforge.spec.validate import did_you_mean
from engineforge.store.far import web
from engineforge.store.far.download import Told, fetch, leave
from engineforge.store.far.web import BrokenOff, DownloadFailed

_RETRIES = 5
_PAUSE_SECONDS = 0.2
_MOST_LISTED = 64 << 20
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def resolve(
    url: str,
    *,
    partial: Path,
    environment: Mapping[str, str],
    told: Told,
    retries: int = _RETRIES,
) -> Locked:
    """What is behind a URL now. Large files at Hugging Face are not fetched for that: their digest
    is in its listing. What is fetched is left in `partial`, where `fetch` of what is `pinned` finds
    it. Raises as `fetch` does; UsageError for a URL that holds credentials."""
    kind = urls.scheme(url)
    if urls.holds_credentials(url):
        raise UsageError(
            f"the URL '{urls.shown(url)}' holds a credential, which no lock file may",
            hint="give its 'sha256' in the spec, or a URL without it",
        )
    address, commit = url, None
    if kind == urls.HUB:
        commit, listed = _listed(urls.hub_file(url), environment, retries)
        if listed is not None:
            return Locked(url=url, sha256=listed[0], size=listed[1], revision=commit)
        address = urls.pinned(url, commit)
    path = partial / f"resolved-{secrets.token_hex(8)}"
    found = fetch(
        address,
        sha256=None,
        out=path,
        partial=partial,
        environment=environment,
        told=told,
        retries=retries,
    )
    locked = Locked(
        url=url,
        sha256=found.digest.hex,
        size=path.stat().st_size,
        revision=commit or found.content.version,
    )
    leave(path, urls.pinned(url, locked.revision), found, partial)
    return locked


def _listed(
    file: urls.HubFile, environment: Mapping[str, str], retries: int
) -> tuple[str, tuple[str, int] | None]:
    """The commit that a revision is, and the sha256 and size of the file if it is kept as a large
    one; of the others, the listing has git's own digest alone."""
    # As `model_info(files_metadata=True)` of huggingface_hub asks for it.
    address = (
        f"{web.hub(environment)}/api/models/{file.repository}/revision/"
        f"{quote(file.revision, safe='')}?blobs=true"
    )
    shown = f"hf://{file.repository}@{quote(file.revision, safe='')}"
    raw = _asked(address, shown, environment, retries)
    commit, siblings = raw.get("sha"), raw.get("siblings")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise DownloadFailed(f"'{shown}': the server names no commit for this revision")
    files: dict[Any, Any] = {}
    if isinstance(siblings, list):
        files = {each.get("rfilename"): each for each in siblings if isinstance(each, dict)}
    if file.path not in files:
        names = [name for name in files if isinstance(name, str)]
        raise DownloadFailed(
            f"there is no file '{file.path}' in '{shown}'", hint=did_you_mean(file.path, names)
        )
    lfs = files[file.path].get("lfs")
    if not isinstance(lfs, dict):
        return commit, None
    digest, size = lfs.get("sha256") or lfs.get("oid"), lfs.get("size")
    if isinstance(digest, str) and _SHA256.fullmatch(digest) and type(size) is int and size >= 0:
        return commit, (digest, size)
    return commit, None


def _asked(
    address: str, shown: str, environment: Mapping[str, str], retries: int
) -> dict[str, Any]:
    credentials = web.of_hub(environment)
    for tries in range(1, retries + 2):
        try:
            with web.asked(
                address,
                headers={"Accept": "application/json"},
                credentials=credentials,
                environment=environment,
            ) as answer:
                if (refused := web.refusal(answer, shown, credentials)) is not None:
                    raise refused
                data = bytearray()
                for chunk in answer.chunks():
                    data += chunk
                    if len(data) > _MOST_LISTED:
                        raise DownloadFailed(f"'{shown}': the listing of its files has no end")
                if answer.length not in (None, len(data)):
                    raise BrokenOff("the connection ended")
            break
        except BrokenOff as error:
            if tries > retries:
                raise DownloadFailed(
                    f"'{shown}' cannot be asked for: {error}", hint="check the network"
                ) from None
            time.sleep(max(_PAUSE_SECONDS * 2 ** (tries - 1), error.wait))
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DownloadFailed(
            f"'{shown}': the server at '{urls.shown(web.hub(environment))}' does not answer as "
            "Hugging Face does",
            hint="HF_ENDPOINT names another server than https://huggingface.co",
        )
    return found
