"""What holds for every repository: an image layout in a folder or bucket, and a real registry."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from engineforge.digest import digest_bytes
from engineforge.promotion.oci.documents import (
    EMPTY_BYTES,
    EMPTY_CONFIG,
    Descriptor,
    ImageIndex,
)
from engineforge.promotion.oci.repository import BlobCorrupt, Gone, Repository
from tests.promotion.engines import attest, broken_parts, chunks_of, put_artifact, put_blob
from tests.promotion.oci.kinds import COMPARING, KINDS, Kind, running

NOTHING = digest_bytes(b"nothing")


@pytest.fixture(scope="module", params=KINDS)
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kind]:
    with running(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


@pytest.fixture
def store(kind: Kind) -> str:
    return kind.store()


@pytest.fixture
def repository(kind: Kind, store: str) -> Repository:
    return kind.open(store)


def read(repository: Repository, blob: Descriptor) -> bytes:
    return b"".join(repository.stream(blob))


class TestRepository:
    def test_where_nothing_is_yet_it_is_empty(self, repository: Repository) -> None:
        assert repository.tags() == []
        assert repository.resolve("net") is None
        assert repository.manifest(NOTHING) is None
        assert repository.referrers(NOTHING) == []
        assert not repository.has(Descriptor.of(b"nothing", "text/plain"))

    @pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 20 << 20])
    def test_a_blob_comes_back_as_it_was_put(self, repository: Repository, size: int) -> None:
        data = random.Random(size).randbytes(size)
        blob = put_blob(repository, data)
        assert repository.has(blob)
        assert read(repository, blob) == data

    def test_what_one_machine_puts_another_finds(
        self, kind: Kind, store: str, repository: Repository
    ) -> None:
        artifact = put_artifact(repository, b"one", b"two")
        repository.tag("net", artifact.digest)
        other = kind.open(store)
        assert other.resolve("net") == artifact.digest
        assert broken_parts(other, artifact) == []

    def test_a_blob_of_another_size_is_not_had(self, repository: Repository) -> None:
        blob = put_blob(repository, b"data")
        other = Descriptor(media_type="text/plain", digest=blob.digest, size=blob.size + 1)
        assert not repository.has(other)

    @pytest.mark.parametrize("data", [b"", b"dat", b"datb", b"data and more"])
    def test_a_blob_pushed_with_other_bytes_is_refused_and_not_there(
        self, repository: Repository, data: bytes
    ) -> None:
        blob = Descriptor.of(b"data", "text/plain")
        with pytest.raises(BlobCorrupt):
            repository.push(blob, chunks_of(data, 2))
        assert not repository.has(blob)
        repository.push(blob, chunks_of(b"data"))
        assert read(repository, blob) == b"data"

    def test_a_blob_that_is_not_there_is_gone(self, repository: Repository) -> None:
        put_artifact(repository)
        with pytest.raises(Gone):
            read(repository, Descriptor.of(b"nothing", "text/plain"))

    def test_a_blob_can_be_put_twice(self, repository: Repository) -> None:
        blob = Descriptor.of(b"data", "text/plain")
        for _ in range(2):
            repository.push(blob, chunks_of(b"data"))
        assert read(repository, blob) == b"data"

    def test_a_manifest_comes_back_with_its_bytes(self, repository: Repository) -> None:
        artifact = put_artifact(repository, b"one")
        data = repository.manifest(artifact.digest)
        assert data is not None
        assert digest_bytes(data) == artifact.digest

    def test_a_manifest_can_be_put_twice(self, repository: Repository) -> None:
        data = repository.manifest(put_artifact(repository, b"one").digest)
        assert data is not None
        assert repository.put_manifest(data) == digest_bytes(data)

    def test_an_index_of_manifests_is_kept(self, repository: Repository) -> None:
        engines = (put_artifact(repository, b"one"), put_artifact(repository, b"two"))
        index = ImageIndex(manifests=engines, artifact_type="application/x.spec")
        digest = repository.put_manifest(index.to_bytes())
        repository.tag("net", digest)
        assert repository.resolve("net") == digest
        data = repository.manifest(digest)
        assert data is not None
        assert ImageIndex.from_bytes(data) == index

    def test_a_tag_is_moved_from_what_is_expected(self, repository: Repository) -> None:
        one, two = put_artifact(repository, b"one"), put_artifact(repository, b"two")
        assert repository.move("net", one.digest, None)
        assert repository.resolve("net") == one.digest
        assert repository.move("net", two.digest, one.digest)
        assert repository.resolve("net") == two.digest

    def test_a_tag_is_not_moved_from_anything_else(self, repository: Repository) -> None:
        one, two = put_artifact(repository, b"one"), put_artifact(repository, b"two")
        assert not repository.move("net", two.digest, one.digest)
        assert repository.resolve("net") is None
        repository.tag("net", one.digest)
        assert not repository.move("net", two.digest, None)
        assert not repository.move("net", two.digest, two.digest)
        assert repository.resolve("net") == one.digest

    def test_a_tag_is_set_whatever_it_stood_for(self, repository: Repository) -> None:
        for content in (b"one", b"two"):
            artifact = put_artifact(repository, content)
            repository.tag("net", artifact.digest)
            assert repository.resolve("net") == artifact.digest

    def test_tags_are_told_sorted(self, repository: Repository) -> None:
        artifact = put_artifact(repository, b"one")
        for name in ("net--2", "alpha", "net", "net--1"):
            repository.tag(name, artifact.digest)
        assert repository.tags() == ["alpha", "net", "net--1", "net--2"]

    def test_a_tag_removed_is_gone_or_it_is_said_that_it_is_not_and_no_other_is(
        self, repository: Repository
    ) -> None:
        artifact = put_artifact(repository, b"one")
        repository.tag("net", artifact.digest)
        repository.tag("net--1", artifact.digest)
        removed = repository.untag("net--1")  # some registries let nobody, and say so
        assert repository.tags() == (["net"] if removed else ["net", "net--1"])
        assert repository.resolve("net") == artifact.digest
        assert broken_parts(repository, artifact) == []

    def test_what_refers_to_a_manifest_is_found(self, kind: Kind, store: str) -> None:
        repository = kind.open(store)
        engine, other = put_artifact(repository, b"one"), put_artifact(repository, b"two")
        first, second = (attest(repository, engine, bundle) for bundle in (b"1", b"2"))
        attest(repository, other, b"of the other")
        found = kind.open(store).referrers(engine.digest)
        assert {each.digest for each in found} == {first.digest, second.digest}
        assert {each.artifact_type for each in found} == {first.artifact_type}
        assert repository.referrers(NOTHING) == []

    def test_what_refers_is_found_once_though_put_twice(self, repository: Repository) -> None:
        engine = put_artifact(repository, b"one")
        for _ in range(2):
            attest(repository, engine, b"a bundle")
        assert len(repository.referrers(engine.digest)) == 1

    # Moves in a registry have tests of their own: test_registry.py and test_claims.py.
    @pytest.mark.parametrize("kind", COMPARING, indirect=True)
    def test_of_many_threads_that_move_a_tag_one_wins(self, kind: Kind, store: str) -> None:
        repository = kind.open(store)
        artifacts = [put_artifact(repository, b"%d" % number) for number in range(6)]
        with ThreadPoolExecutor(6) as pool:
            won = list(
                pool.map(lambda each: kind.open(store).move("net", each.digest, None), artifacts)
            )
        assert won.count(True) == 1
        assert repository.resolve("net") == artifacts[won.index(True)].digest

    def test_of_many_threads_that_set_tags_none_loses_one(self, kind: Kind, store: str) -> None:
        artifact = put_artifact(kind.open(store), b"one")
        names = sorted(f"net--{number}-{secrets.token_hex(2)}" for number in range(12))
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda name: kind.open(store).tag(name, artifact.digest), names))
        assert kind.open(store).tags() == names

    # A registry without the API has a list that is read and put again.
    @pytest.mark.parametrize("kind", COMPARING, indirect=True)
    def test_of_many_threads_that_attest_none_is_lost(self, kind: Kind, store: str) -> None:
        repository = kind.open(store)
        engine = put_artifact(repository, b"one")
        with ThreadPoolExecutor(4) as pool:
            bundles = [b"%d" % number for number in range(8)]
            put = list(pool.map(lambda each: attest(kind.open(store), engine, each), bundles))
        found = repository.referrers(engine.digest)
        assert {each.digest for each in found} == {each.digest for each in put}

    def test_an_artifact_without_a_config_of_its_own_is_kept(self, repository: Repository) -> None:
        put_blob(repository, EMPTY_BYTES)
        assert repository.has(EMPTY_CONFIG)
