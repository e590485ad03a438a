"""Artifacts into a repository, and from one to another: of every kind to every kind."""

from __future__ import annotations

import itertools
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engineforge.digest import Digest
from engineforge.errors import StoreCorrupt
from engineforge.promotion.artifact import Artifact
from engineforge.promotion.oci.copying import copy_artifact, push_artifact
from engineforge.promotion.oci.documents import Descriptor
from engineforge.promotion.oci.layout import Layout
from engineforge.promotion.oci.opening import open_repository
from engineforge.promotion.oci.repository import BlobCorrupt, Chunks, Gone, Repository
from engineforge.store.far.folder import Folder
from tests.promotion.engines import FILES, artifact_in, attest, broken_parts, put_artifact
from tests.promotion.oci.kinds import KINDS, Kind, running


@dataclass
class Kinds:
    """Servers are started when the first test asks for one."""

    folder: Path
    stack: ExitStack
    found: dict[str, Kind] = field(default_factory=dict)

    def __call__(self, kind: str) -> Kind:
        if kind not in self.found:
            self.found[kind] = self.stack.enter_context(running(kind, self.folder / kind))
        return self.found[kind]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kinds]:
    folder = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        (folder / kind).mkdir()
    with ExitStack() as stack:
        yield Kinds(folder, stack)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    # Blobs of its own: a registry has those that any repository of it ever had.
    return artifact_in(tmp_path / "cache", {**FILES, "model.engine": secrets.token_bytes(3 << 20)})


class Watched(Layout):
    """A folder, with what was asked of it; it fails before a number of changes."""

    def __init__(self, folder: Path, fails_at: int | None = None) -> None:
        super().__init__(Folder(folder))
        self.pushed: list[Digest] = []
        self.left = fails_at

    def _step(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise ConnectionError("cut")

    def push(self, blob: Descriptor, chunks: Chunks) -> None:
        self._step()
        super().push(blob, chunks)
        self.pushed.append(blob.digest)

    def put_manifest(self, data: bytes) -> Digest:
        self._step()
        return super().put_manifest(data)


class Forgetful(Layout):
    """Loses what refers to a manifest."""

    def referrers(self, subject: Digest) -> list[Descriptor]:
        return super().referrers(subject)[1:]


@pytest.mark.parametrize("kind", KINDS)
def test_an_artifact_is_there_whole_after_it_was_pushed(
    kind: str, kinds: Kinds, artifact: Artifact
) -> None:
    repository = kinds(kind).new()
    assert push_artifact(artifact, repository) == artifact.descriptor.digest
    assert repository.manifest(artifact.descriptor.digest) == artifact.manifest
    assert broken_parts(repository, artifact.descriptor) == []
    assert repository.tags() == []


@pytest.mark.parametrize(("one", "other"), list(itertools.product(KINDS, KINDS)))
def test_a_copy_is_whole_with_all_that_refers_to_it(
    one: str, other: str, kinds: Kinds, artifact: Artifact
) -> None:
    source, to = kinds(one).new(), kinds(other).new()
    push_artifact(artifact, source)
    attested = [attest(source, artifact.descriptor, bundle) for bundle in (b"1", b"2")]
    of_one = attest(source, attested[0], b"of an attestation")
    copy_artifact(artifact.descriptor.digest, source, to)
    for each in (artifact.descriptor, *attested, of_one):
        assert to.manifest(each.digest) == source.manifest(each.digest)
        assert broken_parts(to, each) == []
    found = to.referrers(artifact.descriptor.digest)
    assert {each.digest for each in found} == {each.digest for each in attested}
    assert [each.digest for each in to.referrers(attested[0].digest)] == [of_one.digest]


def test_inside_one_registry_blobs_are_mounted(kinds: Kinds, artifact: Artifact) -> None:
    source, to = kinds("registry").new(), kinds("registry").new()
    push_artifact(artifact, source)

    def told(blob: Descriptor, chunks: Chunks) -> None:
        raise AssertionError(f"{blob} was sent")

    to.push = told  # type: ignore[method-assign]
    copy_artifact(artifact.descriptor.digest, source, to)
    assert broken_parts(to, artifact.descriptor) == []


def test_what_is_there_is_not_sent_again(tmp_path: Path, artifact: Artifact) -> None:
    to = Watched(tmp_path / "to")
    push_artifact(artifact, to)
    assert sorted(to.pushed) == sorted(blob.digest for blob, _ in artifact.blobs)
    to.pushed.clear()
    push_artifact(artifact, to)
    assert to.pushed == []


def test_a_push_interrupted_anywhere_goes_on_where_it_was(
    tmp_path: Path, artifact: Artifact
) -> None:
    to = tmp_path / "to"
    for fails_at in itertools.count():
        cut = Watched(to / str(fails_at), fails_at)
        to.mkdir(exist_ok=True)
        try:
            push_artifact(artifact, cut)
        except ConnectionError:
            assert cut.manifest(artifact.descriptor.digest) is None
            again = Watched(to / str(fails_at))
            push_artifact(artifact, again)
            assert len(cut.pushed) == fails_at
            assert len(again.pushed) == len(artifact.blobs) - fails_at
            assert broken_parts(again, artifact.descriptor) == []
        else:
            assert fails_at == len(artifact.blobs) + 1
            return


def test_a_copy_interrupted_anywhere_goes_on_and_loses_no_attestation(
    tmp_path: Path, artifact: Artifact
) -> None:
    source = Layout(Folder(tmp_path / "source"))
    push_artifact(artifact, source)
    attested = [attest(source, artifact.descriptor, bundle) for bundle in (b"1", b"2")]
    cuts = 0
    for fails_at in itertools.count():
        folder = tmp_path / f"to-{fails_at}"
        try:
            copy_artifact(artifact.descriptor.digest, source, Watched(folder, fails_at))
        except ConnectionError:
            cuts += 1
            to = Layout(Folder(folder))
            copy_artifact(artifact.descriptor.digest, source, to)
            found = {each.digest for each in to.referrers(artifact.descriptor.digest)}
            assert found == {each.digest for each in attested}
            assert broken_parts(to, artifact.descriptor) == []
        else:
            break
    assert cuts > 8


def test_a_file_that_is_not_what_its_manifest_says_is_not_given_away(
    tmp_path: Path, artifact: Artifact
) -> None:
    _, path = artifact.blobs[1]
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    to = Layout(Folder(tmp_path / "to"))
    with pytest.raises(StoreCorrupt, match="is not what its manifest says, and is not given away"):
        push_artifact(artifact, to)
    assert to.manifest(artifact.descriptor.digest) is None
    assert not to.has(artifact.blobs[1][0])


def test_a_file_that_is_gone_is_said(tmp_path: Path, artifact: Artifact) -> None:
    artifact.blobs[1][1].unlink()
    with pytest.raises(StoreCorrupt, match=r"model.engine' cannot be read: No such file"):
        push_artifact(artifact, Layout(Folder(tmp_path / "to")))


@pytest.mark.parametrize("at", [0, 1 << 20, -1])
def test_a_blob_spoilt_in_the_source_is_not_copied(
    tmp_path: Path, artifact: Artifact, at: int
) -> None:
    source, to = Layout(Folder(tmp_path / "source")), Layout(Folder(tmp_path / "to"))
    push_artifact(artifact, source)
    engine = artifact.blobs[1][0]
    file = tmp_path / "source" / "blobs" / "sha256" / engine.digest.hex
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    with pytest.raises(BlobCorrupt, match="is not what its name says"):
        copy_artifact(artifact.descriptor.digest, source, to)
    assert not to.has(engine)
    assert to.manifest(artifact.descriptor.digest) is None


def test_an_artifact_that_is_not_there_is_gone(tmp_path: Path, artifact: Artifact) -> None:
    source, to = Layout(Folder(tmp_path / "source")), Layout(Folder(tmp_path / "to"))
    with pytest.raises(Gone, match="is not in"):
        copy_artifact(artifact.descriptor.digest, source, to)


def test_an_attestation_that_is_listed_and_not_there_is_gone(
    tmp_path: Path, artifact: Artifact
) -> None:
    source, to = Layout(Folder(tmp_path / "source")), Layout(Folder(tmp_path / "to"))
    push_artifact(artifact, source)
    lost = attest(source, artifact.descriptor, b"a bundle")
    (tmp_path / "source" / "blobs" / "sha256" / lost.digest.hex).unlink()
    with pytest.raises(Gone, match=lost.digest.short):
        copy_artifact(artifact.descriptor.digest, source, to)


def test_a_destination_that_loses_attestations_is_told(tmp_path: Path, artifact: Artifact) -> None:
    source, to = Layout(Folder(tmp_path / "source")), Forgetful(Folder(tmp_path / "to"))
    push_artifact(artifact, source)
    for bundle in (b"1", b"2"):
        attest(source, artifact.descriptor, bundle)
    with pytest.raises(Gone, match="1 of 2 attestations"):
        copy_artifact(artifact.descriptor.digest, source, to)


def test_what_is_listed_and_refers_to_something_else_is_refused(
    tmp_path: Path, artifact: Artifact
) -> None:
    class Lying(Layout):
        def referrers(self, subject: Digest) -> list[Descriptor]:
            return [other]

    source, to = Lying(Folder(tmp_path / "source")), Layout(Folder(tmp_path / "to"))
    push_artifact(artifact, source)
    other = put_artifact(source, b"of nothing")
    with pytest.raises(BlobCorrupt, match="and it does not"):
        copy_artifact(artifact.descriptor.digest, source, to)


def test_how_far_it_is_is_told_up_to_all(tmp_path: Path, artifact: Artifact) -> None:
    told: list[tuple[int, int]] = []
    total = sum(blob.size for blob, _ in artifact.blobs)
    for _ in range(2):
        push_artifact(artifact, Layout(Folder(tmp_path / "to")), lambda *now: told.append(now))
        assert told == sorted(told)
        assert told[-1] == (total, total)
        told.clear()


_COPYING = """
import sys
from pathlib import Path
from engineforge.digest import Digest
from engineforge.promotion.oci.copying import copy_artifact
from engineforge.promotion.oci.opening import open_repository
*stores, digest = sys.argv[1:]
one, other = (open_repository(each, root=Path("/"), environment={}) for each in stores)
copy_artifact(Digest(digest), one, other)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]))
"""


@pytest.mark.slow
def test_a_large_engine_is_copied_in_little_memory(tmp_path: Path) -> None:
    size = 300 << 20
    artifact = artifact_in(tmp_path / "cache", {"model.engine": secrets.token_bytes(1 << 20) * 300})
    assert artifact.blobs[1][0].size == size
    source = open_repository("one", root=tmp_path, environment={})
    push_artifact(artifact, source)
    digest = artifact.descriptor.digest
    words = [sys.executable, "-c", _COPYING, str(tmp_path / "one"), str(tmp_path / "two"), digest]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 << 10
    to: Repository = open_repository("two", root=tmp_path, environment={})
    assert broken_parts(to, artifact.descriptor) == []
