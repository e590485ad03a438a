"""Objects in a bucket of S3, Google Cloud or Azure, or behind an HTTP server, through obstore.

obstore tries again by itself what fails with 5xx, 408, 429 or no answer at all, and not what is
refused (400, 401, 403, 404); a body that breaks off is taken up again here.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from engineforge.errors import HostUnfit, UsageError
from engineforge.store.far.objects import CHUNK, Found, RemoteUnavailable, Stat, Version

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta, UpdateVersion
    from obstore.store import BackoffConfig, ClientConfig, ObjectStore, RetryConfig

T = TypeVar("T")

_PART = 8 << 20
_PARTS_AT_ONCE = 2
_MOST_PARTS = 9_000  # S3 takes 10,000
_RANGED = 32 << 20
"""From here on an object is read in parts, several at once: a bucket gives each connection a share
of its speed only (docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html)."""
_RANGES_AT_ONCE = 4
_RETRIES = 5
_BACKOFF_SECONDS, _MOST_BACKOFF_SECONDS = 0.2, 5.0

# What says where and as whom, by the names that the providers' own tools read.
_AWS = (
    "ACCESS_KEY_ID SECRET_ACCESS_KEY SESSION_TOKEN REGION DEFAULT_REGION ENDPOINT_URL"
    " ENDPOINT_URL_S3 SKIP_SIGNATURE VIRTUAL_HOSTED_STYLE_REQUEST ROLE_ARN ROLE_SESSION_NAME"
    " WEB_IDENTITY_TOKEN_FILE CONTAINER_CREDENTIALS_RELATIVE_URI CONTAINER_CREDENTIALS_FULL_URI"
    " CONTAINER_AUTHORIZATION_TOKEN_FILE SERVER_SIDE_ENCRYPTION SSE_KMS_KEY_ID REQUEST_PAYER"
    " CHECKSUM_ALGORITHM METADATA_ENDPOINT"
)
_AZURE = (
    "STORAGE_ACCOUNT_NAME STORAGE_ACCOUNT_KEY STORAGE_SAS_KEY STORAGE_TOKEN STORAGE_ENDPOINT"
    " CLIENT_ID CLIENT_SECRET TENANT_ID AUTHORITY_HOST FEDERATED_TOKEN_FILE MSI_ENDPOINT"
)
_GOOGLE = "APPLICATION_CREDENTIALS SERVICE_ACCOUNT SERVICE_ACCOUNT_KEY"
_NAMES = {
    "s3": [f"AWS_{each}" for each in _AWS.split()],
    "gs": [f"GOOGLE_{each}" for each in _GOOGLE.split()],
    "az": [f"AZURE_{each}" for each in _AZURE.split()],
    "http": [],
    "https": [],
}
SCHEMES = tuple(_NAMES)
# Where the data goes. The others that are called endpoints give credentials on the instance itself,
# and are without encryption by nature (AZURE_MSI_ENDPOINT, AWS_METADATA_ENDPOINT).
_DATA_ENDPOINTS = (
    "endpoint",
    "endpoint_url",
    "aws_endpoint",
    "aws_endpoint_url",
    "azure_endpoint",
    "azure_storage_endpoint",
)
_SECRET = re.compile("KEY|SECRET|TOKEN|PASSWORD|SAS|AUTHORIZATION", re.IGNORECASE)
_SHORTEST_SECRET = 6
# What S3, Azure and GCS answer where there is no bucket: https://docs.aws.amazon.com/AmazonS3/latest/
# API/ErrorResponses.html, Azure's ContainerNotFound, GCS' "The specified bucket does not exist".
_NO_BUCKET = "NoSuchBucket|ContainerNotFound|specified bucket does not exist"


class Bucket:
    """All of one bucket or server, under the path of its URL."""

    def __init__(
        self, url: str, *, options: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        """`options` are obstore's own settings for the kind of bucket (`region`, `endpoint`, …),
        and `retries`. UsageError for a URL or setting that does not exist, HostUnfit without
        obstore. What `environment` lacks, obstore looks for where the provider says: in this
        process's own environment and on the instance that it runs on."""
        scheme = url.partition("://")[0]
        self._obstore, self._errors = _loaded()
        self.read_only = scheme in ("http", "https")
        config = {name: environment[name] for name in _NAMES[scheme] if environment.get(name)}
        if special := config.pop("AWS_ENDPOINT_URL_S3", None):  # which from_url does not know
            config["AWS_ENDPOINT_URL"] = special
        settings = dict(options)
        self._retries = int(settings.pop("retries", _RETRIES))
        self._secrets = [
            value
            for name, value in (*config.items(), *settings.items())
            if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET
        ]
        self._url = self._told_without_secrets(url)
        self._profile = bool(environment.get("AWS_PROFILE")) and scheme == "s3"
        given = {name.lower(): value for name, value in config.items()} | settings
        plain = environment.get("AWS_ALLOW_HTTP", "").lower() in ("true", "1", "yes")
        _refuse_plain(scheme, given, plain=plain)
        self._store = self._open(scheme, url, given, plain=plain)

    def _open(self, scheme: str, url: str, given: Mapping[str, str], *, plain: bool) -> ObjectStore:
        backoff: BackoffConfig = {
            "init_backoff": timedelta(seconds=_BACKOFF_SECONDS),
            "max_backoff": timedelta(seconds=_MOST_BACKOFF_SECONDS),
            "base": 2,
        }
        retry: RetryConfig = {
            "max_retries": self._retries,
            "backoff": backoff,
            "retry_timeout": timedelta(minutes=3),
        }
        # A large object takes as long as it takes; what counts is whether anything comes.
        client: ClientConfig = {
            "timeout": timedelta(hours=24),
            "read_timeout": timedelta(seconds=10),
            "connect_timeout": timedelta(seconds=5),
            "allow_http": plain or scheme == "http",
        }
        from obstore import store

        try:
            if self.read_only:
                if given:
                    raise UsageError(f"an HTTP server has no setting '{next(iter(given))}'")
                return store.HTTPStore(url, client_options=client, retry_config=retry)
            config: Any = dict(given)
            return store.from_url(url, config=config, client_options=client, retry_config=retry)
        except (self._errors.BaseError, ValueError) as error:
            raise UsageError(
                f"the remote store '{self.url}' cannot be opened: {self._said(error)}",
                hint="check its URL, its settings and the credentials in the environment",
            ) from None  # what obstore says may hold credentials

    @property
    def url(self) -> str:
        return self._url

    def read(self, path: str) -> Found | None:
        def read() -> Found:
            got = self._obstore.get(self._store, path)
            return Found(bytes(got.bytes()), _version(got.meta))

        try:
            with self._told():
                return self._again(read)
        except FileNotFoundError as error:
            if re.search(_NO_BUCKET, str(error)):
                raise self._no_bucket() from None
            return None

    def stat(self, path: str) -> Stat | None:
        with contextlib.suppress(FileNotFoundError), self._told():
            meta = self._obstore.head(self._store, path)
            return Stat(meta["size"], _version(meta))
        return None

    def stream(self, path: str, start: int, size: int) -> Iterator[bytes]:
        with self._told():
            if size - start >= _RANGED:
                try:
                    yield from self._ranges(path, start, size)
                    return
                except self._errors.NotSupportedError:
                    pass  # raised for the first range, if at all: nothing was given yet
            yield from self._one_after_another(path, start, size)

    def _ranges(self, path: str, start: int, size: int) -> Iterator[bytes]:
        """In order, while the next ones are on their way."""

        def part(at: int) -> bytes:
            end = min(at + _PART, size)

            def got() -> bytes:
                return memoryview(  # type: ignore[return-value]  # obstore's bytes, not copied
                    self._obstore.get_range(self._store, path, start=at, end=end)
                )

            return self._again(got)

        waiting: deque[Future[bytes]] = deque()
        places = iter(range(start, size, _PART))
        with ThreadPoolExecutor(_RANGES_AT_ONCE, thread_name_prefix="range") as pool:
            try:
                yield part(next(places))
                for at in places:
                    waiting.append(pool.submit(part, at))
                    if len(waiting) == _RANGES_AT_ONCE:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _one_after_another(self, path: str, start: int, size: int) -> Iterator[bytes]:
        at, tries = start, 0
        while at < size:
            try:
                for chunk in self._from(path, at):
                    yield chunk
                    at, tries = at + len(chunk), 0
                return  # also where it is shorter than it was said to be
            except self._errors.GenericError as error:
                tries += 1
                if not self._may_pass(error) or tries > self._retries:
                    raise
                time.sleep(_pause(tries))

    def _from(self, path: str, at: int) -> Iterator[bytes]:
        options: GetOptions = {"range": {"offset": at}} if at else {}
        skip = 0
        try:
            got = self._obstore.get(self._store, path, options=options)
        except self._errors.NotSupportedError:
            # A server that knows no ranges sends it all again.
            got, skip = self._obstore.get(self._store, path), at
        for chunk in got.stream(min_chunk_size=CHUNK):
            if skip >= len(chunk):
                skip -= len(chunk)
                continue
            yield chunk[skip:] if skip else chunk
            skip = 0

    def create(self, path: str, data: bytes) -> bool:
        with self._put():
            try:
                self._obstore.put(self._store, path, data, mode="create")
            except self._errors.AlreadyExistsError:
                return False
            return True

    def swap(self, path: str, data: bytes, version: Version) -> bool:
        mode: UpdateVersion = {"e_tag": version.tag}
        if version.number is not None:
            mode["version"] = version.number
        with self._told():
            try:
                self._obstore.put(self._store, path, data, mode=mode)
            except (
                self._errors.PreconditionError,
                self._errors.AlreadyExistsError,  # S3's 409: another one is just being put
                FileNotFoundError,
            ):
                return False
            return True

    def put(self, path: str, data: bytes) -> None:
        with self._put():
            self._obstore.put(self._store, path, data, use_multipart=False)

    def upload(self, path: str, chunks: Iterable[bytes], size: int) -> None:
        part = max(_PART, -(-size // _MOST_PARTS))
        with self._put():
            if size <= part:
                data = b"".join(chunks)
                self._obstore.put(self._store, path, data, use_multipart=False)
                return
            self._obstore.put(
                self._store,
                path,
                iter(chunks),
                use_multipart=True,
                chunk_size=part,
                max_concurrency=_PARTS_AT_ONCE,
            )

    def settle(self, path: str) -> None:
        """Nothing: what a bucket shows it keeps."""

    def names(self) -> list[str]:
        if self.read_only:
            return []
        with self._told():
            for some in self._obstore.list(self._store):
                return sorted({each["path"].partition("/")[0] for each in some})
        return []

    def copy(self, path: str, to: str) -> None:
        with self._told():
            self._obstore.copy(self._store, path, to)

    @contextlib.contextmanager
    def _put(self) -> Iterator[None]:
        try:
            with self._told():
                yield
        except FileNotFoundError:
            raise self._no_bucket() from None

    def _no_bucket(self) -> RemoteUnavailable:
        return RemoteUnavailable(
            f"the remote store '{self.url}' has no such bucket",
            hint="create it, or check its name and where it is",
        )

    def _again(self, ask: Callable[[], T]) -> T:
        """Ask again where an answer broke off."""
        for tries in range(1, self._retries + 1):
            try:
                return ask()
            except self._errors.GenericError as error:
                if not self._may_pass(error):
                    raise
                time.sleep(_pause(tries))
        return ask()

    def _may_pass(self, error: Exception) -> bool:
        # A status means that it was answered, and a count that it was asked again already.
        return not re.search(r"status code: \d|after \d+ retries", str(error).partition("\n")[0])

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        # `from None`, since what obstore says may hold credentials.
        try:
            yield
        except (self._errors.PermissionDeniedError, self._errors.UnauthenticatedError) as error:
            raise RemoteUnavailable(
                f"the remote store '{self.url}' refuses this: {self._said(error)}",
                hint="check the credentials, and that they may read, list and write there"
                + (
                    "; a profile must be turned into them first:"
                    ' eval "$(aws configure export-credentials --format env)"'
                    if self._profile
                    else ""
                ),
            ) from None
        except self._errors.BaseError as error:
            raise RemoteUnavailable(
                f"the remote store '{self.url}' cannot be used: {self._said(error)}",
                hint="check the network, the URL, the region and the endpoint, and try again",
            ) from None

    def _said(self, error: Exception) -> str:
        """The one line of it that helps, without a server's page of XML."""
        first = str(error).partition("\n")[0]
        code = re.search(r"<Code>(\w+)</Code>", str(error))
        first = re.sub(r"(status code: \d+ [^:<]*\w):?\s*<?.*", r"\1", first)
        return self._told_without_secrets(f"{first} ({code[1]})" if code else first)

    def _told_without_secrets(self, text: str) -> str:
        text = re.sub(r"//[^/\s'\"]*@", "//", text)
        text = re.sub(r"\?[^\s'\"]*", "", text)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _loaded() -> tuple[ModuleType, ModuleType]:
    try:
        import obstore
        from obstore import exceptions
    except ImportError as error:
        raise HostUnfit(
            "a remote store that is no folder needs obstore, which is not installed",
            hint="pip install 'engineforge[remote]'",
        ) from error
    return obstore, exceptions


def _refuse_plain(scheme: str, given: Mapping[str, str], *, plain: bool) -> None:
    if scheme in ("http", "https") or plain:
        return
    for name, value in given.items():
        if name.lower() in _DATA_ENDPOINTS and value.lower().startswith("http://"):
            raise UsageError(
                f"the endpoint that '{name.upper()}' names is not encrypted",
                hint="set AWS_ALLOW_HTTP=true if that is meant",
            )


def _version(meta: ObjectMeta) -> Version:
    return Version(meta["e_tag"] or "", meta["version"])


def _pause(tries: int) -> float:
    return float(min(_MOST_BACKOFF_SECONDS, _BACKOFF_SECONDS * 2 ** (tries - 1)))
