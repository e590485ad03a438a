"""An environment that is followed: what a server gets, and what it hears of trouble."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import Untrusted, UsageError
from engineforge.promotion.environment import Opened
from engineforge.promotion.following import follow
from engineforge.promotion.pulling import LoadFailed, Pulled, pull
from engineforge.promotion.state import State
from engineforge.runtime.engine_file import read_engine
from engineforge.store.far.objects import RemoteUnavailable
from tests.promotion.shelf import NOW, Shelf

OLD, NEW = b"old engine" * 50, b"new engine!" * 50


class Network:
    """A repository that can be cut off, and counts what it is asked."""

    def __init__(self, inner: Any) -> None:  # noqa: ANN401
        self._inner = inner
        self.cut = False
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if self.cut:
            raise RemoteUnavailable("the registry does not answer")
        self.asked.append(name)
        return getattr(self._inner, name)


class Server:
    """What follows, at `output`: `steps` are done, one each time that it sleeps, then it stops."""

    def __init__(self, shelf: Shelf, output: Path) -> None:
        self.shelf, self.output = shelf, output
        self.said: list[str] = []
        self.slept: list[float] = []
        self.network = Network(shelf.open().repository)

    def run(
        self, *steps: Callable[[], object], load: Callable[[Path], Any] | None = None
    ) -> list[Pulled]:
        return list(self.each(*steps, load=load))

    def each(
        self, *steps: Callable[[], object], load: Callable[[Path], Any] | None = None
    ) -> Iterator[Pulled]:
        opened: Opened = self.shelf.open(self.said)
        opened.repository = self.network
        left = list(steps)
        done = False

        def sleep(seconds: float) -> None:
            nonlocal done
            self.slept.append(seconds)
            if left:
                left.pop(0)()
            else:
                done = True

        return follow(
            opened,
            self.shelf.wanted(self.output),
            every=10,
            sleep=sleep,
            stop=lambda: done,
            now=lambda: NOW,
            said=self.said.append,
            load=load,
        )

    def cut(self) -> None:
        self.network.cut = True

    def mend(self) -> None:
        self.network.cut = False


def nothing() -> None:
    """A time of sleep in which nothing happens."""


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def server(shelf: Shelf, tmp_path: Path) -> Server:
    (tmp_path / "server").mkdir()
    return Server(shelf, tmp_path / "server" / "model.engine")


def test_each_promotion_and_each_rollback_is_pulled(shelf: Shelf, server: Server) -> None:
    old, new = shelf.artifact(OLD), shelf.artifact(NEW)
    shelf.promote(old)
    contents = []
    for found in server.each(
        lambda: shelf.promote(new), nothing, lambda: shelf.promote(old, action="rollback")
    ):
        contents.append((found.number, found.changed, server.output.read_bytes()))
    assert contents == [(1, True, OLD), (2, True, NEW), (3, True, OLD)]
    assert server.said == []


def test_where_nothing_changed_one_request_is_made(shelf: Shelf, server: Server) -> None:
    shelf.promote(shelf.artifact(OLD))
    seen: list[int] = []
    server.run(*(lambda: seen.append(len(server.network.asked)) for _ in range(3)))
    assert [later - before for before, later in pairwise(seen)] == [1, 1]
    assert server.slept == [10, 10, 10, 10]


def test_an_engine_is_loaded_once_though_another_event_keeps_it(
    shelf: Shelf, server: Server
) -> None:
    old = shelf.artifact(OLD)
    shelf.promote(old)
    loaded: list[Digest] = []

    def load(path: Path) -> None:
        loaded.append(read_engine(path).sha256)

    other = shelf.artifact(
        NEW, "fp16@arm", target={"platform": "linux-aarch64", "compute_capabilities": ["8.9"]}
    )
    found = server.run(lambda: shelf.promote(old, other), load=load)
    assert [(each.number, each.changed) for each in found] == [(1, True), (2, False)]
    assert loaded == [digest_bytes(OLD)]


def test_a_registry_that_does_not_answer_is_waited_for(shelf: Shelf, server: Server) -> None:
    new = shelf.artifact(NEW)
    shelf.promote(shelf.artifact(OLD))
    waits: list[Callable[[], object]] = [nothing] * 6
    found = server.run(server.cut, *waits, server.mend, lambda: shelf.promote(new))
    assert [each.number for each in found] == [1, 2]
    assert server.slept[:9] == [10, 20, 40, 80, 160, 300, 300, 300, 10]
    assert server.said == [
        "note: 'staging/ocr' cannot be pulled, and number 1 serves on: the registry does not "
        "answer",
        "note: 'staging/ocr' is well again",
    ]


def test_a_registry_that_does_not_answer_at_first_is_waited_for(
    shelf: Shelf, server: Server
) -> None:
    shelf.promote(shelf.artifact(OLD))
    server.cut()
    assert [each.number for each in server.run(nothing, server.mend)] == [1]


def test_a_server_starts_with_what_it_pulled_before(shelf: Shelf, server: Server) -> None:
    shelf.promote(shelf.artifact(OLD))
    server.run()
    server.cut()
    (found,) = server.run(nothing, load=lambda path: read_engine(path).sha256)
    assert (found.number, found.changed, found.loaded) == (1, False, digest_bytes(OLD))
    assert found.why == "pulled at 2026-11-21T12:00:00Z"


def test_a_server_does_not_start_with_a_file_that_was_changed(shelf: Shelf, server: Server) -> None:
    shelf.promote(shelf.artifact(OLD))
    server.run()
    server.output.write_bytes(NEW)
    server.cut()
    assert server.run(nothing) == []


def test_at_first_what_must_not_be_had_is_an_error(shelf: Shelf, server: Server) -> None:
    shelf.promote(shelf.artifact(OLD), attested=False)
    with pytest.raises(Untrusted):
        server.run()
    with pytest.raises(UsageError):
        Server(Shelf(shelf.root / "empty"), server.output).run()


def test_what_is_not_to_be_trusted_leaves_the_old_engine_and_is_told_once(
    shelf: Shelf, server: Server
) -> None:
    good, bad = shelf.artifact(OLD), shelf.artifact(NEW)
    shelf.promote(good)
    state: list[State] = []
    found = server.run(
        lambda: state.append(shelf.promote(bad, attested=False)), nothing, nothing, nothing
    )
    assert [each.number for each in found] == [1]
    assert server.output.read_bytes() == OLD
    assert len(server.said) == 1
    assert server.said[0].startswith(
        "note: 'staging/ocr' cannot be pulled, and number 1 serves on: fp16@h200 of 'staging/ocr': "
        "nobody who counts says how it was built"
    )


def test_what_is_put_right_without_an_event_is_pulled_then(shelf: Shelf, server: Server) -> None:
    shelf.promote(shelf.artifact(OLD))
    state: list[State] = []

    def mend() -> None:
        (bad,) = state
        listed = bad.engines[0]
        shelf.attest(shelf.open(), bad.described[listed.manifest], listed)

    found = server.run(
        lambda: state.append(shelf.promote(shelf.artifact(NEW), attested=False)),
        mend,
        *[nothing] * 4,
    )
    assert [each.number for each in found] == [1, 2]
    assert server.said[-1] == "note: 'staging/ocr' is well again"


def test_the_next_event_is_pulled_at_once_whatever_went_wrong_before(
    shelf: Shelf, server: Server
) -> None:
    shelf.promote(shelf.artifact(OLD))
    found = server.run(
        lambda: shelf.promote(shelf.artifact(NEW), attested=False),
        *[nothing] * 8,
        lambda: shelf.promote(shelf.artifact(OLD), action="rollback"),
    )
    assert [each.number for each in found] == [1, 3]
    assert set(server.slept) == {10}


def test_an_engine_that_does_not_load_is_fetched_once(shelf: Shelf, server: Server) -> None:
    shelf.promote(shelf.artifact(OLD))
    tried: list[bytes] = []

    def load(path: Path) -> bytes:
        tried.append(path.read_bytes())
        if tried[-1] == NEW:
            raise RuntimeError("out of GPU memory")
        return tried[-1]

    found = server.run(lambda: shelf.promote(shelf.artifact(NEW)), *[nothing] * 9, load=load)
    assert [each.loaded for each in found] == [OLD]
    assert tried == [OLD, NEW]
    assert server.output.read_bytes() == OLD
    assert len(server.said) == 1
    assert "does not load: out of GPU memory" in server.said[0]


def test_a_server_whose_new_engine_does_not_load_starts_with_the_old_one(
    shelf: Shelf, server: Server
) -> None:
    shelf.promote(shelf.artifact(OLD))
    server.run()
    shelf.promote(shelf.artifact(NEW))

    def load(path: Path) -> bytes:
        if (data := path.read_bytes()) == NEW:
            raise RuntimeError("out of GPU memory")
        return data

    assert [(each.number, each.loaded) for each in server.run(load=load)] == [(1, OLD)]


def test_a_server_with_nothing_that_loads_ends(shelf: Shelf, server: Server) -> None:
    shelf.promote(shelf.artifact(OLD))

    def load(_: Path) -> None:
        raise RuntimeError("out of GPU memory")

    with pytest.raises(LoadFailed):
        server.run(load=load)


def test_tightened_gates_are_told_and_the_engine_serves_on(shelf: Shelf, server: Server) -> None:
    shelf.promote(shelf.artifact(OLD))
    pull(shelf.open(), shelf.wanted(server.output), now=NOW)
    shelf.write(not_after=date(2020, 1, 1))
    (found,) = server.run(nothing)
    assert (found.number, found.changed) == (1, False)
    assert "after their keys had expired" in server.said[0]
