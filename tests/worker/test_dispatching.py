"""Orders for a cluster that is pretended: which node, in which order, and what becomes of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import pytest

from engineforge.digest import digest_bytes
from engineforge.errors import EngineForgeError, HostUnfit
from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.store.far.objects import RemoteUnavailable
from engineforge.worker.chain import Model
from engineforge.worker.dispatching import Dispatching
from engineforge.worker.job import Job
from engineforge.worker.labels import Node
from engineforge.worker.order import Answer, Delivered, Lost, Order, Refused
from engineforge.worker.outcome import NOT_STARTED, Event, Failed, Noted, Skipped
from engineforge.worker.parcel import Packing
from engineforge.worker.running import INTERRUPTED, Running
from tests.conftest import Forge, conditions
from tests.worker.conftest import until
from tests.worker.farm import RTX

_VARIANTS = """\
model:
  source: {path: models/net.onnx}
inputs:
  image: {min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}
targets: [ada]
variants:
"""


def _node(name: str, *, cpus: int = 1) -> Node:
    return Node(id=name, name=name, labels=RTX, cpus=cpus, gpus=0)


def _delivered(order: Order) -> Delivered:
    return Delivered(engine=order.engine, made=True)


class Pretended:
    """A cluster whose orders end when `answer` says what they came to: it is told the order and how
    many times that was started."""

    where = "a cluster"

    def __init__(self, *nodes: Node) -> None:
        self.alive = list(nodes)
        self.answer: Callable[[Order, int], Answer | Lost | None] = lambda order, _: _delivered(
            order
        )
        self.started: list[str] = []
        self.besides: list[list[str]] = []
        self.cancelled: list[tuple[str, bool]] = []
        self.most = 0
        self.running: dict[object, Order] = {}
        self.told: list[Event] = []
        self.last_word = ""
        self.events_fail = False
        self.ends_when_cancelled = True

    def nodes(self) -> Sequence[Node]:
        return list(self.alive)

    def start(self, order: Order, *, besides: Sequence[str]) -> object:
        self.started.append(order.job.variant.name)
        self.besides.append(list(besides))
        ticket = object()
        self.running[ticket] = order
        self.most = max(self.most, len(self.running))
        return ticket

    def events(self) -> Sequence[Event]:
        if self.events_fail:
            raise EngineForgeError("the cluster is gone")
        told, self.told = self.told, []
        return [Noted("nobody/fp32@ada", "an event of one that has ended"), *told]

    def ended(self, tickets: Sequence[object], seconds: float) -> Mapping[object, Answer | Lost]:
        found: dict[object, Answer | Lost] = {}
        time.sleep(0.01)
        for ticket in tickets:
            order = self.running.get(ticket)
            if order is None:
                found[ticket] = Lost("it was cancelled")
                continue
            times = self.started.count(order.job.variant.name)
            if (answer := self.answer(order, times)) is not None:
                found[ticket] = answer
                if self.last_word:
                    self.told.append(Noted(order.label, self.last_word))
                del self.running[ticket]
        return found

    def cancel(self, ticket: object, *, force: bool) -> None:
        order = self.running[ticket]
        self.cancelled.append((order.job.variant.name, force))
        if self.ends_when_cancelled or force:
            del self.running[ticket]


class Desk:
    """Gives a cluster the jobs of variants; `seconds` are those that they took before."""

    def __init__(self, jobs: dict[str, Job], cluster: Pretended, packing: Packing) -> None:
        self.jobs, self.cluster = jobs, cluster
        self.running, self.events = Running(), list[Event]()
        self.seconds: dict[str, float] = {}
        self.futures: dict[str, Future[Answer]] = {}
        self.dispatching: Dispatching[Answer] = Dispatching(
            cluster,
            packing,
            remote="far",
            running=self.running,
            conditions=conditions(observe=self.events.append),
            seconds=lambda job: self.seconds.get(job.variant.name),
        )

    def order(self, name: str) -> Future[Answer]:
        job = self.jobs[name]
        model = Model(job.model, digest_bytes(b"model"), ())
        self.futures[name] = self.dispatching.build(job, model, lambda answer: answer)
        return self.futures[name]

    def answers(self) -> dict[str, Answer]:
        self.dispatching.finish()
        return {name: each.result() for name, each in self.futures.items()}


@pytest.fixture
def desk(forge: Forge) -> Iterator[Callable[..., Desk]]:
    forge.model.rename(forge.model.with_name("model.onnx"))
    lines = [
        f"  {name}: {{precision: fp32, builder: {{max_aux_streams: {number}}}}}\n"
        for number, name in enumerate("abcd")
    ]
    text = _VARIANTS.replace("net.onnx", "model.onnx")
    lines.append(lines[0].replace("a:", "same:"))
    forge.spec("net", text + "".join(lines))
    with ExitStack() as stack:
        project = stack.enter_context(Project(forge.specs, forge.cache, os.environ))
        session = stack.enter_context(project.store.session())
        plan = project.plan([forge.specs], Selection())
        jobs = {each.variant: each.job for each in plan.variants if each.job is not None}

        def made(*nodes: Node, give: Callable[..., None] = lambda *_: None) -> Desk:
            return Desk(jobs, Pretended(*nodes), Packing(session, give))

        yield made


Desks = Callable[..., Desk]


def test_the_longest_goes_first_and_what_is_unknown_before_it(desk: Desks) -> None:
    busy = desk(_node("one"))
    held = [True]
    busy.cluster.answer = lambda order, _: None if held[0] else _delivered(order)
    busy.seconds = {"b": 1.0, "c": 9.0}
    busy.order("a")
    until(lambda: busy.cluster.started == ["a"])
    for name in "bcd":
        busy.order(name)
    held[0] = False
    busy.answers()
    assert busy.cluster.started == ["a", "d", "c", "b"]


def test_no_more_run_at_once_than_nodes_take(desk: Desks) -> None:
    busy = desk(_node("one"), _node("two", cpus=2))
    for name in "abcd":
        busy.order(name)
    busy.answers()
    assert len(busy.cluster.started) == 4
    assert busy.cluster.most <= 3


def test_what_was_lost_with_its_node_is_ordered_again(desk: Desks) -> None:
    busy = desk(_node("one"))
    busy.cluster.answer = lambda order, times: (
        Lost("its node was lost") if times == 1 else _delivered(order)
    )
    busy.order("a")
    assert isinstance(busy.answers()["a"], Delivered)
    assert busy.cluster.started == ["a", "a"]
    assert [each.text for each in busy.events if isinstance(each, Noted)] == [
        "its node was lost; it is built elsewhere, or again"
    ]


def test_what_is_lost_again_and_again_fails(desk: Desks) -> None:
    busy = desk(_node("one"))
    busy.cluster.answer = lambda *_: Lost("its node was lost")
    busy.order("a")
    failed = busy.answers()["a"]
    assert failed == Failed(
        stage="engine", error="its node was lost 3 times; the last time: its node was lost"
    )


def test_what_failed_is_not_ordered_again(desk: Desks) -> None:
    busy = desk(_node("one"), _node("two"))
    failed = Failed(stage="engine", error="no", log=("the last line",))
    busy.cluster.answer = lambda *_: failed
    busy.order("a")
    assert busy.answers() == {"a": failed}
    assert busy.cluster.started == ["a"]


def test_a_node_that_refuses_is_not_asked_again(desk: Desks) -> None:
    busy = desk(_node("wrong"), _node("right"))

    def answer(order: Order, times: int) -> Answer:
        refuses = busy.cluster.besides[-1] == []
        return Refused(node="wrong", name="wrong", why="no") if refuses else _delivered(order)

    busy.cluster.answer = answer
    busy.order("a")
    assert isinstance(busy.answers()["a"], Delivered)
    busy.order("b")
    assert isinstance(busy.answers()["b"], Delivered)
    assert busy.cluster.besides == [[], ["wrong"], ["wrong"]]


def test_where_all_nodes_refuse_it_fails_by_what_they_say(desk: Desks) -> None:
    busy = desk(_node("wrong"))
    busy.cluster.answer = lambda *_: Refused(node="wrong", name="wrong", why="no TensorRT")
    busy.order("a")
    failed = busy.answers()["a"]
    assert isinstance(failed, Failed)
    assert failed.error.startswith("node 'wrong' refuses: no TensorRT; no node of the cluster has")


def test_an_order_that_waits_for_nodes_that_are_gone_fails(desk: Desks) -> None:
    busy = desk(_node("one"))
    busy.cluster.answer = lambda *_: None
    busy.order("a")
    until(lambda: busy.cluster.started)
    busy.cluster.alive.clear()
    failed = busy.answers()["a"]
    assert isinstance(failed, Failed)
    assert "it has no nodes" in failed.error


def test_a_target_without_a_node_is_refused_at_once(desk: Desks) -> None:
    busy = desk()
    with pytest.raises(HostUnfit, match="no node of the cluster has what target 'ada' needs"):
        busy.dispatching.must_have([*busy.jobs.values()])


def test_one_engine_for_two_variants_is_ordered_once(desk: Desks) -> None:
    busy = desk(_node("one", cpus=4))
    held = [True]
    busy.cluster.answer = lambda order, _: None if held[0] else _delivered(order)
    busy.order("a")
    busy.order("same")
    held[0] = False
    found = busy.answers()
    made = [each.made for each in found.values() if isinstance(each, Delivered)]
    assert made == [True, False]
    assert len(busy.cluster.started) == 1


def test_when_a_variant_failed_what_runs_may_end_and_the_rest_is_not_started(desk: Desks) -> None:
    busy = desk(_node("one"))
    held = [True]
    busy.cluster.answer = lambda order, _: None if held[0] else _delivered(order)
    busy.order("a")
    until(lambda: busy.cluster.started)
    busy.order("b")
    busy.running.halt(NOT_STARTED)
    until(busy.futures["b"].done)
    held[0] = False
    found = busy.answers()
    assert isinstance(found["a"], Delivered)
    assert found["b"] == Skipped(why=NOT_STARTED)


def test_an_interrupted_run_cancels_what_runs_and_lets_it_clean_up(desk: Desks) -> None:
    busy = desk(_node("one"))
    busy.cluster.answer = lambda *_: None
    busy.order("a")
    busy.order("b")
    until(lambda: busy.cluster.started)
    busy.running.interrupt()
    assert set(busy.answers().values()) == {Skipped(why=INTERRUPTED)}
    assert busy.cluster.cancelled == [("a", False)]


def test_a_cluster_that_breaks_is_told_to_all_who_wait(desk: Desks) -> None:
    busy = desk(_node("one"))

    def broken(*_: object) -> None:
        raise EngineForgeError("the cluster is gone")

    busy.cluster.answer = broken
    waiting = busy.order("a")
    with pytest.raises(EngineForgeError, match="the cluster is gone"):
        waiting.result(60)
    with pytest.raises(EngineForgeError, match="the cluster is gone"):
        busy.order("b")
    busy.dispatching.finish()


def test_what_is_told_just_before_an_answer_is_not_lost(desk: Desks) -> None:
    busy = desk(_node("one"))
    busy.cluster.last_word = "the last word"
    busy.order("a")
    busy.answers()
    assert Noted("net/a@ada", "the last word") in busy.events


def test_an_answer_that_arrived_counts_though_the_cluster_breaks_then(desk: Desks) -> None:
    busy = desk(_node("one"))

    def answer(order: Order, _: int) -> Answer:
        busy.cluster.events_fail = True
        return _delivered(order)

    busy.cluster.answer = answer
    assert isinstance(busy.order("a").result(60), Delivered)
    with pytest.raises(EngineForgeError, match="the cluster is gone"):
        busy.order("b").result(60)
    busy.dispatching.finish()


def test_what_cannot_be_sent_is_not_ordered(desk: Desks) -> None:
    def give(*_: object) -> None:
        raise RemoteUnavailable("the bucket is gone")

    busy = desk(_node("one"), give=give)
    with pytest.raises(RemoteUnavailable):
        busy.order("a")
    assert busy.cluster.started == []


def test_events_of_what_has_ended_are_not_passed_on(desk: Desks) -> None:
    busy = desk(_node("one"))
    busy.order("a")
    busy.answers()
    assert {each.label for each in busy.events} == {"net/a@ada"}


def test_variants_of_one_model_send_it_once(desk: Desks, tmp_path: Path) -> None:
    sent: list[Path] = []
    busy = desk(_node("one"), give=lambda entry, _: sent.append(entry.path))
    for name in "abcd":
        busy.order(name)
    busy.answers()
    assert len(sent) == 1
