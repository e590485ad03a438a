"""Tags of a registry that several would move at once."""

from __future__ import annotations

import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone

import pytest

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import UsageError
from engineforge.promotion.oci.answer import BrokenOff
from engineforge.promotion.oci.claims import Claim, Mover, Owner, Tagged
from engineforge.promotion.oci.documents import EMPTY_CONFIG, ImageManifest
from engineforge.promotion.oci.registry import Registry
from tests.promotion.oci.registries import RunningRegistry, registry

__all__ = ["registry"]

OLD, NEW, OTHER = b"old", b"new", b"other"
NOON = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)


@dataclass
class Board:
    """Tags with a clock that only waiting moves."""

    tags: dict[str, bytes] = field(default_factory=lambda: {"net": OLD})
    seconds: float = 0.0
    longest_trip: float = 0.0
    said: list[str] = field(default_factory=list)
    before_put: Callable[[str, bytes], None] = lambda _tag, _data: None
    on_wait: Callable[[], None] = lambda: None
    tells_the_time: bool = True

    def resolve(self, tag: str) -> Digest | None:
        return digest_bytes(self.tags[tag]) if tag in self.tags else None

    def tagged(self, tag: str) -> tuple[Tagged | None, datetime | None]:
        date = NOON + timedelta(seconds=self.seconds) if self.tells_the_time else None
        if tag not in self.tags:
            return None, date
        data = self.tags[tag]
        return Tagged(digest=digest_bytes(data), data=data), date

    def put_tag(self, tag: str, data: bytes, *, once: bool) -> None:
        assert once == (tag == "net")
        self.before_put(tag, data)
        self.tags[tag] = data

    def put_empty_config(self) -> None:
        pass

    def wait(self, seconds: float) -> None:
        assert self.seconds < 3600, "it waits for ever"
        self.seconds += seconds
        self.on_wait()

    def move(self, to: bytes = NEW, expected: bytes | None = OLD) -> bool:
        mover = Mover(self, said=self.said.append, wait=self.wait, clock=lambda: self.seconds)
        return mover.move(
            "net", digest_bytes(to), to, None if expected is None else digest_bytes(expected)
        )

    def claim(self, *, source: bytes = OLD, owner: Owner | None = None) -> None:
        """Someone else's."""
        self.tags["net.claim"] = Claim(
            owner=owner or elsewhere(),
            attempt=secrets.token_hex(4),
            since=(NOON + timedelta(seconds=self.seconds)).isoformat(),
            source=digest_bytes(source),
            to=digest_bytes(OTHER),
        ).to_bytes()


def elsewhere() -> Owner:
    return Owner(machine="another", process=1, thread=1, began="1", name="another, process 1")


class TestMover:
    def test_a_free_tag_is_moved_after_a_wait_that_others_would_be_seen_in(self) -> None:
        board = Board(longest_trip=1.5)
        assert board.move()
        assert board.tags["net"] == NEW
        assert board.seconds == 4.5

    def test_the_wait_is_never_very_short(self) -> None:
        board = Board()
        assert board.move()
        assert board.seconds == 0.2

    def test_a_tag_that_stands_for_something_else_is_left(self) -> None:
        board = Board()
        assert not board.move(expected=OTHER)
        assert not board.move(expected=None)
        assert board.tags == {"net": OLD}

    def test_whoever_overwrites_the_claim_wins(self) -> None:
        board = Board()

        def another_comes() -> None:
            if board.seconds < 0.3:
                board.claim()
            elif board.seconds > 0.5:
                board.tags["net"] = OTHER

        board.on_wait = another_comes
        assert not board.move()
        assert board.tags["net"] == OTHER

    def test_a_claim_that_counts_is_waited_for_and_told(self) -> None:
        board = Board()
        board.claim()

        def it_ends() -> None:
            if board.seconds > 5:
                board.tags["net"] = OTHER

        board.on_wait = it_ends
        assert not board.move()
        assert len(board.said) == 1
        assert board.said[0].startswith("another, process 1 is changing what this would change")

    def test_a_claim_on_what_is_over_does_not_count(self) -> None:
        board = Board()
        board.claim(source=OTHER)
        assert board.move()
        assert board.seconds < 1

    @pytest.mark.parametrize("tells_the_time", [True, False])
    def test_a_claim_ends_after_ten_minutes(self, tells_the_time: bool) -> None:
        board = Board(tells_the_time=tells_the_time)
        board.claim()
        assert board.move()
        assert 600 < board.seconds < 602

    def test_a_claim_that_is_old_already_is_not_waited_for(self) -> None:
        board = Board()
        board.claim()
        board.seconds = 601
        assert board.move()
        assert board.seconds < 602

    def test_a_claim_of_this_thread_does_not_count(self) -> None:
        board = Board()
        board.claim(owner=Owner.this_thread())
        assert board.move()
        assert board.seconds < 1

    def test_a_claim_of_a_thread_that_has_ended_does_not_count(self) -> None:
        board = Board()
        owners: list[Owner] = []
        thread = threading.Thread(target=lambda: owners.append(Owner.this_thread()))
        thread.start()
        thread.join()
        end = time.monotonic() + 5
        while not owners[0].has_ended:  # its id is there for a moment longer
            assert time.monotonic() < end
            time.sleep(0.001)
        board.claim(owner=owners[0])
        assert board.move()
        assert board.seconds < 1

    def test_a_claim_of_a_thread_that_runs_counts(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            board = Board()
            board.claim(owner=pool.submit(Owner.this_thread).result())
            assert board.move()
            assert board.seconds > 600

    def test_a_claim_of_a_process_whose_number_another_has_does_not_count(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            board = Board()
            owner = pool.submit(Owner.this_thread).result()
            board.claim(owner=replace(owner, began="1"))
            assert board.move()
            assert board.seconds < 1

    def test_what_is_no_claim_does_not_count(self) -> None:
        board = Board()
        board.tags["net.claim"] = b"something"
        assert board.move()

    def test_whoever_took_too_long_to_claim_begins_again(self) -> None:
        board = Board()
        slow = iter([5.0])

        def before(tag: str, _: bytes) -> None:
            if tag == "net.claim":
                board.seconds += next(slow, 0.0)

        board.before_put = before
        assert board.move()
        assert board.seconds == pytest.approx(5.2)

    def test_one_that_moved_on_while_the_claim_was_late_is_not_undone(self) -> None:
        """Its claim is overwritten, so only the last look at the tag tells."""
        board = Board()

        def before(tag: str, _: bytes) -> None:
            if tag == "net.claim":
                board.tags["net"] = OTHER

        board.before_put = before
        assert not board.move()
        assert board.tags["net"] == OTHER

    def test_a_move_whose_answer_was_lost_is_seen_to_have_been_done(self) -> None:
        board = Board()

        def before(tag: str, data: bytes) -> None:
            if tag == "net":
                board.tags[tag] = data
                raise BrokenOff("cut")

        board.before_put = before
        assert board.move()

    def test_it_is_also_where_another_has_gone_on_from_it(self) -> None:
        board = Board()

        def before(tag: str, _: bytes) -> None:
            if tag == "net":
                board.claim(source=NEW)
                board.tags[tag] = OTHER
                raise BrokenOff("cut")

        board.before_put = before
        assert board.move()

    def test_a_move_that_never_arrives_is_given_up(self) -> None:
        board = Board()

        def before(tag: str, _: bytes) -> None:
            if tag == "net":
                raise BrokenOff("cut")

        board.before_put = before
        with pytest.raises(BrokenOff, match="cut"):
            board.move()
        assert board.tags["net"] == OLD

    def test_a_tag_too_long_for_a_claim_is_refused(self) -> None:
        board = Board()
        mover = Mover(board, said=board.said.append, wait=board.wait)
        with pytest.raises(UsageError, match="too long to be moved"):
            mover.move("a" * 123, digest_bytes(NEW), NEW, None)


def put(repository: Registry, kind: str) -> Digest:
    return repository.put_manifest(
        ImageManifest(
            artifact_type=f"application/x.{kind}", config=EMPTY_CONFIG, layers=(EMPTY_CONFIG,)
        ).to_bytes()
    )


def move_after(seconds: float, repository: Registry, to: Digest, expected: Digest | None) -> bool:
    time.sleep(seconds)
    return repository.move("net", to, expected)


@pytest.mark.slow
def test_of_several_that_move_at_once_one_wins_each_time(registry: RunningRegistry) -> None:
    name = f"test/{secrets.token_hex(6)}"
    repositories = [registry.open(name) for _ in range(3)]
    repositories[0].put_empty_config()
    at: Digest | None = None
    with ThreadPoolExecutor(3) as pool:
        for turn in range(20):
            to = [put(repositories[0], f"{turn}.{n}") for n in range(3)]
            pauses = random.Random(turn)
            starts = [pauses.choice([0.0, 0.0, 0.01, 0.1, 0.2, 0.25]) for _ in to]

            won = list(pool.map(move_after, starts, repositories, to, [at] * 3))
            assert sum(won) == 1, f"turn {turn}"
            at = repositories[0].resolve("net")
            assert at == to[won.index(True)]


@pytest.mark.slow
def test_a_process_that_was_killed_while_it_moved_is_not_waited_for(
    registry: RunningRegistry,
) -> None:
    name = f"test/{secrets.token_hex(6)}"
    repository = registry.open(name)
    repository.put_empty_config()
    first, second = put(repository, "first"), put(repository, "second")
    script = f"""
import os, signal
from engineforge.promotion.oci.registry import Registry
from engineforge.digest import Digest
def die(seconds):
    os.kill(os.getpid(), signal.SIGKILL)
registry = Registry.open({registry.url(name)!r}, environment={{}}, said=print, wait=die)
registry.move("net", Digest({first!r}), None)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode == -9
    assert repository.tags() == ["net.claim"]
    said: list[str] = []
    assert registry.open(name, said=said.append).move("net", second, None)
    assert repository.resolve("net") == second
    assert said == []
