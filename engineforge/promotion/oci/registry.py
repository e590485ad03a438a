"""A repository in a registry, by the OCI distribution specification 1.1
(github.com/opencontainers/distribution-spec): manifests, tags and referrers, also where it has no
API for these; blobs and the moving of tags are beside it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import UsageError
from engineforge.promotion.oci.answer import Answer, BrokenOff
from engineforge.promotion.oci.blobs import Blobs
from engineforge.promotion.oci.claims import Mover, Tagged
from engineforge.promotion.oci.documents import (
    EMPTY_BYTES,
    EMPTY_CONFIG,
    INDEX,
    MANIFEST,
    MOST_BYTES,
    BadDocument,
    Descriptor,
    ImageIndex,
    read_document,
    referrers_tag,
)
from engineforge.promotion.oci.http import Client
from engineforge.promotion.oci.login import Login
from engineforge.promotion.oci.repository import BlobCorrupt, Chunks, Gone, Place, Repository
from engineforge.store.far.objects import RemoteUnavailable
from engineforge.store.far.web import is_local

SCHEME = "oci://"
_INSECURE = "ENGINEFORGE_INSECURE_REGISTRIES"
_ACCEPT: Mapping[str, str] = {"Accept": f"{MANIFEST}, {INDEX}"}
# By the specification, of the part of a repository's name between slashes.
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::(\d{1,5}))?"
)
_MOST_PORT = 65535
_LONGEST_NAME = 255
_DOCKER_HUB, _DOCKER_HUB_ITSELF = "docker.io", "registry-1.docker.io"
_MOST_PAGES = 1000
_PAGE = 1000
_LEAST_WAIT_SECONDS = 0.2
_TRIPS = 3
_ROUNDS = 20
# Registries without it say one of these: docker-registry 2.8 takes a tag for a digest.
_NO_UNTAGGING = frozenset({400, 405, 501})


class Registry:
    """One repository; for all threads of a process."""

    def __init__(
        self,
        place: Place,
        client: Client,
        *,
        said: Callable[[str], None],
        wait: Callable[[float], None],
    ) -> None:
        self._place, self._client, self._wait = place, client, wait
        self._name = place.name
        self._blobs = Blobs(client, place.name, self.url)
        self._mover = Mover(self, said=said, wait=wait)
        self._pull = frozenset({f"repository:{place.name}:pull"})
        self._push = frozenset({f"repository:{place.name}:pull,push"})
        self._delete = frozenset({f"repository:{place.name}:delete"})

    @classmethod
    def open(
        cls,
        url: str,
        *,
        environment: Mapping[str, str],
        said: Callable[[str], None],
        wait: Callable[[float], None] = time.sleep,
    ) -> Registry:
        """Of `oci://host[:port]/name`. Nothing is asked yet. Connections are encrypted, but to this
        machine itself and to the hosts in ENGINEFORGE_INSECURE_REGISTRIES (with commas between).
        UsageError for another URL, HostUnfit without urllib3."""
        place = parsed(url)
        listed = environment.get(_INSECURE, "").split(",")
        insecure = {each.strip().lower() for each in listed}

        def clear(host: str) -> bool:
            name = urlsplit(f"//{host}").hostname or ""
            return is_local(name) or host.lower() in insecure or name.lower() in insecure

        host = _DOCKER_HUB_ITSELF if place.registry == _DOCKER_HUB else place.registry
        login = Login(place.registry, place.name, environment=environment, clear=clear)
        client = Client(
            f"{'http' if clear(host) else 'https'}://{host}",
            login,
            environment=environment,
            said=said,
            wait=wait,
            clear=clear,
        )
        return cls(place, client, said=said, wait=wait)

    @property
    def url(self) -> str:
        return f"{SCHEME}{self._place.registry}/{self._place.name}"

    @property
    def place(self) -> Place:
        return self._place

    @property
    def longest_trip(self) -> float:
        """Seconds, of the latest requests for manifests."""
        return self._client.longest_trip

    def resolve(self, tag: str) -> Digest | None:
        answer = self._client.ask("HEAD", self._manifest(tag), scopes=self._pull, headers=_ACCEPT)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        self._expect(answer, "show a tag", HTTPStatus.OK)
        told = answer.headers.get("Docker-Content-Digest")
        if told is None:  # which a registry should say, and need not
            found, _ = self.tagged(tag)
            return None if found is None else found.digest
        return self._digest(told)

    def tagged(self, tag: str) -> tuple[Tagged | None, datetime | None]:
        """What a tag stands for, and the registry's clock."""
        answer = self._got(tag)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None, answer.date
        return Tagged(digest=digest_bytes(answer.body), data=answer.body), answer.date

    def manifest(self, digest: Digest) -> bytes | None:
        answer = self._got(digest)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if digest_bytes(answer.body) != digest:
            raise BlobCorrupt(
                f"'{self.url}' has another manifest than '{digest}' under that digest",
                hint="nothing of it was used; have the registry's operator remove it, and promote"
                " it again",
            )
        return answer.body

    def _got(self, reference: str) -> Answer:
        answer = self._client.ask(
            "GET", self._manifest(reference), scopes=self._pull, headers=_ACCEPT
        )
        self._expect(answer, "show a manifest", HTTPStatus.OK, HTTPStatus.NOT_FOUND)
        if len(answer.body) > MOST_BYTES:
            raise BlobCorrupt(
                f"'{self.url}' has a manifest '{reference}' of more than {MOST_BYTES} bytes",
                hint="no such manifest is read: what was promoted there is something else",
            )
        return answer

    def put_manifest(self, data: bytes) -> Digest:
        raw = read_document(data)
        digest = digest_bytes(data)
        answer = self._put(digest, data)
        if self.manifest(digest) != data:
            raise BlobCorrupt(
                f"'{self.url}' does not have the manifest '{digest}' that was just put",
                hint="look at what the registry's log says of it",
            )
        if raw.get("subject") is not None and "OCI-Subject" not in answer.headers:
            self._refer(Descriptor.from_json(raw["subject"]).digest, _described(data))
        return digest

    def put_tag(self, tag: str, data: bytes, *, once: bool = False) -> None:
        """Have a tag stand for a manifest with these bytes, without looking. BrokenOff, if only
        `once`, where nobody knows whether it was done."""
        self._put(tag, data, once=once)

    def put_empty_config(self) -> None:
        """The blob that manifests without a config name."""
        if not self.has(EMPTY_CONFIG):
            self.push(EMPTY_CONFIG, lambda at: iter((EMPTY_BYTES[at:],)))

    def _put(self, reference: str, data: bytes, *, once: bool = False) -> Answer:
        answer = self._client.ask(
            "PUT",
            self._manifest(reference),
            scopes=self._push,
            headers={"Content-Type": str(read_document(data).get("mediaType", INDEX))},
            body=data,
            once=once,
        )
        if any(code in ("MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN") for code, _ in answer.errors):
            raise Gone(
                f"'{self.url}' has not all that the manifest '{digest_bytes(data)}' names:"
                f" {self._client.told(answer)}",
                hint="promote again: what is missing is sent then",
            )
        self._expect(answer, "take a manifest", HTTPStatus.CREATED)
        return answer

    def has(self, blob: Descriptor) -> bool:
        return self._blobs.size(blob.digest) == blob.size

    def stream(self, blob: Descriptor) -> Iterator[bytes]:
        return self._blobs.stream(blob)

    def push(self, blob: Descriptor, chunks: Chunks) -> None:
        self._blobs.push(blob, chunks)

    def mount(self, blob: Descriptor, source: Repository) -> bool:
        there = source.place
        if there is None or there.registry != self._place.registry or there == self._place:
            return False
        try:
            return self._blobs.mount(blob, there.name)
        except RemoteUnavailable:
            # Copying says better what is the matter, if anything is but this.
            return False

    def move(self, tag: str, to: Digest, expected: Digest | None) -> bool:
        """See `claims.Mover` for what this can promise, and what it cannot."""
        try:
            return self._mover.move(tag, to, self._there(to), expected)
        except BrokenOff as error:
            raise RemoteUnavailable(
                f"the registry '{self._place.registry}' cannot be used: {error}",
                hint=f"the tag '{tag}' may have been moved or not: try again, that tells",
            ) from None

    def tag(self, tag: str, to: Digest) -> None:
        self.put_tag(tag, self._there(to))
        if (found := self.resolve(tag)) != to:
            raise RemoteUnavailable(
                f"the tag '{tag}' of '{self.url}' stands for '{found}' after it was put on '{to}'",
                hint="someone else has put it there at the same time: try again",
            )

    def untag(self, tag: str) -> bool:
        """Never by digest: that would take all other tags of the same manifest with it."""
        answer = self._client.ask("DELETE", self._manifest(tag), scopes=self._delete)
        if answer.status in _NO_UNTAGGING:
            return False
        self._expect(
            answer, "remove a tag", HTTPStatus.ACCEPTED, HTTPStatus.OK, HTTPStatus.NOT_FOUND
        )
        return self.resolve(tag) is None

    def tags(self) -> list[str]:
        found: set[str] = set()
        for answer in self._pages(f"/v2/{self._name}/tags/list?n={_PAGE}"):
            if answer.status == HTTPStatus.NOT_FOUND:
                break  # a repository that is not there yet
            self._expect(answer, "list tags", HTTPStatus.OK)
            try:
                listed = _object(answer.body).get("tags") or []
            except BadDocument as error:
                raise self._client.unexpected(answer, "list tags") from error
            found.update(each for each in listed if isinstance(each, str))
        return sorted(found)

    def referrers(self, subject: Digest) -> list[Descriptor]:
        found: dict[Digest, Descriptor] = {}
        for answer in self._pages(f"/v2/{self._name}/referrers/{subject}"):
            if answer.status == HTTPStatus.NOT_FOUND:
                return list(self._fallen_back(subject).manifests)
            self._expect(answer, "list referrers", HTTPStatus.OK)
            found.update((each.digest, each) for each in self._index(answer.body).manifests)
        return list(found.values())

    def _refer(self, subject: Digest, referrer: Descriptor) -> None:
        """What a registry with the API does by itself (specification, "Unavailable Referrers API").
        Two that do this at once overwrite each other; so each looks again after longer than that
        takes, which does not help where another was slower than that."""
        for _ in range(_ROUNDS):
            found = self._fallen_back(subject).manifests
            if any(each.digest == referrer.digest for each in found):
                return
            self.put_tag(
                referrers_tag(subject), ImageIndex(manifests=(*found, referrer)).to_bytes()
            )
            self._wait(max(_LEAST_WAIT_SECONDS, _TRIPS * self.longest_trip))
        raise RemoteUnavailable(
            f"'{self.url}' does not keep what refers to '{subject}': others overwrite it",
            hint="try again when fewer write there",
        )

    def _fallen_back(self, subject: Digest) -> ImageIndex:
        found, _ = self.tagged(referrers_tag(subject))
        return ImageIndex(manifests=()) if found is None else self._index(found.data)

    def _index(self, data: bytes) -> ImageIndex:
        try:
            return ImageIndex.from_bytes(data)
        except BadDocument as error:
            raise BlobCorrupt(
                f"'{self.url}' lists referrers by what is no image index: {error}",
                hint="have the registry's operator look at it",
            ) from error

    def _there(self, digest: Digest) -> bytes:
        data = self.manifest(digest)
        if data is None:
            raise Gone(
                f"'{self.url}' has no manifest '{digest}'",
                hint="promote again: it is sent then",
            )
        return data

    def _pages(self, first: str) -> Iterator[Answer]:
        url, seen = self._client.url(first), set[str]()
        while True:
            seen.add(url)
            answer = self._client.ask("GET", url, scopes=self._pull)
            yield answer
            following = answer.next_page
            if following is None:
                return
            if following in seen or len(seen) == _MOST_PAGES:
                raise self._client.unexpected(answer, "come to the end of a list")
            url = following

    def _manifest(self, reference: str) -> str:
        if ":" not in reference and not _TAG.fullmatch(reference):
            raise UsageError(
                f"'{reference}' is no tag",
                hint="at most 128 letters, digits, '_', '.' and '-', the first no '.' or '-'",
            )
        return f"/v2/{self._name}/manifests/{reference}"

    def _digest(self, text: str) -> Digest:
        try:
            return Digest(text)
        except ValueError:
            raise BlobCorrupt(
                f"'{self.url}' has something under '{text[:100]}', which is no sha256",
                hint="what was promoted there is something else",
            ) from None

    def _expect(self, answer: Answer, doing: str, *statuses: int) -> None:
        if answer.status not in statuses:
            raise self._client.unexpected(answer, doing)


def parsed(url: str) -> Place:
    """The registry and the name of a repository in a URL. UsageError for anything else."""
    host, slash, name = url.removeprefix(SCHEME).partition("/")

    def wrong(why: str, hint: str = "oci://HOST[:PORT]/NAME") -> UsageError:
        shown = re.sub(r"//[^/]*@", "//", url)
        return UsageError(f"'{shown}' is no repository of a registry: {why}", hint=hint)

    if not url.startswith(SCHEME):
        raise wrong(f"it does not begin with '{SCHEME}'")
    if "@" in host:
        raise wrong(
            "it has credentials in it",
            f"leave them out, and use 'docker login {host.rpartition('@')[2]}'",
        )
    matched = _HOST.fullmatch(host)
    if matched is None or (matched[1] and not 0 < int(matched[1]) <= _MOST_PORT):
        raise wrong(f"'{host}' is no host")
    if not slash or not name:
        raise wrong("it lacks the repository's name")
    if "@" in name or ":" in name:
        raise wrong("it has a tag or digest in it", "leave that out: specs are tags in it")
    if name != name.lower():
        raise wrong(
            "names of repositories have no capital letters", f"'{SCHEME}{host}/{name.lower()}'"
        )
    if not _NAME.fullmatch(name) or len(host) + len(name) >= _LONGEST_NAME:
        raise wrong(
            f"'{name}' is no name of one",
            "letters, digits, and between these '.', '_', '__' or '-'; parts with '/' between",
        )
    return Place(host.lower(), name)


def _described(data: bytes) -> Descriptor:
    """A referrer, with what is to be found in a list of them."""
    raw = read_document(data)
    kind = raw.get("artifactType") or (raw.get("config") or {}).get("mediaType")
    return Descriptor.of(
        data,
        str(raw.get("mediaType", MANIFEST)),
        artifact_type=kind,
        annotations=raw.get("annotations") or {},
    )


def _object(body: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(body)
    except ValueError as error:
        raise BadDocument(f"not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise BadDocument("not a JSON object")
    return raw
