"""After a power cut at any moment of a promotion to a folder: every state that a disk may be in."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from engineforge.digest import Digest
from engineforge.promotion.artifact import Artifact
from engineforge.promotion.oci.copying import push_artifact
from engineforge.promotion.oci.documents import INDEX, Descriptor, ImageIndex
from engineforge.promotion.oci.layout import Layout
from engineforge.store import disk
from engineforge.store.far.folder import Folder
from tests.promotion.engines import artifact_in, attest, broken_parts
from tests.store.crash.cache import Promise, kept
from tests.store.crash.model import State, states
from tests.store.crash.places import quick_folder
from tests.store.crash.recorder import Recorder, count, killed, killed_before
from tests.store.crash.recovery import read_tree, write_tree

Told = Callable[[str, object], None]
TAG = "net"


class Environment:
    """Engines that are promoted one after the other, to folders that a power cut may hit."""

    def __init__(self, elsewhere: Path) -> None:
        self.engines: list[Artifact] = []
        for text in (b"first", b"second", b"third"):
            contents = {"model.engine": text, "build.log": b"log"}
            self.engines.append(artifact_in(elsewhere / text.decode(), contents))

    def promote(
        self, number: int, root: Path, promised: Callable[[Promise], None] = lambda _: None
    ) -> None:
        """Engine, what is said of it, the state of the spec; the pointer last."""
        layout, engine = Layout(Folder(root)), self.engines[number]
        push_artifact(engine, layout)
        attest(layout, engine.descriptor, b"signed: %d" % number)
        promised(Promise("attested", str(number)))
        state = layout.put_manifest(self._state(number))
        assert layout.move(TAG, state, layout.resolve(TAG))
        promised(Promise("stands", str(number)))

    def _state(self, number: int) -> bytes:
        return ImageIndex(manifests=(self.engines[number].descriptor,)).to_bytes()

    def state_of(self, number: int) -> Descriptor:
        return Descriptor.of(self._state(number), INDEX)

    def wrong_after(self, state: State, root: Path) -> list[str]:
        """What a power cut has spoilt, as a puller finds it, and whoever promotes next."""
        root.mkdir()
        write_tree(state.tree, root)
        try:
            found = list(self._wrong(root, kept(state.promises)))
            self.promote(2, root)
            return found + list(self._wrong(root, {("stands", "2"), ("attested", "2")}))
        finally:
            shutil.rmtree(root)

    def _wrong(self, root: Path, promised: set[tuple[str, str]]) -> Iterator[str]:
        layout = Layout(Folder(root))
        stands, least = layout.resolve(TAG), [int(n) for kind, n in promised if kind == "stands"]
        known = [self.state_of(n).digest for n in range(len(self.engines))]
        if (-1 if stands is None else known.index(stands)) < max(least, default=-1):
            yield f"the tag was moved, and stands for {stands}"
        for each in self._engines(layout, stands):
            yield from broken_parts(layout, each)
            yield from self._attested(layout, each)
        for kind, number in promised:
            if kind == "attested":
                yield from self._attested(layout, self.engines[int(number)].descriptor)

    @staticmethod
    def _engines(layout: Layout, stands: Digest | None) -> tuple[Descriptor, ...]:
        if stands is None:
            return ()
        data = layout.manifest(stands)
        assert data is not None, "the tag stands for what is not there"
        return ImageIndex.from_bytes(data).manifests

    @staticmethod
    def _attested(layout: Layout, engine: Descriptor) -> Iterator[str]:
        found = layout.referrers(engine.digest)
        if not found:
            yield f"what was said of {engine.digest.short} is lost"
        for each in found:
            yield from broken_parts(layout, each)


@pytest.fixture
def quick() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


@pytest.fixture
def environment(quick: Path) -> Environment:
    return Environment(quick / "elsewhere")


def _tried(
    environment: Environment, quick: Path, number: int, *, before: int, killed_at: int | None = None
) -> int:
    """How many states a disk may be in after a promotion over `before` earlier ones, and after one
    that was killed before so many changes; none of them breaks a promise."""
    root, promises = quick / f"{number}-{killed_at}", list[Promise]()
    root.mkdir()
    for each in range(before):
        environment.promote(each, root, promises.append)
    base, recorder = read_tree(root), Recorder(root)
    promote = partial(environment.promote, number, root, recorder.promised)
    if killed_at is not None:
        assert killed(killed_before(killed_at, recorder), promote)
    with disk.watched(recorder):
        promote()
    tried = 0
    for state in states(base, recorder.log, promises):
        wrong = environment.wrong_after(state, quick / "after")
        assert wrong == [], f"after {state.after} of {len(recorder.log)} changes"
        tried += 1
    return tried


def test_a_tag_moved_to_what_one_left_who_was_killed_stands_for_it_whole(
    environment: Environment, quick: Path
) -> None:
    aside = quick / "aside"
    aside.mkdir()
    tried = 0
    for at in range(count(partial(environment.promote, 0, aside))):
        root = quick / f"{at}"
        root.mkdir()
        base, recorder = read_tree(root), Recorder(root)
        killed(killed_before(at, recorder), partial(environment.promote, 0, root))
        layout = Layout(Folder(root))
        if layout.manifest(environment.state_of(0).digest) is None or layout.resolve(TAG):
            continue
        with disk.watched(recorder):
            layout.tag(TAG, environment.state_of(0).digest)
        recorder.promised(Promise("stands", "0"))
        for state in states(base, recorder.log):
            assert environment.wrong_after(state, quick / "after") == []
            tried += 1
    assert tried > 20


@pytest.mark.parametrize("before", [0, 1])
def test_a_power_cut_during_a_promotion_leaves_the_old_state_or_the_new_one_whole(
    before: int, environment: Environment, quick: Path, record_property: Told
) -> None:
    tried = _tried(environment, quick, before, before=before)
    record_property("states", tried)
    sys.stderr.write(f"{tried} states after a power cut: a promotion over {before} others\n")
    assert tried > 20


@pytest.mark.parametrize("every", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_a_power_cut_after_a_killed_promotion_leaves_the_old_state_or_the_new_one_whole(
    every: int, environment: Environment, quick: Path, record_property: Told
) -> None:
    aside = quick / "aside"
    aside.mkdir()
    changes = count(partial(environment.promote, 0, aside))
    tried = sum(
        _tried(environment, quick, 0, before=0, killed_at=at) for at in range(0, changes, every)
    )
    record_property("states", tried)
    sys.stderr.write(f"{tried} states after a power cut, after a kill\n")
    assert tried > 20
