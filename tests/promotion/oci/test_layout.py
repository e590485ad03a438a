"""What only image layouts promise: how they lie in a folder, what other tools read of them, and
what happens where something there is broken."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from engineforge.digest import Digest
from engineforge.errors import EngineForgeError, UsageError
from engineforge.promotion.oci.copying import push_artifact
from engineforge.promotion.oci.documents import Descriptor, ImageIndex
from engineforge.promotion.oci.layout import BadLayout, Layout
from engineforge.promotion.oci.opening import open_repository
from engineforge.promotion.oci.repository import BlobCorrupt, Gone, Repository
from engineforge.store import disk
from engineforge.store.far.folder import Folder
from engineforge.store.far.objects import RemoteUnavailable, Version
from tests.promotion.engines import (
    artifact_in,
    attest,
    broken_parts,
    put_artifact,
    put_blob,
)
from tests.store.remote_servers import serving

TAGS = ("net", "net--1", "other")


def opened(folder: Path) -> Repository:
    return open_repository(str(folder), root=folder.parent, environment={})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "production"


@pytest.fixture
def layout(folder: Path) -> Repository:
    return opened(folder)


def blob_file(folder: Path, digest: Digest) -> Path:
    return folder / "blobs" / "sha256" / digest.hex


def spoil(path: Path, change: Callable[[bytes], bytes]) -> None:
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(change(data))


def tagged(layout: Repository) -> dict[str, Digest]:
    """Tags of artifacts of their own."""
    made = {tag: put_artifact(layout, tag.encode()).digest for tag in TAGS}
    for tag, digest in made.items():
        layout.tag(tag, digest)
    return made


def index_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "index.json").read_bytes())
    return found


def test_a_layout_lies_as_the_image_specification_says(folder: Path, layout: Repository) -> None:
    artifact = put_artifact(layout, b"one")
    layout.tag("net", artifact.digest)
    assert json.loads((folder / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert index_of(folder) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "artifactType": "application/x.test",
                "digest": artifact.digest,
                "size": artifact.size,
                "annotations": {"org.opencontainers.image.ref.name": "net"},
            }
        ],
    }
    assert blob_file(folder, artifact.digest).stat().st_size == artifact.size


def test_reading_where_nothing_is_makes_nothing(folder: Path, layout: Repository) -> None:
    assert layout.tags() == []
    assert not folder.exists()


def test_what_refers_to_a_manifest_is_listed_under_its_fallback_tag(
    folder: Path, layout: Repository
) -> None:
    engine = put_artifact(layout, b"one")
    attested = attest(layout, engine, b"a bundle")
    listed = layout.resolve(f"sha256-{engine.digest.hex}")
    assert listed is not None
    index = ImageIndex.from_bytes(blob_file(folder, listed).read_bytes())
    assert [each.digest for each in index.manifests] == [attested.digest]


def _skopeo(*words: str, folder: Path) -> str:
    if shutil.which("skopeo") is None:
        pytest.skip("apt-get install skopeo")
    command = ["skopeo", "--insecure-policy", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_skopeo_reads_and_copies_what_is_in_a_layout(
    folder: Path, layout: Repository, tmp_path: Path
) -> None:
    artifact = artifact_in(tmp_path / "cache")
    engine = push_artifact(artifact, layout)
    attest(layout, artifact.descriptor, b"a bundle")
    layout.tag("engine", engine)
    state = layout.put_manifest(ImageIndex(manifests=(artifact.descriptor,)).to_bytes())
    layout.tag("net", state)
    raw = _skopeo("inspect", "--raw", f"oci:{folder}:engine", folder=tmp_path)
    assert raw.encode() == artifact.manifest
    config = _skopeo("inspect", "--config", "--raw", f"oci:{folder}:engine", folder=tmp_path)
    assert config.encode() == artifact.blobs[0][1].read_bytes()
    _skopeo("copy", f"oci:{folder}:engine", f"dir:{tmp_path}/out", folder=tmp_path)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == artifact.manifest
    for blob, path in artifact.blobs:
        assert (tmp_path / "out" / blob.digest.hex).read_bytes() == path.read_bytes()
    _skopeo("copy", "--all", f"oci:{folder}:net", "oci:copied:net", folder=tmp_path)
    # Which writes an index anew, without artifact types; what it lists stays as it is.
    assert broken_parts(opened(tmp_path / "copied"), artifact.descriptor) == []


def test_what_skopeo_copies_into_a_layout_stands_beside_what_was_there(
    folder: Path, layout: Repository, tmp_path: Path
) -> None:
    made = tagged(layout)
    other = opened(tmp_path / "other")
    theirs = put_artifact(other, b"theirs")
    other.tag("net", theirs.digest)
    _skopeo("copy", f"oci:{tmp_path}/other:net", f"oci:{folder}:theirs", folder=tmp_path)
    assert layout.resolve("theirs") == theirs.digest
    assert broken_parts(layout, theirs) == []
    layout.tag("mine", made["net"])
    assert layout.tags() == sorted([*TAGS, "theirs", "mine"])


def test_what_others_wrote_into_the_index_stays(folder: Path, layout: Repository) -> None:
    made = tagged(layout)
    raw = index_of(folder)
    raw["annotations"] = {"of": "others"}
    raw["x-more"] = [1, {"two": 2}]
    raw["manifests"][0]["platform"] = {"os": "linux", "architecture": "arm64"}
    foreign = {**raw["manifests"][1], "annotations": {"note": "untagged"}, "urls": ["https://x/"]}
    raw["manifests"].append(foreign)
    (folder / "index.json").write_text(json.dumps(raw))
    layout.tag("new", made["net"])
    assert layout.untag("other")
    after = index_of(folder)
    assert after["annotations"] == raw["annotations"]
    assert after["x-more"] == raw["x-more"]
    assert after["manifests"][0] == raw["manifests"][0]
    assert foreign in after["manifests"]
    assert layout.tags() == ["net", "net--1", "new"]


def test_a_folder_of_other_things_is_refused_and_left_as_it_is(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for act in (lambda: opened(folder).tags(), lambda: put_blob(opened(folder), b"data")):
        with pytest.raises(BadLayout, match=r"has 'notes.txt', and no 'oci-layout'"):
            act()
    assert [each.name for each in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["lost+found", ".snapshot", "staging"])
def test_what_a_file_system_has_of_its_own_is_in_nobodys_way(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)
    put_blob(opened(folder), b"data")
    assert opened(folder).tags() == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"imageLayoutVersion": "2.0.0"}', "layout '2.0.0', and this version reads '1.0.0'"),
        (b'{"imageLayoutVersion": 1}', "layout 1, and"),
        (b"{}", "'oci-layout' in .* is broken"),
        (b"[]", "'oci-layout' in .* is broken"),
        (b"", "'oci-layout' in .* is broken"),
        (b"\xff", "'oci-layout' in .* is broken"),
    ],
)
def test_a_foreign_or_broken_layout_is_refused_and_left_as_it_is(
    folder: Path, layout: Repository, data: bytes, why: str
) -> None:
    made = tagged(layout)
    (folder / "oci-layout").write_bytes(data)
    before = (folder / "index.json").read_bytes()
    for act in (lambda: opened(folder).tags(), lambda: opened(folder).tag("x", made["net"])):
        with pytest.raises(BadLayout, match=why):
            act()
    assert (folder / "oci-layout").read_bytes() == data
    assert (folder / "index.json").read_bytes() == before


def test_an_index_cut_anywhere_is_refused_and_left_as_it_is(
    folder: Path, layout: Repository
) -> None:
    made, index = tagged(layout), folder / "index.json"
    whole = index.read_bytes()
    for length in range(len(whole)):
        index.write_bytes(whole[:length])
        with pytest.raises(BadLayout, match=r"'index.json' in .* is broken"):
            layout.resolve("net")
        with pytest.raises(BadLayout, match=r"'index.json' in .* is broken"):
            layout.tag("new", made["net"])
        assert index.read_bytes() == whole[:length]
    index.write_bytes(whole)
    assert {tag: layout.resolve(tag) for tag in TAGS} == made


def test_an_index_with_a_tag_twice_is_refused(folder: Path, layout: Repository) -> None:
    tagged(layout)
    raw = index_of(folder)
    raw["manifests"].append({**raw["manifests"][0], "digest": raw["manifests"][1]["digest"]})
    (folder / "index.json").write_text(json.dumps(raw))
    with pytest.raises(BadLayout, match="the tag 'net' twice"):
        layout.resolve("net")


def test_any_flipped_byte_of_a_manifest_or_blob_is_refused(
    folder: Path, layout: Repository
) -> None:
    artifact = put_artifact(layout, b"a layer of some bytes")
    for path in sorted((folder / "blobs" / "sha256").iterdir()):
        whole = path.read_bytes()
        for at in range(len(whole)):
            path.chmod(0o644)
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            (found,) = broken_parts(layout, artifact)
            assert found.startswith("BlobCorrupt"), found
            path.write_bytes(whole)
    assert broken_parts(layout, artifact) == []


@pytest.mark.parametrize("size", [0, 1, 3 << 20])
def test_a_blob_of_another_size_is_refused(folder: Path, layout: Repository, size: int) -> None:
    blob = put_blob(layout, b"data")
    spoil(blob_file(folder, blob.digest), lambda _: bytes(size))
    with pytest.raises(BlobCorrupt, match=f"it has {size} bytes, expected 4"):
        list(layout.stream(blob))
    assert not layout.has(blob)
    put_blob(layout, b"data")
    assert b"".join(layout.stream(blob)) == b"data"


def test_a_flipped_byte_of_a_large_blob_is_found_at_its_last_chunk(
    folder: Path, layout: Repository
) -> None:
    blob = put_blob(layout, bytes(3 << 20))
    spoil(blob_file(folder, blob.digest), lambda data: b"\1" + data[1:])
    chunks = layout.stream(blob)
    with pytest.raises(BlobCorrupt):
        list(chunks)


def test_a_manifest_that_was_spoilt_is_mended_by_putting_it_again(
    folder: Path, layout: Repository
) -> None:
    artifact = put_artifact(layout, b"one")
    data = layout.manifest(artifact.digest)
    assert data is not None
    spoil(blob_file(folder, artifact.digest), lambda data: data[:-1] + b"!")
    with pytest.raises(BlobCorrupt):
        layout.manifest(artifact.digest)
    layout.put_manifest(data)
    assert layout.manifest(artifact.digest) == data


def test_a_manifest_too_large_to_be_one_is_not_read(folder: Path, layout: Repository) -> None:
    blob = put_blob(layout, bytes(5 << 20))
    with pytest.raises(BlobCorrupt, match="no manifest has so many"):
        layout.manifest(blob.digest)


def test_a_manifest_of_what_is_not_there_is_refused(folder: Path, layout: Repository) -> None:
    lost = Descriptor.of(b"lost", "text/plain")
    index = ImageIndex(manifests=(lost,))
    with pytest.raises(Gone, match="and a manifest that names it was to be put"):
        layout.put_manifest(index.to_bytes())
    assert not blob_file(folder, Descriptor.of(index.to_bytes(), "").digest).exists()


def test_a_tag_is_never_moved_to_what_is_not_there(layout: Repository) -> None:
    lost = Descriptor.of(b"lost", "text/plain").digest
    for act in (lambda: layout.move("net", lost, None), lambda: layout.tag("net", lost)):
        with pytest.raises(Gone):
            act()
    assert layout.tags() == []


def test_a_tag_is_never_moved_to_what_is_no_manifest(layout: Repository) -> None:
    blob = put_blob(layout, b"{}")
    with pytest.raises(BlobCorrupt, match="no manifest in it"):
        layout.tag("net", blob.digest)


def test_a_list_of_referrers_that_was_spoilt_is_refused(folder: Path, layout: Repository) -> None:
    engine = put_artifact(layout, b"one")
    attest(layout, engine, b"a bundle")
    listed = layout.resolve(f"sha256-{engine.digest.hex}")
    assert listed is not None
    spoil(blob_file(folder, listed), lambda data: data[:-2] + b" }")
    with pytest.raises(BlobCorrupt):
        layout.referrers(engine.digest)
    blob_file(folder, listed).unlink()
    with pytest.raises(Gone):
        layout.referrers(engine.digest)


def test_what_another_put_is_made_durable_before_anyone_relies_on_it(
    folder: Path, layout: Repository
) -> None:
    """Who put it may have been killed before they saw to that."""
    artifact = put_artifact(layout, b"one")
    layout.tag("net", artifact.digest)
    data = layout.manifest(artifact.digest)
    assert data is not None
    changes: list[disk.Change] = []
    with disk.watched(changes.append):
        layout.put_manifest(data)
    assert disk.Change("sync folder", folder / "blobs" / "sha256") in changes
    changes.clear()
    with disk.watched(changes.append):
        layout.tag("net", artifact.digest)
    assert disk.Change("sync folder", folder) in changes


def test_a_move_whose_answer_was_lost_is_known_for_its_own(folder: Path) -> None:
    """As a bucket does it, which is asked again and then finds another version."""

    class AnswerLost(Folder):
        def swap(self, path: str, data: bytes, version: Version) -> bool:
            super().swap(path, data, version)
            return False

    artifact = put_artifact(opened(folder), b"one")
    assert Layout(AnswerLost(folder)).move("net", artifact.digest, None)
    assert opened(folder).resolve("net") == artifact.digest


_MOVING = """
import sys
from pathlib import Path
from engineforge.digest import Digest
from engineforge.promotion.oci.opening import open_repository
folder, name, *digests = sys.argv[1:]
layout = open_repository(folder, root=Path("/"), environment={})
won = 0
for number, digest in enumerate(digests):
    won += layout.move(f"shared-{number}", Digest(digest), None)
    layout.tag(f"{name}-{number}", Digest(digest))
print(won)
"""


def test_of_two_processes_that_move_tags_one_wins_each_and_none_loses_its_own(
    folder: Path, layout: Repository
) -> None:
    names, count = ("a", "b", "c"), 15
    children = []
    for name in names:
        digests = [
            put_artifact(layout, f"{name}{number}".encode()).digest for number in range(count)
        ]
        words = [sys.executable, "-c", _MOVING, str(folder), name, *digests]
        children.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
    won = [int(child.communicate(timeout=60)[0]) for child in children]
    assert sum(won) == count
    expected = [f"{name}-{n}" for name in (*names, "shared") for n in range(count)]
    assert layout.tags() == sorted(expected)


def test_a_layout_behind_http_is_read_and_not_written(folder: Path, layout: Repository) -> None:
    pytest.importorskip("obstore", reason="python -m pip install 'engineforge[remote]'")
    artifact = put_artifact(layout, b"one")
    layout.tag("net", artifact.digest)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:  # noqa: ANN401
            super().__init__(*given, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        url = f"http://127.0.0.1:{port}"
        over_http = open_repository(url, root=folder, environment={})
        assert over_http.resolve("net") == artifact.digest
        assert broken_parts(over_http, artifact) == []
        assert not over_http.untag("net")
        with pytest.raises(UsageError, match="is read over HTTP"):
            over_http.tag("net", artifact.digest)
        with pytest.raises(UsageError, match="is read over HTTP"):
            put_blob(over_http, b"data")
        elsewhere = open_repository(f"{url}/blobs", root=folder, environment={})
        with pytest.raises(BadLayout, match="it has no 'oci-layout'"):
            elsewhere.tags()


def test_a_folder_is_found_from_the_root_on(tmp_path: Path) -> None:
    put_blob(open_repository("envs", root=tmp_path, environment={}), b"data")
    assert (tmp_path / "envs" / "oci-layout").exists()
    absolute = tmp_path / "other"
    put_blob(open_repository(f"file://{absolute}", root=Path("/x"), environment={}), b"data")
    assert (absolute / "oci-layout").exists()


@pytest.mark.parametrize(
    ("store", "why"),
    [
        ("ftp://host/x", "an environment cannot be at 'ftp://'"),
        ("oci:folder", "an environment cannot be at 'oci:…'"),
        ("file://host/x", "names no absolute path"),
    ],
)
def test_a_store_that_can_be_nowhere_is_refused(tmp_path: Path, store: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        open_repository(store, root=tmp_path, environment={})
    assert "oci" in str(caught.value) or "file://" in str(caught.value)


def test_a_folder_that_is_in_none_is_said_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(RemoteUnavailable, match="in no folder that is there") as caught:
        opened(tmp_path / "not mounted" / "envs").tags()
    assert isinstance(caught.value, EngineForgeError)
