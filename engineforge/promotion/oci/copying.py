"""Artifacts on their way into a repository: from files, or from another repository with all that
refers to them. Blobs first, manifests after them; tags are none of its business."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from engineforge.digest import Digest, digest_file
from engineforge.errors import StoreCorrupt
from engineforge.promotion.artifact import Artifact
from engineforge.promotion.oci.documents import BadDocument, Descriptor, ImageManifest
from engineforge.promotion.oci.repository import BlobCorrupt, Chunks, Gone, Repository

Told = Callable[[int, int], None]
"""Is told bytes so far and in all, of each manifest by itself; what it raises ends the copying."""

_CHUNK = 1 << 20


def push_artifact(
    artifact: Artifact, to: Repository, told: Told = lambda _done, _all: None
) -> Digest:
    """Put an engine's artifact there from its files, and have back its manifest's digest. What is
    there is skipped, so that it goes on where it was interrupted. StoreCorrupt where a file is not
    what the artifact says: it is not given away."""
    paths = {blob.digest: path for blob, path in artifact.blobs}

    def push(blob: Descriptor, add: Callable[[int], None]) -> None:
        path = paths[blob.digest]
        try:
            to.push(blob, _file(path, add))
        except BlobCorrupt as error:
            if digest_file(path) == blob.digest:
                raise
            raise StoreCorrupt(
                f"'{path}' is not what its manifest says, and is not given away",
                hint="engineforge verify",
            ) from error

    _blobs((blob for blob, _ in artifact.blobs), to, push, told)
    return _put(artifact.manifest, artifact.descriptor.digest, None, to)


def copy_artifact(
    digest: Digest, source: Repository, to: Repository, told: Told = lambda _done, _all: None
) -> None:
    """Copy a manifest with its blobs, and then all that refers to it, likewise. Inside one registry
    blobs are mounted; elsewhere they are streamed, verified on both ends, with never more than
    some MiB of them in memory. What is there is skipped.

    Gone where something is not in the source, or a referrer not found at the destination at last;
    BlobCorrupt where something is not what it says.
    """
    _copied(digest, None, source, to, told)


def _copied(
    digest: Digest, subject: Digest | None, source: Repository, to: Repository, told: Told
) -> None:
    data = source.manifest(digest)
    if data is None:
        raise Gone(
            f"the manifest {digest.short} is not in '{source.url}'", hint="promote it there again"
        )
    try:
        manifest = ImageManifest.from_bytes(data)
    except BadDocument as error:
        raise BlobCorrupt(f"{digest.short} in '{source.url}' is no artifact: {error}") from error
    about = None if manifest.subject is None else manifest.subject.digest
    if subject is not None and about != subject:
        raise BlobCorrupt(
            f"'{source.url}' says that {digest.short} refers to {subject.short}, and it does not",
            hint="its list of referrers was changed by other means; attest again",
        )

    def push(blob: Descriptor, add: Callable[[int], None]) -> None:
        if to.mount(blob, source):
            add(blob.size)
        else:
            to.push(blob, _streamed(source, blob, add))

    _blobs(manifest.blobs, to, push, told)
    _put(data, digest, about, to)
    wanted = [each.digest for each in source.referrers(digest)]
    for each in wanted:
        _copied(each, digest, source, to, told)
    if wanted:
        there = {each.digest for each in to.referrers(digest)}
        if lost := [each for each in wanted if each not in there]:
            raise Gone(
                f"{len(lost)} of {len(wanted)} attestations of {digest.short} are not found in"
                f" '{to.url}', where they were just put",
                hint="promote again; if it stays so, that store loses what refers to a manifest",
            )


def _blobs(
    blobs: Iterable[Descriptor],
    to: Repository,
    push: Callable[[Descriptor, Callable[[int], None]], None],
    told: Told,
) -> None:
    """Each once that is not there."""
    different = {blob.digest: blob for blob in blobs}
    total, done = sum(blob.size for blob in different.values()), 0
    for blob in different.values():
        moved = 0

        def add(size: int, before: int = done, most: int = blob.size) -> None:
            # An upload that is taken up again reads some bytes twice.
            nonlocal moved
            moved = min(moved + size, most)
            told(before + moved, total)

        if not to.has(blob):
            push(blob, add)
        done += blob.size
        told(done, total)


def _put(data: bytes, digest: Digest, subject: Digest | None, to: Repository) -> Digest:
    """Put a manifest unless it is there, and is found where it refers to another."""
    if to.manifest(digest) is not None and (
        subject is None or any(each.digest == digest for each in to.referrers(subject))
    ):
        return digest
    return to.put_manifest(data)


def _file(path: Path, add: Callable[[int], None]) -> Chunks:
    def chunks(offset: int) -> Iterator[bytes]:
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(offset)
                while chunk := file.read(_CHUNK):
                    yield chunk
                    add(len(chunk))
        except OSError as error:
            raise StoreCorrupt(f"'{path}' cannot be read: {error.strerror}") from error

    return chunks


def _streamed(source: Repository, blob: Descriptor, add: Callable[[int], None]) -> Chunks:
    def chunks(offset: int) -> Iterator[bytes]:
        # All of it once more, since only all of it can be verified.
        skip = offset
        for chunk in source.stream(blob):
            if skip >= len(chunk):
                skip -= len(chunk)
                continue
            yield chunk[skip:] if skip else chunk
            add(len(chunk) - skip)
            skip = 0

    return chunks
