"""An OCI image layout in a folder or bucket as a repository, by the image specification 1.1
(github.com/opencontainers/image-spec, image-layout.md). Tags are entries of `index.json`, changed
by compare-and-swap; no blob is ever deleted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import StoreCorrupt, UsageError
from engineforge.promotion.oci.documents import (
    INDEX,
    MANIFEST,
    MOST_BYTES,
    REF_NAME,
    BadDocument,
    Descriptor,
    ImageIndex,
    ImageManifest,
    read_document,
    referrers_tag,
)
from engineforge.promotion.oci.hashing import passing
from engineforge.promotion.oci.repository import BlobCorrupt, Chunks, Gone, Repository
from engineforge.store.far.objects import Found, Objects, RemoteUnavailable

_LAYOUT, _INDEX = "oci-layout", "index.json"
_VERSION = "1.0.0"
"""Of the layout; specification 1.1 has it, too."""
_TRIES = 100
# What may be there before the layout is: what one left who was killed as it began, and what file
# systems have of their own. Hidden files besides.
_NOBODYS = frozenset({"staging", "blobs", "lost+found"})


class BadLayout(StoreCorrupt):
    """What is there is no OCI image layout, or not one that this version reads: nothing there is
    changed."""


class Layout:
    """Where nothing is yet, the first that is put begins a layout; until then it reads as empty.

    What refers to a manifest is listed by an index under the tag that the distribution
    specification has for registries without an API for that: `sha256-` and the manifest's digits.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._is_one = False

    @property
    def url(self) -> str:
        return self._objects.url

    @property
    def place(self) -> None:
        return None

    def resolve(self, tag: str) -> Digest | None:
        return self._tagged(self._index()[0]).get(tag)

    def tags(self) -> list[str]:
        return sorted(self._tagged(self._index()[0]))

    def manifest(self, digest: Digest) -> bytes | None:
        self._there()
        path = _blob(digest)
        # Asked first: a blob of any size may be there, and would be read into memory.
        stat = self._objects.stat(path)
        if stat is None:
            return None
        if stat.size > MOST_BYTES:
            raise self._corrupt(digest, f"{stat.size} bytes, and no manifest has so many")
        found = self._objects.read(path)
        if found is None:
            return None
        if digest_bytes(found.data) != digest:
            raise self._corrupt(digest, f"sha256 {digest_bytes(found.data).short}…")
        return found.data

    def put_manifest(self, data: bytes) -> Digest:
        """BadDocument for what is none; Gone where a blob or manifest that it names is missing."""
        document = _parsed(data)
        self._begun()
        for each in document.manifests if isinstance(document, ImageIndex) else document.blobs:
            if not self.has(each):
                raise Gone(
                    f"'{each.digest}' is not in '{self.url}', and a manifest that names it was to"
                    " be put there",
                    hint="put it there first",
                )
        digest = digest_bytes(data)
        path = _blob(digest)
        if self._holds(path, data):
            self._objects.settle(path)
        else:
            self._objects.put(path, data)
            if not self._holds(path, data):
                raise self._corrupt(digest, "other bytes than were just put there")
        if isinstance(document, ImageManifest) and document.subject is not None:
            kind, annotations = document.artifact_type, document.annotations
            found = Descriptor.of(data, MANIFEST, artifact_type=kind, annotations=annotations)
            self._refer(document.subject.digest, found)
        return digest

    def _holds(self, path: str, data: bytes) -> bool:
        stat = self._objects.stat(path)
        if stat is None or stat.size != len(data):
            return False
        found = self._objects.read(path)
        return found is not None and found.data == data

    def has(self, blob: Descriptor) -> bool:
        self._there()
        # Not settled: all blobs are in one folder, and whatever manifest comes to name this one
        # has that folder synced.
        stat = self._objects.stat(_blob(blob.digest))
        return stat is not None and stat.size == blob.size

    def stream(self, blob: Descriptor) -> Iterator[bytes]:
        self._there()
        path = _blob(blob.digest)
        stat = self._objects.stat(path)
        if stat is None:
            raise self._gone(blob.digest)
        if stat.size != blob.size:
            raise self._corrupt(blob.digest, f"{stat.size} bytes, expected {blob.size}")
        try:
            yield from _verified(
                blob,
                self._objects.stream(path, 0, blob.size),
                lambda why: self._corrupt(blob.digest, why),
            )
        except FileNotFoundError as error:
            raise self._gone(blob.digest) from error

    def push(self, blob: Descriptor, chunks: Chunks) -> None:
        self._begun()
        path = _blob(blob.digest)

        def refused(why: str) -> BlobCorrupt:
            return BlobCorrupt(
                f"what was to be put into '{self.url}' as '{blob.digest}' is not that: it has {why}"
            )

        # Its last chunk is held back until all are hashed: nobody ever has the wrong ones whole.
        self._objects.upload(path, _held(_verified(blob, chunks(0), refused)), blob.size)
        stat = self._objects.stat(path)
        if stat is None or stat.size != blob.size:
            raise self._corrupt(blob.digest, "another size than was just put there")

    def mount(self, blob: Descriptor, source: Repository) -> bool:
        """False: between folders and buckets bytes have to move."""
        return False

    def move(self, tag: str, to: Digest, expected: Digest | None) -> bool:
        return self._stands(tag, self._described(to), lambda now: now == expected)

    def tag(self, tag: str, to: Digest) -> None:
        self._stands(tag, self._described(to), lambda _: True)

    def untag(self, tag: str) -> bool:
        """True also where there was none."""
        if self._objects.read_only:
            return False
        return self._stands(tag, None, lambda _: True)

    def _described(self, to: Digest) -> Descriptor:
        data = self.manifest(to)
        if data is None:
            raise self._gone(to)
        self._objects.settle(_blob(to))
        try:
            document = _parsed(data)
        except BadDocument as error:
            raise self._corrupt(to, f"no manifest in it: {error}") from error
        kind = MANIFEST if isinstance(document, ImageManifest) else INDEX
        return Descriptor.of(data, kind, artifact_type=document.artifact_type)

    def referrers(self, subject: Digest) -> list[Descriptor]:
        found = self.resolve(referrers_tag(subject))
        return [] if found is None else list(self._listed(found).manifests)

    def _listed(self, digest: Digest) -> ImageIndex:
        data = self.manifest(digest)
        if data is None:
            raise self._gone(digest)
        try:
            return ImageIndex.from_bytes(data)
        except BadDocument as error:
            raise self._corrupt(digest, f"no index of referrers in it: {error}") from error

    def _refer(self, subject: Digest, found: Descriptor) -> None:
        """List one more referrer, if it is not listed yet."""
        tag = referrers_tag(subject)
        for _ in range(_TRIES):
            now = self.resolve(tag)
            listed = () if now is None else self._listed(now).manifests
            if any(each.digest == found.digest for each in listed):
                self._objects.settle(_INDEX)
                return
            index = ImageIndex(manifests=(*listed, found))
            if self.move(tag, self.put_manifest(index.to_bytes()), now):
                return
        raise self._busy()

    def _stands(
        self, tag: str, to: Descriptor | None, allowed: Callable[[Digest | None], bool]
    ) -> bool:
        """Have a tag stand for this, or for nothing, where what it stands for now allows that.
        Entries of all other tags stay as they are, whoever wrote them."""
        self._begun()
        wanted = None if to is None else to.digest
        tried = False
        for _ in range(_TRIES):
            raw, found = self._index()
            now = self._tagged(raw).get(tag)
            # A bucket may have done what was asked and its answer been lost: asked again by itself
            # it says that it is another version by now.
            if not (allowed(now) or (tried and now == wanted)):
                return False
            if now == wanted:
                self._objects.settle(_INDEX)
                return True
            if self._put_index(_changed(raw, tag, to), found):
                return True
            tried = True
        raise self._busy()

    def _put_index(self, raw: Mapping[str, Any], found: Found | None) -> bool:
        data = json.dumps(raw, ensure_ascii=False, separators=(",", ":")).encode()
        if len(data) > MOST_BYTES:
            raise BadLayout(
                f"'{_INDEX}' in '{self.url}' would have {len(data)} bytes, and at most"
                f" {MOST_BYTES} are read",
                hint="remove tags: a lower 'retention' keeps fewer",
            )
        if found is None:
            return self._objects.create(_INDEX, data)
        return self._objects.swap(_INDEX, data, found.version)

    def _index(self) -> tuple[dict[str, Any], Found | None]:
        """What `index.json` says, and what stands there; as JSON, since others may have written
        what a Descriptor does not hold."""
        if not self._there():
            return _empty(), None
        found = self._objects.read(_INDEX)
        if found is None:  # who began the layout was killed before they put it
            return _empty(), None
        try:
            raw = read_document(found.data)
            ImageIndex.from_bytes(found.data)
        except BadDocument as error:
            raise BadLayout(
                f"'{_INDEX}' in '{self.url}' is broken: {error}",
                hint="put it back as it was: it says what the tags stand for, and is all that does",
            ) from error
        return raw, found

    def _tagged(self, raw: Mapping[str, Any]) -> dict[str, Digest]:
        tagged: dict[str, Digest] = {}
        for each in raw["manifests"]:
            tag = _tag_of(each)
            if tag is None:
                continue
            if tag in tagged:
                raise BadLayout(
                    f"'{_INDEX}' in '{self.url}' has the tag '{tag}' twice",
                    hint="remove the entry that is wrong",
                )
            tagged[tag] = Digest(each["digest"])
        return tagged

    def _there(self) -> bool:
        """Whether there is a layout; BadLayout where something else is."""
        if self._is_one:
            return True
        found = self._objects.read(_LAYOUT)
        if found is None:
            if (other := self._other()) is None:
                return False
            found = self._objects.read(_LAYOUT)  # another process may have begun it meanwhile
            if found is None:
                raise BadLayout(
                    f"'{self.url}' is no OCI image layout: {other}",
                    hint="name a folder or path of its own: one that is empty, or is not there",
                )
        try:
            raw = json.loads(found.data)
            version = raw["imageLayoutVersion"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadLayout(
                f"'{_LAYOUT}' in '{self.url}' is broken: {error!r}",
                hint=f'its one line is {{"imageLayoutVersion": "{_VERSION}"}}',
            ) from error
        if version != _VERSION:
            raise BadLayout(
                f"'{self.url}' is an OCI image layout {version!r}, and this version reads"
                f" '{_VERSION}'",
                hint="use a newer version of engineforge",
            )
        self._is_one = True
        return True

    def _other(self) -> str | None:
        """How one sees that something else is there than a layout that has not begun."""
        if self._objects.read_only:  # where nothing can begin
            return f"it has no '{_LAYOUT}'"
        for name in self._objects.names():
            if name not in _NOBODYS and not name.startswith("."):
                return f"it has '{name}', and no '{_LAYOUT}'"
        return None

    def _begun(self) -> None:
        """Begin the layout where there is none."""
        if self._objects.read_only:
            raise UsageError(
                f"'{self.url}' is read over HTTP, and nothing can be put there",
                hint="promote to the bucket or folder behind it",
            )
        if not self._there():
            self._objects.create(_LAYOUT, json.dumps({"imageLayoutVersion": _VERSION}).encode())
            self._objects.create(_INDEX, json.dumps(_empty()).encode())
            self._there()

    def _corrupt(self, digest: Digest, why: str) -> BlobCorrupt:
        return BlobCorrupt(
            f"'{_blob(digest)}' in '{self.url}' is not what its name says: it has {why}",
            hint="remove it there, and promote again what it belongs to",
        )

    def _gone(self, digest: Digest) -> Gone:
        return Gone(
            f"'{_blob(digest)}' is not in '{self.url}', where something names it",
            hint="promote again what it belongs to",
        )

    def _busy(self) -> RemoteUnavailable:
        return RemoteUnavailable(
            f"'{_INDEX}' in '{self.url}' is written by others all the time", hint="try again"
        )


def _blob(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _empty() -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}


def _tag_of(entry: Mapping[str, Any]) -> str | None:
    tag: str | None = (entry.get("annotations") or {}).get(REF_NAME)
    return tag


def _changed(raw: Mapping[str, Any], tag: str, to: Descriptor | None) -> dict[str, Any]:
    entries = [each for each in raw["manifests"] if _tag_of(each) != tag]
    if to is not None:
        entries.append({**to.to_json(), "annotations": {REF_NAME: tag}})
    return {**raw, "manifests": entries}


def _parsed(data: bytes) -> ImageManifest | ImageIndex:
    kind = ImageIndex if read_document(data).get("mediaType") == INDEX else ImageManifest
    return kind.from_bytes(data)


def _verified(
    blob: Descriptor, chunks: Iterable[bytes], wrong: Callable[[str], BlobCorrupt]
) -> Iterator[bytes]:
    """The same chunks, and at last what is wrong with them, if anything is."""
    with passing() as hashed:
        for chunk in chunks:
            hashed.add(chunk)
            if hashed.size > blob.size:
                raise wrong(f"more than {blob.size} bytes")
            yield chunk
        if hashed.size != blob.size:
            raise wrong(f"{hashed.size} bytes, expected {blob.size}")
        if (found := hashed.hexdigest()) != blob.digest.hex:
            raise wrong(f"sha256 {found[:12]}…")


def _held(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Each chunk when the next one came, the last when there are no more."""
    held: bytes | None = None
    for chunk in chunks:
        if held is not None:
            yield held
        held = chunk
    if held is not None:
        yield held
