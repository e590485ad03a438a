"""What an OCI repository can do, whatever keeps it: blobs and manifests by digest, tags, and what
refers to a manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from engineforge.digest import Digest
from engineforge.errors import StoreCorrupt
from engineforge.promotion.oci.documents import Descriptor

Chunks = Callable[[int], Iterator[bytes]]
"""The bytes of a blob from an offset on; called again where an upload has to be taken up."""


class BlobCorrupt(StoreCorrupt):
    """Bytes of a repository that are not what their digest says."""


class Gone(StoreCorrupt):
    """What a manifest or tag names is not there."""


@dataclass(frozen=True, slots=True)
class Place:
    """A registry's host and the repository's name in it: blobs can be mounted between those of one
    registry."""

    registry: str
    name: str


class Repository(Protocol):
    """A repository in a registry, or an image layout in a folder or bucket; for all threads of a
    process. Every method may raise RemoteUnavailable, when what could pass by itself was tried
    again.

    Whatever is put is durable when the method returns, and was read back: a manifest by its bytes,
    a blob by its size and by the digest that the keeper itself computed (a registry has to, by the
    distribution specification; elsewhere they were hashed on their way).
    """

    @property
    def url(self) -> str:
        """Where it is, for people: without credentials."""

    @property
    def place(self) -> Place | None:
        """Where it is among those of a registry; None elsewhere."""

    def resolve(self, tag: str) -> Digest | None:
        """The digest of the manifest or index that a tag stands for."""

    def manifest(self, digest: Digest) -> bytes | None:
        """A manifest or index, verified; None where there is none, BlobCorrupt where it is another,
        or larger than MOST_BYTES."""

    def put_manifest(self, data: bytes) -> Digest:
        """Put a manifest or index by its digest. What it names must be there before. One with a
        `subject` is found by `referrers` from then on."""

    def has(self, blob: Descriptor) -> bool:
        """Whether a blob is there, with its size."""

    def stream(self, blob: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob, in chunks of some MiB at most, verified as they pass: Gone or
        BlobCorrupt, at the latest after the last one, so nothing may rely on them before."""

    def push(self, blob: Descriptor, chunks: Chunks) -> None:
        """Put a blob that is not there, never with more than some MiB of it in memory. BlobCorrupt
        where `chunks` give other bytes than the digest's: nothing is there then."""

    def mount(self, blob: Descriptor, source: Repository) -> bool:
        """Have a blob from another repository of the same registry, without moving its bytes; False
        where that cannot be."""

    def move(self, tag: str, to: Digest, expected: Digest | None) -> bool:
        """Have a tag stand for another manifest, which is there, if it still stands for the
        `expected` one (None: for nothing). False where another process was first."""

    def tag(self, tag: str, to: Digest) -> None:
        """Have a tag stand for a manifest that is there, whatever it stood for."""

    def untag(self, tag: str) -> bool:
        """Remove a tag; False where the keeper does not let anyone."""

    def tags(self) -> list[str]:
        """All tags, sorted."""

    def referrers(self, subject: Digest) -> list[Descriptor]:
        """The manifests that name this one as their subject, with their artifact types."""
