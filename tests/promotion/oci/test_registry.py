"""The client of registries, against a real one: uploads, downloads, manifests, tags, referrers."""

from __future__ import annotations

import random
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engineforge.digest import digest_bytes
from engineforge.errors import UsageError
from engineforge.promotion.oci.documents import (
    EMPTY_CONFIG,
    MANIFEST,
    TITLE,
    Descriptor,
    ImageIndex,
    ImageManifest,
)
from engineforge.promotion.oci.registry import Registry, parsed
from engineforge.promotion.oci.repository import BlobCorrupt, Chunks, Gone, Place
from tests.promotion.oci.registries import RunningRegistry, registry

__all__ = ["registry"]

LARGE = random.Random(7).randbytes(3 << 20)


def chunks_of(data: bytes, size: int = 1 << 18) -> Chunks:
    return lambda offset: (data[at : at + size] for at in range(offset, len(data), size))


def blob_of(data: bytes) -> Descriptor:
    return Descriptor.of(data, "application/octet-stream")


def pushed(repository: Registry, data: bytes) -> Descriptor:
    blob = blob_of(data)
    repository.push(blob, chunks_of(data))
    return blob


def read(repository: Registry, blob: Descriptor) -> bytes:
    return b"".join(repository.stream(blob))


def manifest_of(*layers: Descriptor, kind: str = "application/x.a", **more: object) -> bytes:
    made = ImageManifest(
        artifact_type=kind,
        config=EMPTY_CONFIG,
        layers=layers or (EMPTY_CONFIG,),
        **more,  # type: ignore[arg-type]
    )
    return made.to_bytes()


def subject_of(data: bytes) -> Descriptor:
    return Descriptor.of(data, MANIFEST)


@pytest.fixture
def name() -> str:
    return f"test/{secrets.token_hex(6)}"


@pytest.fixture
def repository(registry: RunningRegistry, name: str) -> Registry:
    made = registry.open(name)
    made.put_empty_config()
    return made


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "place"),
        [
            ("oci://r.example/a", Place("r.example", "a")),
            ("oci://r.example:5000/a/b-c/d__e", Place("r.example:5000", "a/b-c/d__e")),
            ("oci://[::1]:5000/a", Place("[::1]:5000", "a")),
        ],
    )
    def test_a_url_names_a_registry_and_a_repository(self, url: str, place: Place) -> None:
        assert parsed(url) == place

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("oci://r.example", "it lacks the repository's name"),
            ("oci://r.example/", "it lacks the repository's name"),
            ("oci://r.example/a:latest", "it has a tag or digest in it"),
            ("oci://r.example/a@sha256:00", "it has a tag or digest in it"),
            ("oci://r.example/Engines", "names of repositories have no capital letters"),
            ("oci://r.example/a//b", "'a//b' is no name of one"),
            ("oci://r.example/a/../b", "'a/../b' is no name of one"),
            ("oci://r.example/a?b", "'a?b' is no name of one"),
            ("oci://r.example:99999/a", "'r.example:99999' is no host"),
            ("oci:///a", "'' is no host"),
            ("https://r.example/a", "it does not begin with 'oci://'"),
        ],
    )
    def test_what_names_none_is_refused(self, url: str, why: str) -> None:
        with pytest.raises(UsageError, match="is no repository of a registry") as error:
            parsed(url)
        assert why in str(error.value)

    def test_credentials_in_a_url_are_refused_and_not_repeated(self) -> None:
        with pytest.raises(UsageError, match="it has credentials in it") as error:
            parsed("oci://alice:hunter2@r.example/a")
        assert "hunter2" not in str(error.value)

    @pytest.mark.parametrize(
        ("host", "insecure", "scheme"),
        [
            ("r.example", "", "https"),
            ("localhost:5000", "", "http"),
            ("127.0.0.1", "", "http"),
            ("[::1]:5000", "", "http"),
            ("r.example:5000", "other, R.example:5000", "http"),
            ("r.example:5000", "r.example", "http"),
            ("127.0.0.1.example", "", "https"),
        ],
    )
    def test_connections_are_encrypted_but_where_that_is_said(
        self, host: str, insecure: str, scheme: str
    ) -> None:
        environment = {"ENGINEFORGE_INSECURE_REGISTRIES": insecure}
        opened = Registry.open(f"oci://{host}/a", environment=environment, said=lambda _: None)
        assert opened._client.origin == f"{scheme}://{host}"


class TestBlobs:
    @pytest.mark.parametrize("size", [0, 1, 1000, 1 << 20, (1 << 20) + 1, 3 << 20])
    def test_a_blob_comes_back_as_it_was_put(self, repository: Registry, size: int) -> None:
        blob = pushed(repository, LARGE[:size])
        assert repository.has(blob)
        assert read(repository, blob) == LARGE[:size]

    @pytest.mark.parametrize("size", [1000, 3 << 20])
    @pytest.mark.parametrize(
        "wrong",
        [lambda d: d[:-1], lambda d: d + b"x", lambda d: bytes([d[0] ^ 1]) + d[1:]],
        ids=["fewer", "more", "others"],
    )
    def test_other_bytes_than_the_digests_are_not_put(
        self, repository: Registry, size: int, wrong: Callable[[bytes], bytes]
    ) -> None:
        data = random.Random(f"{size}{wrong(b'ab')!r}").randbytes(size)
        with pytest.raises(BlobCorrupt, match="what is to be put as the blob"):
            repository.push(blob_of(data), chunks_of(wrong(data)))
        assert not repository.has(blob_of(data))
        assert not repository.has(blob_of(wrong(data)))

    def test_what_fails_to_be_read_is_told_as_itself(self, repository: Registry) -> None:
        def chunks(offset: int) -> Iterator[bytes]:
            yield LARGE[: 1 << 20]
            raise FileNotFoundError("model.engine")

        with pytest.raises(FileNotFoundError, match=r"model\.engine"):
            repository.push(blob_of(LARGE), chunks)

    def test_a_blob_that_is_not_there_is_gone(self, repository: Registry) -> None:
        with pytest.raises(Gone, match="has no blob"):
            read(repository, blob_of(b"nothing"))

    def test_a_blob_is_mounted_from_another_repository(
        self, registry: RunningRegistry, repository: Registry, name: str
    ) -> None:
        blob = pushed(repository, LARGE)
        other = registry.open(f"{name}/other")
        assert other.mount(blob, repository)
        assert read(other, blob) == LARGE

    def test_what_the_source_does_not_have_is_not_mounted(
        self, registry: RunningRegistry, repository: Registry, name: str
    ) -> None:
        assert not registry.open(f"{name}/other").mount(blob_of(b"nothing"), repository)

    def test_nothing_is_mounted_from_another_registry(self, repository: Registry) -> None:
        there = Registry.open("oci://r.example/a", environment={}, said=lambda _: None)
        assert not repository.mount(blob_of(b"a"), there)

    @pytest.mark.parametrize("at", [0, 1 << 20, -1])
    def test_a_flipped_byte_in_the_registry_is_found(
        self, registry: RunningRegistry, repository: Registry, at: int
    ) -> None:
        data = random.Random(at).randbytes(2 << 20)
        blob = pushed(repository, data)
        flip(registry.blob_file(blob.digest), at)
        with pytest.raises(BlobCorrupt, match="bytes whose digest is"):
            read(repository, blob)

    @pytest.mark.parametrize(
        ("change", "why"),
        [(lambda d: d[:-1], "1999 bytes, not 2000"), (lambda d: d + b"x", "more than the 2000")],
    )
    def test_a_blob_of_another_length_is_found(
        self,
        registry: RunningRegistry,
        repository: Registry,
        change: Callable[[bytes], bytes],
        why: str,
    ) -> None:
        data = secrets.token_bytes(2000)
        blob = pushed(repository, data)
        registry.blob_file(blob.digest).write_bytes(change(data))
        with pytest.raises(BlobCorrupt, match=why):
            read(repository, blob)
        assert not repository.has(blob)


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


class TestManifests:
    def test_a_manifest_comes_back_as_it_was_put(self, repository: Registry) -> None:
        data = manifest_of()
        digest = repository.put_manifest(data)
        assert digest == digest_bytes(data)
        assert repository.manifest(digest) == data

    def test_an_index_comes_back_as_it_was_put(self, repository: Registry) -> None:
        member = manifest_of()
        repository.put_manifest(member)
        data = ImageIndex(manifests=(subject_of(member),), artifact_type="a/b").to_bytes()
        assert repository.manifest(repository.put_manifest(data)) == data

    def test_a_manifest_of_what_is_not_there_is_refused(self, repository: Registry) -> None:
        with pytest.raises(Gone, match="has not all that the manifest"):
            repository.put_manifest(manifest_of(blob_of(b"nothing")))

    def test_a_flipped_byte_in_a_manifest_is_found(
        self, registry: RunningRegistry, repository: Registry
    ) -> None:
        digest = repository.put_manifest(manifest_of(kind="application/x.flipped"))
        file = registry.blob_file(digest)
        file.write_bytes(file.read_bytes().replace(b"x.flipped", b"x.flipqed"))
        with pytest.raises(BlobCorrupt, match="has another manifest than"):
            repository.manifest(digest)

    def test_skopeo_reads_what_was_written(
        self, registry: RunningRegistry, repository: Registry, name: str, tmp_path: Path
    ) -> None:
        if (skopeo := shutil.which("skopeo")) is None:
            pytest.skip("apt-get install skopeo")
        data = secrets.token_bytes(100)
        layer = Descriptor.of(data, "application/x.file", annotations={TITLE: "model.engine"})
        repository.push(layer, chunks_of(data))
        repository.tag("net", repository.put_manifest(manifest_of(layer)))
        source = f"docker://{registry.host}/{name}:net"
        command = [skopeo, "inspect", "--raw", "--tls-verify=false", source]
        raw = subprocess.run(command, check=True, capture_output=True).stdout
        assert digest_bytes(raw) == repository.resolve("net")
        command = [skopeo, "copy", "--src-tls-verify=false", source, f"dir:{tmp_path}/copy"]
        subprocess.run(command, check=True, capture_output=True)
        assert (tmp_path / "copy" / layer.digest.hex).read_bytes() == data


class TestTags:
    def test_a_tag_stands_for_what_it_was_put_on_last(self, repository: Registry) -> None:
        first, second = (repository.put_manifest(manifest_of(kind=kind)) for kind in ("a/b", "a/c"))
        repository.tag("net", first)
        repository.tag("net", second)
        assert repository.resolve("net") == second

    def test_a_tag_is_not_put_on_what_is_not_there(self, repository: Registry) -> None:
        with pytest.raises(Gone, match="has no manifest"):
            repository.tag("net", digest_bytes(b"nothing"))

    def test_no_tag_is_removed_where_that_would_take_others_with_it(
        self, repository: Registry
    ) -> None:
        digest = repository.put_manifest(manifest_of())
        repository.tag("one", digest)
        repository.tag("two", digest)
        assert not repository.untag("one")  # which docker-registry 2.8 cannot
        assert repository.resolve("one") == repository.resolve("two") == digest

    def test_all_tags_are_listed_over_several_pages(
        self, repository: Registry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("engineforge.promotion.oci.registry._PAGE", 2)
        digest = repository.put_manifest(manifest_of())
        for each in ("e", "b", "d", "a", "c"):
            repository.tag(each, digest)
        assert repository.tags() == ["a", "b", "c", "d", "e"]

    @pytest.mark.parametrize("tag", ["", ".a", "a/b", "a b", "a" * 129, "ä"])
    def test_what_is_no_tag_is_refused(self, repository: Registry, tag: str) -> None:
        with pytest.raises(UsageError, match="is no tag"):
            repository.resolve(tag)


class TestReferrers:
    def test_what_has_a_subject_is_found_by_it(self, repository: Registry) -> None:
        subject = manifest_of()
        repository.put_manifest(subject)
        kinds = {"application/x.one", "application/x.two"}
        for kind in sorted(kinds):
            repository.put_manifest(
                manifest_of(kind=kind, subject=subject_of(subject), annotations={"a": kind})
            )
        found = repository.referrers(digest_bytes(subject))
        assert {each.artifact_type for each in found} == kinds
        assert {each.annotations["a"] for each in found} == kinds

    def test_what_was_put_twice_is_found_once(self, repository: Registry) -> None:
        subject = manifest_of()
        repository.put_manifest(subject)
        for _ in range(2):
            repository.put_manifest(manifest_of(kind="a/b", subject=subject_of(subject)))
        assert len(repository.referrers(digest_bytes(subject))) == 1

    def test_those_that_several_put_at_once_are_all_found(self, repository: Registry) -> None:
        subject = manifest_of()
        repository.put_manifest(subject)
        referring = [
            manifest_of(kind=f"application/x.{n}", subject=subject_of(subject)) for n in range(4)
        ]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(repository.put_manifest, referring))
        found = repository.referrers(digest_bytes(subject))
        assert {each.digest for each in found} == {digest_bytes(each) for each in referring}

    def test_a_list_of_them_that_is_no_index_is_corrupt(self, repository: Registry) -> None:
        subject = repository.put_manifest(manifest_of())
        repository.tag(f"sha256-{subject.hex}", subject)
        with pytest.raises(BlobCorrupt, match="lists referrers by what is no image index"):
            repository.referrers(subject)
