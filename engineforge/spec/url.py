"""URLs of files elsewhere: which are understood, what they mean, and how they are told without the
credentials that they may hold. Asks nothing of anybody."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from engineforge.errors import UsageError

WEB = ("https", "http")
HUB = "hf"
_VERSION = {"s3": "versionId", "gs": "generation", "az": "versionId"}
SCHEMES = (*WEB, *_VERSION, HUB)
_MAIN = "main"
_HUB_HINT = "expected 'hf://ORGANIZATION/REPOSITORY@REVISION/PATH'"
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Signed URLs of S3, Google Cloud, Azure and CloudFront, and what others call their keys.
_SECRET = re.compile(
    r"x-(amz|goog|ms)-.*|awsaccesskeyid|googleaccessid|sig|code|policy|key|key-pair-id"
    r"|.*(token|secret|passw|signature|credential|api_?-?key|auth).*",
    re.IGNORECASE,
)


class BadUrl(UsageError):
    """A URL that cannot be meant, or that holds what must not be in a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of a model repository at Hugging Face; `revision` is a branch, a tag or a commit."""

    repository: str
    revision: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketObject:
    """An object of the bucket at a URL such as s3://bucket; `version` where only that one will
    do."""

    bucket: str
    path: str
    version: str | None


def scheme(url: str) -> str:
    """Its scheme; BadUrl for a URL that cannot be fetched, or that holds a user's name."""
    found, slashes, rest = url.partition("://")
    if not slashes or found not in SCHEMES:
        like = found if slashes and re.fullmatch(r"[a-zA-Z0-9+.-]+", found) else ""
        raise BadUrl(
            f"a file cannot be fetched from '{like}://…'" if like else "that is no URL",
            hint="expected https://, s3://, gs://, az:// or hf://",
        )
    if _UNPRINTABLE.search(url):
        raise BadUrl(f"the URL '{_UNPRINTABLE.sub('?', shown(url))}' holds a control character")
    if "@" in rest.partition("/")[0]:
        raise BadUrl(
            f"the URL '{shown(url)}' holds a user's name or password",
            hint="credentials come from the environment: for https:// from ~/.netrc",
        )
    match found:
        case "https" | "http":
            _check_web(url)
        case "hf":
            hub_file(url)
        case _:
            bucket_object(url)
    return found


def _check_web(url: str) -> None:
    try:
        parts = urlsplit(url)
        there = bool(parts.hostname) and parts.port != 0
    except ValueError:
        there = False
    if not there:
        raise BadUrl(f"the URL '{shown(url)}' names no host")
    if " " in url:
        raise BadUrl(f"the URL '{shown(url)}' holds a space", hint="%20 stands for it in a URL")
    if parts.fragment:
        raise BadUrl(f"the URL '{shown(url)}' ends in a '#…', which no server is sent")
    if parts.path in ("", "/"):
        raise BadUrl(f"the URL '{shown(url)}' names no file")


def hub_file(url: str) -> HubFile:
    """What an hf:// URL means; a revision with a slash in it is written with %2F."""
    parts = url.partition("://")[2].split("/", 2)
    if len(parts) == 3 and parts[0] in ("datasets", "spaces"):  # noqa: PLR2004 - as split
        raise BadUrl(f"'{shown(url)}': only repositories of models are read", hint=_HUB_HINT)
    if len(parts) < 3 or not parts[2] or parts[2].endswith("/"):  # noqa: PLR2004 - as split
        raise BadUrl(f"'{shown(url)}' names no file of a repository", hint=_HUB_HINT)
    name, at, revision = parts[1].partition("@")
    if not _NAME.fullmatch(parts[0]) or not _NAME.fullmatch(name) or (at and not revision):
        raise BadUrl(f"'{shown(url)}' names no repository or revision", hint=_HUB_HINT)
    return HubFile(
        repository=f"{parts[0]}/{name}",
        revision=unquote(revision) or _MAIN,
        path=unquote(parts[2]),
    )


def bucket_object(url: str) -> BucketObject:
    """What a URL of a bucket means. An object's name is taken as it stands, but for a version after
    it: '?versionId=…', or '?generation=…' in Google Cloud."""
    kind, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    path, _, version = path.partition(f"?{_VERSION[kind]}=")
    if not bucket or not path or path.endswith("/"):
        raise BadUrl(f"'{shown(url)}' names no object", hint=f"expected '{kind}://BUCKET/PATH'")
    if "?" in path and holds_credentials(url):
        raise BadUrl(
            f"the URL '{shown(url)}' holds a credential",
            hint="credentials come from the environment, by the names that the provider gives them",
        )
    return BucketObject(bucket=f"{kind}://{bucket}", path=path, version=version or None)


def pinned(url: str, revision: str | None) -> str:
    """The same file as it was at a revision: a commit at Hugging Face, a version in a bucket."""
    kind = scheme(url)
    if revision is None or kind in WEB:
        return url
    if kind == HUB:
        _, path = url.removeprefix(f"{HUB}://{hub_file(url).repository}").split("/", 1)
        return f"hf://{hub_file(url).repository}@{quote(revision, safe='')}/{path}"
    found = bucket_object(url)
    return f"{found.bucket}/{found.path}?{_VERSION[kind]}={revision}"


def shown(url: str) -> str:
    """A URL for people: without its query, and without a user's name and password."""
    kind, slashes, rest = url.partition("://")
    if not slashes:
        return "…"
    host, slash, path = rest.partition("/")
    host = re.split(r"[?#]", host)[0]
    if kind in WEB:
        try:
            _ = urlsplit(f"{kind}://{host}").port
        except ValueError:  # 'user:pass/word@host' looks like a port that is none
            return f"{kind}://…"
    path, query, _ = path.partition("?")
    return f"{kind}://{host.rpartition('@')[2]}{slash}{path.partition('#')[0]}" + "?…" * bool(query)


def holds_credentials(url: str) -> bool:
    """Whether it is signed, or holds a key: such a URL must be in no file."""
    host, _, query = url.partition("?")
    named = "@" in host.partition("://")[2].partition("/")[0]
    given = parse_qsl(query.partition("#")[0], keep_blank_values=True)
    return named or any(_SECRET.fullmatch(name) for name, _ in given)


def identity(url: str) -> str:
    """What stays of a URL when it is signed again."""
    path, mark, query = url.partition("?")
    kept = [
        each for each in query.split("&") if mark and not _SECRET.fullmatch(each.partition("=")[0])
    ]
    return path + mark * bool(kept) + "&".join(kept)
