"""Which engine is built on which node of a cluster, and when: the longest first, again where a node
was lost, and elsewhere where one is not what its labels say."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from engineforge import __version__
from engineforge.digest import Digest, digest_value
from engineforge.errors import HostUnfit
from engineforge.worker.chain import Model
from engineforge.worker.conditions import Conditions
from engineforge.worker.job import Job
from engineforge.worker.labels import Need, Node, need_of, what_there_is, why_nobody
from engineforge.worker.order import Answer, Delivered, Lost, Order, Refused
from engineforge.worker.outcome import Event, Failed, Noted, Skipped, Started
from engineforge.worker.parcel import Packing, without_files
from engineforge.worker.running import INTERRUPTED, Running

_MOST_TRIES = 3
_LOOK_SECONDS = 0.2
_NODES_SECONDS = 1.0
_CANCEL_SECONDS = 30.0
_AT_ONCE = 4

_LABELS = (
    "`engineforge cluster labels` on a host prints the labels that its node is to be started with"
)

T = TypeVar("T")


class Cluster(Protocol):
    """What carries orders to nodes; called by one thread at a time. A ticket stands for an order
    that was started. HostUnfit where the cluster is there no more."""

    @property
    def where(self) -> str:
        """For people."""

    def nodes(self) -> Sequence[Node]:
        """Those that are alive."""

    def start(self, order: Order, *, besides: Sequence[str]) -> object:
        """Have an order carried out on a node that has what it needs, `besides` those of these ids;
        the ticket."""

    def events(self) -> Sequence[Event]:
        """What nodes have told since this was last asked."""

    def ended(self, tickets: Sequence[object], seconds: float) -> Mapping[object, Answer | Lost]:
        """What became of those that ended, after so many seconds at most."""

    def cancel(self, ticket: object, *, force: bool) -> None:
        """Let an order end without an answer: at once with `force`, else as soon as it has cleaned
        up behind itself."""


@dataclass(slots=True, eq=False)
class _Asked(Generic[T]):
    """An order with all that wait for its engine: what each does with the answer, and the future of
    that."""

    order: Order
    weight: tuple[float, float]
    waiting: list[tuple[Callable[[Answer], T], Future[T]]] = field(default_factory=list)
    lost: int = 0


class Dispatching(Generic[T]):
    """For all threads of a run; nothing is left on any node when `finish` returns. `remote` is what
    nodes call the store that machines share, `seconds` what a job's engine took before."""

    def __init__(
        self,
        cluster: Cluster,
        packing: Packing,
        *,
        remote: str,
        running: Running,
        conditions: Conditions,
        seconds: Callable[[Job], float | None],
    ) -> None:
        self._cluster, self._packing, self._remote = cluster, packing, remote
        self._running, self._conditions, self._seconds = running, conditions, seconds
        self._nodes: Sequence[Node] = ()
        self._looked = -math.inf
        self._queued: list[_Asked[T]] = []
        self._started: dict[object, _Asked[T]] = {}
        self._asked: dict[Digest, _Asked[T]] = {}
        self._refusals: dict[tuple[str, str], str] = {}
        self._thread: threading.Thread | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._finishing = False
        self._broken: BaseException | None = None
        self._changed = threading.Condition()

    def must_have(self, jobs: Sequence[Job]) -> None:
        """HostUnfit where a target of these jobs has no node, before anything is done for it."""
        self._look(time.monotonic())
        lacking = {
            why_nobody(need, job.variant.target.name): None
            for job in jobs
            if not self._slots(need := self._need(job))
        }
        if lacking:
            raise HostUnfit("\n".join([*lacking, what_there_is(self._nodes)]), hint=_LABELS)

    def build(self, job: Job, model: Model, then: Callable[[Answer], T]) -> Future[T]:
        """Have the engine of a job built on a node, and do `then` with the answer."""
        key = digest_value(job.key.engine_key(model.digest, model.external))
        parcel = self._packing.packed(job, model)
        conditions = self._conditions
        order = Order(
            job=without_files(job),
            digest=model.digest,
            external=model.external,
            engine=key,
            parcel=parcel,
            need=self._need(job),
            remote=self._remote,
            version=__version__,
            timeout=conditions.timeout,
            cold=conditions.cold,
            about=conditions.about,
        )
        made: Future[T] = Future()
        with self._changed:
            if self._broken is not None:
                raise self._broken
            asked = self._asked.get(key)
            if asked is None:
                asked = _Asked(order, self._weight(job))
                self._asked[key] = asked
                self._queued.append(asked)
            asked.waiting.append((then, made))
            if self._thread is None:
                self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="taking")
                self._thread = threading.Thread(target=self._loop, name="dispatching")
                self._thread.start()
            self._changed.notify_all()
        return made

    def finish(self) -> None:
        """Wait for what was asked for; a run that was interrupted gives it up."""
        with self._changed:
            self._finishing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        self._thread = self._pool = None
        self._finishing = False

    def _weight(self, job: Job) -> tuple[float, float]:
        seconds = self._seconds(job)
        return (math.inf if seconds is None else seconds, job.interface.nodes)

    def _need(self, job: Job) -> Need:
        there = {label for node in self._nodes if (label := node.labels.get("sm")) is not None}
        return need_of(job.variant.target, job.builder, sorted(there))

    def _slots(self, need: Need) -> int:
        refused = self._refused(need)
        return sum(need.slots(each) for each in self._nodes if each.id not in refused)

    def _refused(self, need: Need) -> dict[str, str]:
        """The nodes that have these labels and are not what they say, and why."""
        return {id_: why for (id_, of), why in self._refusals.items() if of == str(need)}

    def _loop(self) -> None:
        """All that is asked of the cluster, in one thread."""
        try:
            while True:
                with self._changed:
                    if self._running.why == INTERRUPTED:
                        break
                    if not (self._queued or self._started):
                        if self._finishing:
                            return
                        self._changed.wait(_LOOK_SECONDS)
                        continue
                self._step()
            self._give_up()
        except BaseException as error:  # whoever waits is to have it
            self._break(error)

    def _step(self) -> None:
        self._look(time.monotonic())
        if self._running.why is not None:
            self._drop_queued()
        self._start()
        ended = self._cluster.ended([*self._started], _LOOK_SECONDS) if self._started else {}
        try:
            self._pass_on()  # first: what was told before an answer is told before it
        finally:
            for ticket, answer in ended.items():
                self._ended(ticket, answer)

    def _look(self, now: float) -> None:
        if now - self._looked >= _NODES_SECONDS:
            nodes = self._cluster.nodes()
            with self._changed:
                self._nodes, self._looked = nodes, now
            for ticket, asked in list(self._started.items()):
                # One that waits for a node that is gone would wait for ever, without a word.
                if not self._slots(asked.order.need):
                    self._cluster.cancel(ticket, force=False)

    def _start(self) -> None:
        """As many as the nodes take, the longest first; no more, so that one that comes later and
        is longer goes before the rest."""
        with self._changed:
            queued = sorted(self._queued, key=lambda each: each.weight, reverse=True)
        taken: dict[str, int] = {}
        for each in self._started.values():
            taken[str(each.order.need)] = taken.get(str(each.order.need), 0) + 1
        for asked in queued:
            need, name = asked.order.need, str(asked.order.need)
            slots = self._slots(need)
            if not slots:
                self._unqueue(asked)
                self._answer(asked, Failed(stage="engine", error=self._why_nobody(asked)))
            elif taken.get(name, 0) < slots:
                self._unqueue(asked)
                taken[name] = taken.get(name, 0) + 1
                self._tell(Started(asked.order.label, "waiting for a node"))
                ticket = self._cluster.start(asked.order, besides=[*self._refused(need)])
                self._started[ticket] = asked

    def _why_nobody(self, asked: _Asked[T]) -> str:
        need, target = asked.order.need, asked.order.job.variant.target.name
        return "; ".join(
            [*self._refused(need).values(), why_nobody(need, target), what_there_is(self._nodes)]
        )

    def _unqueue(self, asked: _Asked[T]) -> None:
        with self._changed:
            self._queued.remove(asked)

    def _pass_on(self) -> None:
        """What nodes tell of what still runs: an event may come after the answer."""
        labels = {asked.order.label for asked in self._started.values()}
        for event in self._cluster.events():
            if event.label in labels:
                self._tell(event)

    def _ended(self, ticket: object, answer: Answer | Lost) -> None:
        asked = self._started.pop(ticket)
        label = asked.order.label
        match answer:
            case Refused(node=node, name=name, why=why):
                self._refusals[node, str(asked.order.need)] = f"node '{name}' refuses: {why}"
                self._tell(Noted(label, f"node '{name}' is not what its labels say: {why}"))
            case Lost(why=why):
                asked.lost += 1
                if asked.lost == _MOST_TRIES:
                    message = f"its node was lost {asked.lost} times; the last time: {why}"
                    self._answer(asked, Failed(stage="engine", error=message))
                    return
                self._tell(Noted(label, f"{why}; it is built elsewhere, or again"))
            case _:
                self._answer(asked, answer)
                return
        with self._changed:
            self._looked = -math.inf
            self._queued.append(asked)

    def _answer(self, asked: _Asked[T], answer: Answer) -> None:
        """Have all who wait go on with it."""
        with self._changed:
            del self._asked[asked.order.engine]
            waiting, asked.waiting = asked.waiting, []
            pool = self._pool
        assert pool is not None  # noqa: S101 - there is one while the thread runs
        for index, (then, made) in enumerate(waiting):
            mine = answer
            if index and isinstance(answer, Delivered):
                mine = Delivered(engine=answer.engine, made=False)
            pool.submit(_settle, made, then, mine)

    def _drop_queued(self) -> None:
        """What was not started will not be."""
        with self._changed:
            dropped, self._queued = self._queued, []
        for asked in dropped:
            self._answer(asked, self._stopped())

    def _stopped(self) -> Skipped:
        return Skipped(why=self._running.why or INTERRUPTED)

    def _give_up(self) -> None:
        """End what runs, first so that it cleans up behind itself."""
        self._drop_queued()
        for force in (False, True):
            for ticket in self._started:
                self._cluster.cancel(ticket, force=force)
            end = time.monotonic() + _CANCEL_SECONDS
            while self._started and time.monotonic() < end:
                for ticket in self._cluster.ended([*self._started], _LOOK_SECONDS):
                    self._answer(self._started.pop(ticket), self._stopped())
        for asked in self._started.values():
            self._answer(asked, self._stopped())
        self._started.clear()

    def _break(self, error: BaseException) -> None:
        with self._changed:
            self._broken = error
            left = [*self._asked.values()]
            self._asked.clear()
        for asked in left:
            for _, made in asked.waiting:
                made.set_exception(error)

    def _tell(self, event: Event) -> None:
        self._conditions.observe(event)


def _settle(made: Future[T], then: Callable[[Answer], T], answer: Answer) -> None:
    try:
        made.set_result(then(answer))
    except BaseException as error:  # is that of whoever waits
        made.set_exception(error)
