"""What is sent to a node: the files of a job by content, laid out there as the build wants them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engineforge.digest import digest_bytes
from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.project.roots import about
from engineforge.spec.sources import NetworkSource
from engineforge.store.local import Entry, Session
from engineforge.store.manifest import Manifest
from engineforge.store.stats import stat_of
from engineforge.worker.chain import Model
from engineforge.worker.job import Files, Job, StageFailed
from engineforge.worker.parcel import Packing, Parcel, unpacked, without_files
from tests.conftest import Forge


def _files(*paths: Path) -> Files:
    return {path: (digest_bytes(path.read_bytes()), stat_of(path)) for path in paths}


class Post:
    """Keeps what is sent, as a remote store does."""

    def __init__(self, session: Session, folder: Path) -> None:
        self._folder = folder
        self.packing = Packing(session, self._give)
        self._entries: list[Entry] = []

    def _give(self, entry: Entry, _: str) -> None:
        kept = self._folder / entry.manifest.key.hex
        kept.mkdir()
        for name, file in entry.manifest.files.items():
            data = entry.file(name).read_bytes()
            assert (digest_bytes(data), len(data)) == (file.sha256, file.size)
            (kept / name).write_bytes(data)
        self._entries.append(Entry(kept, entry.manifest, (0, 0, 0)))

    @property
    def manifest(self) -> Manifest:
        """Of what was sent last."""
        return self._entries[-1].manifest

    def sent(self, job: Job, model: Model, to: Path) -> tuple[Job, Path]:
        """A job, and its model, as a node has them."""
        parcel: Parcel = self.packing.packed(job, model)
        to.mkdir()
        return unpacked(self._entries[-1], parcel, without_files(job), to)


@pytest.fixture
def job(forge: Forge) -> Job:
    with Project(forge.specs, forge.cache, os.environ) as project:
        (planned,) = project.plan([forge.specs], Selection()).variants
        assert planned.job is not None
        return planned.job


@pytest.fixture
def post(forge: Forge, tmp_path: Path) -> Iterator[Post]:
    with Project(forge.specs, forge.cache, os.environ) as project:
        (tmp_path / "post").mkdir()
        with project.store.session() as session:
            yield Post(session, tmp_path / "post")


@pytest.fixture
def model(job: Job, tmp_path: Path) -> Model:
    """The job's model as it is imported: beside a link to where its weights are."""
    folder = tmp_path / "bound"
    folder.mkdir()
    (folder / "weights").symlink_to(job.model)
    (folder / "model.onnx").write_bytes(b"skeleton")
    return Model(folder / "model.onnx", digest_bytes(b"skeleton"), ())


def test_a_model_lies_beside_its_weights(
    job: Job, model: Model, post: Post, tmp_path: Path
) -> None:
    _, path = post.sent(job, model, tmp_path / "node")
    assert path.read_bytes() == b"skeleton"
    assert path.with_name("weights").read_bytes() == job.model.read_bytes()


def test_no_path_of_this_host_is_sent(job: Job, model: Model, post: Post, tmp_path: Path) -> None:
    found, _ = post.sent(job, model, tmp_path / "node")
    for path in (found.model, found.folder, *found.source, *found.libraries):
        assert path.is_relative_to(tmp_path / "node")


def test_plugins_are_named_where_they_lie_there(
    job: Job, model: Model, post: Post, tmp_path: Path
) -> None:
    plugins = [tmp_path / "a" / "same.so", tmp_path / "b" / "same.so"]
    for number, path in enumerate(plugins):
        path.parent.mkdir()
        path.write_bytes(b"plugin %d" % number)
    with_them = replace(
        job,
        libraries=_files(*plugins),
        builder={**job.builder, "plugins": [str(path) for path in plugins]},
    )
    found, _ = post.sent(with_them, model, tmp_path / "node")
    assert [Path(each).read_bytes() for each in found.plugins] == [b"plugin 0", b"plugin 1"]
    assert [*found.libraries] == [Path(each) for each in found.plugins]
    assert {name: each for name, each in found.builder.items() if name != "plugins"} == job.builder


@pytest.fixture
def network(job: Job, tmp_path: Path) -> Callable[..., Job]:
    """A job of a function with these files, from the folder of its spec on."""

    def made(*names: str) -> Job:
        folder = tmp_path / "specs-of-networks"
        files = [folder / name for name in names]
        for path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
        source = NetworkSource(function="nets.small:fill")
        return replace(
            job, network=source, folder=folder, source=_files(*files), model=files[0], called="it"
        )

    return made


def test_a_network_has_its_files_where_its_spec_has_them(
    network: Callable[..., Job], post: Post, tmp_path: Path
) -> None:
    job = network("nets/small.py", "nets/__init__.py", "weights.npz")
    model = Model(job.model, digest_bytes(b""), ())
    found, path = post.sent(job, model, tmp_path / "node")
    names = [str(each.relative_to(found.folder)) for each in found.source]
    assert names == ["nets/small.py", "nets/__init__.py", "weights.npz"]
    assert path == found.folder / "nets" / "small.py"
    assert path.read_text() == "small.py"


def test_builds_of_one_parcel_at_once_leave_each_other_alone(
    network: Callable[..., Job], post: Post, tmp_path: Path
) -> None:
    plugin = tmp_path / "plugin.so"
    plugin.write_bytes(b"plugin")
    job = replace(network("net.py"), libraries=_files(plugin))
    model = Model(job.model, digest_bytes(b""), ())
    one, _ = post.sent(job, model, tmp_path / "one")
    post.sent(job, model, tmp_path / "two")
    shutil.rmtree(tmp_path / "two")
    for path, (_, stat) in {**one.source, **one.libraries}.items():
        assert stat_of(path) == stat


def test_a_file_outside_the_folder_of_its_spec_is_not_sent(
    network: Callable[..., Job], post: Post, tmp_path: Path
) -> None:
    job = network("../elsewhere.py")
    with pytest.raises(StageFailed, match="lies outside the folder of its spec"):
        post.sent(job, Model(job.model, digest_bytes(b""), ()), tmp_path / "node")


def test_what_no_order_needs_any_more_can_be_collected(
    job: Job, model: Model, post: Post, tmp_path: Path
) -> None:
    post.sent(job, model, tmp_path / "node")
    assert about(post.manifest) == ()
