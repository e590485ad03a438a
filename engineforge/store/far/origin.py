"""Where a file elsewhere is read from: a web server, Hugging Face or a bucket, each from any byte
on, and saying when what is there has changed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from engineforge.errors import HostUnfit, UsageError
from engineforge.spec import url as urls
from engineforge.store.far import web
from engineforge.store.far.bucket import Bucket
from engineforge.store.far.objects import CHUNK
from engineforge.store.far.web import Answer, BrokenOff, Credentials, DownloadFailed

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_CREDENTIALS = {
    "s3": (
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ),
    "gs": (
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
    ),
    "az": ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_KEY", "AZURE_CLIENT_ID"),
}
_PUBLIC = {"s3": "AWS_SKIP_SIGNATURE=true reads a public bucket"}


class Changed(Exception):
    """What is there is not what the first part was of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What tells one content of a URL from the next: its tag, '' where the server gives none that
    is sure, its size in bytes, and its version in a bucket that keeps several."""

    tag: str
    size: int | None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The bytes from `start` on."""

    content: Content
    start: int
    chunks: Iterator[bytes]
    ends_visibly: bool = True


class Origin(Protocol):
    @property
    def shown(self) -> str:
        """Where it is, for people: without credentials."""

    def part(self, start: int, content: Content | None) -> AbstractContextManager[Part]:
        """What is there from `start` on, or from 0 on where the rest of `content` cannot be had.
        Changed where it is no longer that, BrokenOff for what may pass, DownloadFailed else."""


def origin(url: str, environment: Mapping[str, str]) -> Origin:
    """Where a URL leads, with the credentials that the environment has for it; nothing is asked
    yet. UsageError or HostUnfit where that cannot be."""
    kind = urls.scheme(url)
    if kind == urls.HUB:
        address = web.hub_address(urls.hub_file(url), environment)
        return _Web(url, address, web.of_hub(environment), environment)
    if kind in urls.WEB:
        return _Web(url, url, web.of_netrc(url, environment), environment)
    return _Object(urls.bucket_object(url), url, environment)


class _Web:
    def __init__(
        self, url: str, address: str, credentials: Credentials, environment: Mapping[str, str]
    ) -> None:
        web.refuse_unencrypted(address, environment)
        self.shown = urls.shown(url)
        self._address, self._credentials, self._environment = address, credentials, environment

    @contextlib.contextmanager
    def part(self, start: int, content: Content | None) -> Iterator[Part]:
        headers = {}
        if start and content is not None:
            headers["Range"] = f"bytes={start}-"
            if content.tag:
                headers["If-Range"] = content.tag
        with web.asked(
            self._address,
            headers=headers,
            credentials=self._credentials,
            environment=self._environment,
        ) as answer:
            if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
                raise Changed
            if (refused := web.refusal(answer, self.shown, self._credentials)) is not None:
                raise refused
            if answer.status == HTTPStatus.OK:
                found, start = _content(answer, answer.length), 0
            else:
                found = self._rest(answer, start)
                if found != content:
                    raise Changed
            yield Part(
                content=found,
                start=start,
                chunks=answer.chunks(),
                ends_visibly=answer.ends_visibly,
            )

    def _rest(self, answer: Answer, start: int) -> Content:
        given = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if given is None or int(given[1]) != start:
            raise Changed
        return _content(answer, int(given[2]))


def _content(answer: Answer, size: int | None) -> Content:
    tag = answer.headers.get("ETag", "")
    if tag.startswith("W/"):  # says that it means the same, not that it is the same
        tag = ""
    return Content(tag=tag or answer.headers.get("Last-Modified", ""), size=size)


class _Object(Bucket):
    """One object, by the version that was asked for, or that is there."""

    def __init__(self, wanted: urls.BucketObject, url: str, environment: Mapping[str, str]) -> None:
        self.shown = urls.shown(url)
        self._wanted = wanted
        self._kind = wanted.bucket.partition("://")[0]
        self._given = environment
        try:
            super().__init__(wanted.bucket, options={"retries": "2"}, environment=environment)
        except HostUnfit as error:
            raise HostUnfit(
                f"'{self.shown}' needs obstore, which is not installed", hint=error.hint
            ) from error
        except UsageError as error:
            said = str(error.args[0]).removeprefix("the remote store ")
            raise UsageError(said, hint=error.hint) from None

    @contextlib.contextmanager
    def part(self, start: int, content: Content | None) -> Iterator[Part]:
        options: dict[str, Any] = {}  # obstore's GetOptions
        if self._wanted.version is not None:
            options["version"] = self._wanted.version
        if start and content is not None:
            options["range"] = {"offset": start}
            options["if_match"] = content.tag
        with self._told():
            try:
                got = self._obstore.get(self._store, self._wanted.path, options=options)
            except (self._errors.PreconditionError, self._errors.NotSupportedError):
                raise Changed from None
            meta = got.meta
        version = meta["version"]
        found = Content(
            tag=meta["e_tag"] or "",
            size=meta["size"],
            version=None if version in (None, "null") else version,  # S3 without versions
        )
        if start and found != content:
            raise Changed
        yield Part(content=found, start=got.range[0], chunks=self._chunks(got))

    def _chunks(self, got: Any) -> Iterator[bytes]:  # noqa: ANN401 - obstore is imported when used
        with self._told():
            for chunk in got.stream(min_chunk_size=CHUNK):
                yield memoryview(chunk)  # type: ignore[misc]  # obstore's bytes, not copied

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        # `from None`, since what obstore says may hold credentials.
        try:
            yield
        except (self._errors.PermissionDeniedError, self._errors.UnauthenticatedError) as error:
            raise DownloadFailed(
                f"'{self.shown}' is refused: {self._said(error)}", hint=self._looked_for()
            ) from None
        except FileNotFoundError as error:
            raise DownloadFailed(
                f"there is no '{self.shown}': {self._said(error)}",
                hint="check the URL, the region and the endpoint",
            ) from None
        except self._errors.GenericError as error:
            said = self._said(error)
            if self._may_pass(error):
                raise BrokenOff(said) from None
            raise DownloadFailed(f"'{self.shown}' cannot be fetched: {said}") from None
        except self._errors.BaseError as error:
            raise DownloadFailed(f"'{self.shown}' cannot be fetched: {self._said(error)}") from None

    def _looked_for(self) -> str:
        names = _CREDENTIALS[self._kind]
        found = " and ".join(name for name in names if self._given.get(name))
        looked = Credentials(
            looked_in=(*names, "what this machine itself is given"), found_in=found or None
        ).told
        profile = (
            '; a profile must be turned into them first: eval "$(aws configure export-credentials'
            ' --format env)"'
        )
        public = f"; {_PUBLIC[self._kind]}" if self._kind in _PUBLIC else ""
        return looked + profile * self._profile + public
