"""Blobs of a repository in a registry, up and down, by the OCI distribution specification 1.1
(github.com/opencontainers/distribution-spec): streamed, hashed on the way, taken up after a cut."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from urllib.parse import urlencode

from engineforge.digest import Digest
from engineforge.promotion.oci.answer import Answer, BrokenOff, SourceFailed
from engineforge.promotion.oci.documents import Descriptor
from engineforge.promotion.oci.hashing import Passing, passing
from engineforge.promotion.oci.http import Client
from engineforge.promotion.oci.repository import BlobCorrupt, Chunks, Gone
from engineforge.store.far.objects import RemoteUnavailable

_PART = 64 << 20
"""Of an upload, by request: what is sent again at most where a registry keeps what it has."""
_AT_ONCE = 1 << 20
"""Blobs up to this size go with the request that ends their upload."""
_RESTARTS = 5
_COMMIT_SECONDS = 900.0
"""For a registry to put an upload where it belongs: some copy it there."""
_BINARY: Mapping[str, str] = {"Content-Type": "application/octet-stream"}
_NOT_THERE = frozenset({404, 410})


class _SessionLost(Exception):
    """The registry knows an upload no more: it starts again from the first byte."""


class Blobs:
    def __init__(self, client: Client, name: str, shown: str) -> None:
        """`shown` is the repository's URL, for people."""
        self._client, self._name, self._shown = client, name, shown
        self._pull = frozenset({f"repository:{name}:pull"})
        self._push = frozenset({f"repository:{name}:pull,push"})
        self._delete = frozenset({f"repository:{name}:delete"})

    def size(self, digest: Digest) -> int | None:
        """As the registry has it; None where it has none."""
        answer = self._client.ask("HEAD", self._path(digest), scopes=self._pull)
        if answer.status in _NOT_THERE:
            return None
        self._expect(answer, "show a blob", HTTPStatus.OK)
        told = answer.headers.get("Docker-Content-Digest", digest)
        if told != digest:
            raise BlobCorrupt(f"'{self._shown}' has '{told}' where '{digest}' was asked for")
        length = answer.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise self._client.unexpected(answer, "say how large a blob is")
        return int(length)

    def stream(self, blob: Descriptor) -> Iterator[bytes]:
        with passing() as found:
            pauses = self._client.pauses()
            while True:
                try:
                    for chunk in self._from(blob, found.size):
                        if found.size + len(chunk) > blob.size:
                            raise self._corrupt(blob, f"more than the {blob.size} bytes of it")
                        found.add(chunk)
                        pauses = self._client.pauses()
                        yield chunk
                    break
                except BrokenOff as error:
                    next(pauses)(error)
            if found.size != blob.size:
                raise self._corrupt(blob, f"{found.size} bytes, not {blob.size}")
            if (digest := found.hexdigest()) != blob.digest.hex:
                raise self._corrupt(blob, f"bytes whose digest is 'sha256:{digest}'")

    def _from(self, blob: Descriptor, start: int) -> Iterator[bytes]:
        if start == blob.size and start:
            return
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._client.opened(
            self._path(blob.digest), scopes=self._pull, headers=headers
        ) as got:
            if got.status in _NOT_THERE:
                raise Gone(
                    f"'{self._shown}' has no blob '{blob.digest}'",
                    hint="promote again from an environment that has it",
                )
            if got.status == HTTPStatus.PARTIAL_CONTENT and start:
                told = got.headers.get("Content-Range", "")
                if not told.startswith(f"bytes {start}-"):
                    raise self._corrupt(blob, f"another part ('{told[:60]}') than was asked for")
                yield from got.chunks
            elif got.status == HTTPStatus.OK:
                # One that knows no ranges sends it all again.
                skip = start
                for chunk in got.chunks:
                    if skip < len(chunk):
                        yield chunk[skip:] if skip else chunk
                    skip = max(0, skip - len(chunk))
            else:
                raise RemoteUnavailable(
                    f"the registry '{self._client.host}' does not give the blob"
                    f" '{blob.digest}': it answers {got.status}",
                    hint="check what else the registry, or what is before it, says of that",
                )

    def push(self, blob: Descriptor, chunks: Chunks) -> None:
        with passing() as hashed:
            source = _Source(blob, chunks, hashed)
            for _ in range(_RESTARTS):
                try:
                    if blob.size <= _AT_ONCE:
                        self._send_at_once(source)
                    else:
                        self._send_in_parts(source)
                    return
                except _SessionLost as lost:
                    why = str(lost)
                except SourceFailed as error:
                    raise error.__cause__ or error from None
        raise RemoteUnavailable(
            f"the registry '{self._client.host}' lost the upload of '{blob.digest}' {_RESTARTS}"
            f" times: {why}",
            hint="check what the registry, or what is before it, says of that, and try again",
        )

    def _send_at_once(self, source: _Source) -> None:
        source.open(0)
        data = b"".join(source.take(source.blob.size))
        source.verify()
        upload, _ = self._begun()
        self._end(upload, source, data)

    def _send_in_parts(self, source: _Source) -> None:
        upload, part = self._begun()
        held, pauses = 0, self._client.pauses()
        try:
            while held < source.blob.size:
                size = min(part, source.blob.size - held)
                try:
                    upload, now = self._send_part(upload, source, held, size)
                except BrokenOff as error:
                    next(pauses)(error)
                    upload, now = self._status(upload)
                if now < held or now > source.blob.size:
                    raise _SessionLost(f"it has {now} bytes of {held}")
                if now > held:
                    pauses = self._client.pauses()
                held = now
            source.verify()
        except (BlobCorrupt, SourceFailed):
            self.cancel(upload)
            raise
        self._end(upload, source, b"")

    def _begun(self) -> tuple[str, int]:
        """The URL of a new upload, and how large parts of it are to be."""
        answer = self._client.ask(
            "POST",
            f"/v2/{self._name}/blobs/uploads/",
            scopes=self._push,
            headers={"Content-Length": "0"},
        )
        self._expect(answer, "take an upload", HTTPStatus.ACCEPTED)
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        return self._location(answer), max(_PART, int(least) if least.isdecimal() else 0)

    def _send_part(self, upload: str, source: _Source, at: int, size: int) -> tuple[str, int]:
        def body() -> Iterator[bytes]:
            source.open(at)
            return source.take(size)

        headers = {
            **_BINARY,
            "Content-Length": str(size),
            "Content-Range": f"{at}-{at + size - 1}",
        }
        answer = self._client.ask(
            "PATCH", upload, scopes=self._push, headers=headers, body=body, once=True
        )
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return self._status(upload)
        self._session_held(answer)
        self._expect(answer, "take a part of an upload", HTTPStatus.ACCEPTED)
        return self._location(answer), _held(answer, at + size)

    def _status(self, upload: str) -> tuple[str, int]:
        """Where an upload goes on, and from which byte."""
        answer = self._client.ask("GET", upload, scopes=self._push)
        self._session_held(answer)
        self._expect(answer, "tell of an upload", HTTPStatus.NO_CONTENT)
        return self._location(answer, upload), _held(answer, 0)

    def _end(self, upload: str, source: _Source, data: bytes) -> None:
        blob, pauses = source.blob, self._client.pauses()
        url = f"{upload}{'&' if '?' in upload else '?'}{urlencode({'digest': blob.digest})}"
        while True:
            try:
                answer = self._client.ask(
                    "PUT",
                    url,
                    scopes=self._push,
                    headers={**_BINARY, "Content-Length": str(len(data))},
                    body=data,
                    once=True,
                    silence=_COMMIT_SECONDS,
                )
                break
            except BrokenOff as error:
                next(pauses)(error)
                # It may have been done; if not, and if bytes came with it, nobody knows how many.
                if self.size(blob.digest) == blob.size:
                    return
                if data:
                    self.cancel(upload)
                    raise _SessionLost(str(error)) from None
        if answer.status != HTTPStatus.CREATED and self.size(blob.digest) != blob.size:
            self._session_held(answer)
            if answer.status in (
                HTTPStatus.BAD_REQUEST,
                HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            ):
                # Our bytes had the right digest, so others arrived.
                self.cancel(upload)
                raise _SessionLost(self._client.told(answer))
            self._expect(answer, "take a blob", HTTPStatus.CREATED)
        if (size := self.size(blob.digest)) != blob.size:
            raise self._corrupt(blob, "nothing" if size is None else f"{size} bytes of {blob.size}")

    def mount(self, blob: Descriptor, source: str) -> bool:
        """From the repository of this name."""
        query = urlencode({"mount": blob.digest, "from": source})
        scopes = self._push | {f"repository:{source}:pull"}
        answer = self._client.ask(
            "POST",
            f"/v2/{self._name}/blobs/uploads/?{query}",
            scopes=scopes,
            headers={"Content-Length": "0"},
        )
        if answer.status == HTTPStatus.ACCEPTED:
            self.cancel(self._location(answer))
        return answer.status == HTTPStatus.CREATED and self.size(blob.digest) == blob.size

    def cancel(self, upload: str) -> None:
        """What cannot be cancelled, the registry forgets some day."""
        with contextlib.suppress(RemoteUnavailable, BrokenOff):
            self._client.ask("DELETE", upload, scopes=self._delete, once=True)

    def _path(self, digest: Digest) -> str:
        return f"/v2/{self._name}/blobs/{digest}"

    def _location(self, answer: Answer, otherwise: str | None = None) -> str:
        location = answer.headers.get("Location") or otherwise
        if location is None:
            raise self._client.unexpected(answer, "say where an upload goes on")
        return self._client.url(location, answer.url)

    def _session_held(self, answer: Answer) -> None:
        if answer.status in _NOT_THERE:
            raise _SessionLost(self._client.told(answer))

    def _expect(self, answer: Answer, doing: str, *statuses: int) -> None:
        if answer.status not in statuses:
            raise self._client.unexpected(answer, doing)

    def _corrupt(self, blob: Descriptor, found: str) -> BlobCorrupt:
        return BlobCorrupt(
            f"'{self._shown}' has {found}, for the blob '{blob.digest}'",
            hint="nothing of it was used; have the registry's operator remove it, and promote"
            " it again",
        )


class _Source:
    """The bytes that are to be a blob: read on from where they are, or again from elsewhere, and
    each hashed when it comes by for the first time."""

    def __init__(self, blob: Descriptor, chunks: Chunks, hashed: Passing) -> None:
        self.blob = blob
        self._chunks, self._hashed = chunks, hashed
        self._at = -1
        self._coming: Iterator[bytes] = iter(())
        self._rest = b""

    def open(self, at: int) -> None:
        if at != self._at:
            self._coming, self._rest, self._at = iter(self._chunks(at)), b"", at

    def take(self, size: int) -> Iterator[bytes]:
        """The next so many bytes; BlobCorrupt where there are fewer."""
        while size:
            if not self._rest:
                self._rest = next(self._coming, b"")
                if not self._rest:
                    raise self._wrong(f"{self._at} bytes, not {self.blob.size}")
            chunk, self._rest = self._rest[:size], self._rest[size:]
            new = self._at + len(chunk) - self._hashed.size
            if new > 0:
                self._hashed.add(memoryview(chunk)[-new:])
            self._at += len(chunk)
            size -= len(chunk)
            yield chunk

    def verify(self) -> None:
        """After the last byte was taken. BlobCorrupt where they are others than they should be, or
        more."""
        if self._at == self.blob.size and (self._rest or next(self._coming, b"")):
            raise self._wrong(f"more than {self.blob.size} bytes")
        found = self._hashed.hexdigest()
        if self._hashed.size != self.blob.size or found != self.blob.digest.hex:
            raise self._wrong(f"bytes whose digest is 'sha256:{found}'")

    def _wrong(self, found: str) -> BlobCorrupt:
        return BlobCorrupt(
            f"what is to be put as the blob '{self.blob.digest}' has {found}",
            hint="nothing was put; check where it comes from with 'engineforge verify'",
        )


def _held(answer: Answer, otherwise: int) -> int:
    """How many bytes of an upload the registry has, by its header Range. Some say '0-0' of one with
    none, too: such an upload counts as empty, and fails where it has one byte."""
    found = re.fullmatch(r"(?:bytes=)?0-(\d+)", answer.headers.get("Range", ""))
    if found is None:
        return otherwise
    return int(found[1]) + 1 if int(found[1]) else 0
