"""Whose turn it is: by what jobs are expected to take, and by what they would wait for."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engineforge.digest import Digest, digest_value
from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.store.index import Index
from engineforge.worker.job import Job
from engineforge.worker.outcome import Event, Started
from engineforge.worker.turns import Turns, expected, shared_of, typing_of
from tests.conftest import SPEC, Forge, conditions
from tests.worker.conftest import chain


class _Named(str):
    """A job that is told from others of the same name."""


def _order(turns: Turns[_Named], count: int) -> list[str]:
    found = []
    for _ in range(count):
        with turns.next() as (_, job):
            found.append(str(job))
    return found


def _weighed(weights: dict[str, float]) -> Turns[_Named]:
    return Turns([*map(_Named, weights)], weight=lambda job: (weights[job], 0))


def test_the_longest_goes_first() -> None:
    weights = {"short": 1.0, "longest": 9.0, "long": 5.0}
    assert _order(_weighed(weights), 3) == ["longest", "long", "short"]


def test_what_nobody_knows_goes_before_what_is_known_to_be_long() -> None:
    assert _order(_weighed({"long": 9.0, "new": math.inf}), 2) == ["new", "long"]


def test_what_is_equally_long_keeps_its_order() -> None:
    weights = dict.fromkeys("abcdef", math.inf)
    assert _order(_weighed(weights), 6) == list("abcdef")


def test_without_weights_jobs_come_in_their_order() -> None:
    assert _order(Turns([*map(_Named, "cab")]), 3) == list("cab")


def _sharing() -> tuple[Turns[_Named], list[_Named]]:
    """Two long jobs that share a stage, and a short one that has its own."""
    jobs = [_Named("one"), _Named("two"), _Named("own")]
    turns = Turns(
        jobs,
        weight=lambda job: (1.0 if job == "own" else 5.0, 0),
        shared=lambda job: digest_value("own" if job == "own" else "shared"),
    )
    return turns, jobs


def test_who_would_wait_for_a_stage_lets_another_go_first() -> None:
    turns, _ = _sharing()
    with ExitStack() as stack:
        assert [str(stack.enter_context(turns.next())[1]) for _ in range(2)] == ["one", "own"]


def test_when_the_stage_is_made_the_other_goes_on() -> None:
    turns, jobs = _sharing()
    with turns.next():
        turns.made(jobs[0])
        with turns.next() as (_, job):
            assert job == "two"


def test_where_all_that_is_left_shares_a_stage_it_is_waited_for() -> None:
    turns, _ = _sharing()
    order: list[str] = []

    def another() -> None:
        with turns.next() as (_, job):
            order.append(job)

    with turns.next(), turns.next():
        thread = threading.Thread(target=another)
        thread.start()
        order.append("made")
    thread.join()
    assert order == ["made", "two"]


@settings(max_examples=50, deadline=None)
@given(
    jobs=st.lists(st.tuples(st.floats(0, 9), st.integers(0, 3)), max_size=20),
    threads=st.integers(1, 5),
)
def test_each_job_has_one_turn_and_none_shares_a_stage_with_another_at_the_time(
    jobs: list[tuple[float, int]], threads: int
) -> None:
    numbered = [*enumerate(jobs)]
    turns = Turns(
        numbered,
        weight=lambda job: (job[1][0], 0),
        shared=lambda job: digest_value(job[1][1]),
    )
    lock, making, done = threading.Lock(), list[int](), list[int]()
    clashes: list[tuple[int, ...]] = []
    left = iter(range(len(jobs)))

    def run() -> None:
        while True:
            with lock:
                if next(left, None) is None:
                    return
            with turns.next() as (number, job):
                with lock:
                    if job[1][1] in making:
                        clashes.append(tuple(making))
                    making.append(job[1][1])
                with lock:
                    making.remove(job[1][1])
                    done.append(number)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join()
    assert sorted(done) == list(range(len(jobs)))
    assert not clashes


@pytest.fixture
def jobs(forge: Forge) -> Iterator[dict[str, Job]]:
    """Those of variants of which two are converted alike, and one is not."""
    pytest.importorskip(
        "onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'"
    )
    forge.spec("net", SPEC + "  fp16: {precision: fp16, targets: [ada, ampere]}\n")
    with Project(forge.specs, forge.cache, os.environ) as project:
        plan = project.plan([forge.specs], Selection())
        yield {each.label: each.job for each in plan.variants if each.job is not None}


def test_what_converts_a_model_alike_shares_that(jobs: dict[str, Job]) -> None:
    shared: dict[str, Digest] = {label: shared_of(job) for label, job in jobs.items()}
    assert shared["net/fp16@ada"] == shared["net/fp16@ampere"] != shared["net/fp32@ada"]


def test_a_chain_takes_what_converting_and_building_took(
    jobs: dict[str, Job], tmp_path: Path
) -> None:
    index = Index(tmp_path)
    label = "net/fp16@ada"
    index.know_history(label, "plan", 5.0)
    index.know_history(typing_of(label), "", 2.0)
    assert expected(index, jobs[label])[0] == 7.0
    assert expected(index, jobs["net/fp32@ada"])[0] == math.inf


def test_the_next_run_begins_with_what_took_longest(forge: Forge) -> None:
    chain(forge, "a-short", 100)
    chain(forge, "z-long", 1000)
    assert forge.build().code == 0
    forge.edit("targets", "compute_capabilities: [8.9]", "compute_capabilities: [8.6]")
    began: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Started) and event.phase == "building":
            began.append(event.label)

    with Project(forge.specs, forge.cache, os.environ) as project:
        plan = project.plan([forge.specs], Selection())
        seconds = {each.label: each.seconds or 0 for each in plan.variants}
        project.build(plan, conditions(observe=observe))
    assert began == sorted(seconds, key=lambda label: -seconds[label])
    assert began[0] == "z-long/fp32@ada"
