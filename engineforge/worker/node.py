"""What a node of a cluster does with an order: it looks at itself first, builds from the parcel,
and gives the engine to the store that machines share. Knows nothing of what brought the order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from engineforge import __version__
from engineforge.backends import host
from engineforge.backends.gpu import HostGpu, read_gpus
from engineforge.digest import Digest
from engineforge.errors import EngineForgeError, HostUnfit
from engineforge.store.far.remote import Remote, RemoteCorrupt
from engineforge.store.far.transfer import Progress
from engineforge.store.index import Index
from engineforge.store.local import Entry, LocalStore, Session
from engineforge.store.stats import folder_stats
from engineforge.store.trust import whole
from engineforge.worker.building import Building
from engineforge.worker.chain import Model
from engineforge.worker.conditions import Conditions
from engineforge.worker.entries import Entries, Obtained
from engineforge.worker.importer import Importer
from engineforge.worker.job import StageFailed
from engineforge.worker.order import Answer, Delivered, Order, Refused
from engineforge.worker.outcome import Event, Failed, Moved, Noted, Skipped, Started
from engineforge.worker.parcel import PARCEL, unpacked
from engineforge.worker.running import INTERRUPTED, Halted, Running
from engineforge.worker.sharing import PARTIAL
from engineforge.worker.spare import Spare
from engineforge.worker.stage import Stage

_LOOK_SECONDS = 0.2
_ELSEWHERE = "built elsewhere"
_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What a node reads of its world: its `name`, where its cache is, what children may see, bytes
    of `memory` for them, and its GPUs."""

    name: str
    cache: Path
    environment: Mapping[str, str]
    memory: int | None
    now: Callable[[], datetime]
    gpus: Callable[[], Sequence[HostGpu]]


def visible_gpus(environment: Mapping[str, str]) -> Sequence[HostGpu]:
    """The GPUs that this environment leaves; an EngineForgeError where they cannot be read."""
    with tempfile.TemporaryDirectory() as folder:
        importer = Importer(Path(folder), environment)
        try:
            return read_gpus(importer.ask({"op": "gpus"}, doing="looking at the GPUs")["gpus"])
        finally:
            importer.close()


def carry_out(order: Order, here: Here, tell: Callable[[Event], None]) -> Answer:
    """Build what is ordered, and publish it. KeyboardInterrupt kills the children first."""
    try:
        gpus = _fit(order, here)
    except EngineForgeError as error:
        return Refused(name=here.name, why=str(error))
    running = Running()
    # Whatever ends this reaches the main thread, which must not wait for a child.
    with ThreadPoolExecutor(1, thread_name_prefix="build") as pool:
        done = pool.submit(_answer, order, here, gpus, tell, running)
        try:
            return _result(done)
        except BaseException:
            running.interrupt()
            raise


def _result(done: Future[Answer]) -> Answer:
    while not wait([done], _LOOK_SECONDS).done:
        continue
    return done.result()


def _fit(order: Order, here: Here) -> tuple[HostGpu, ...]:
    """The GPUs that the engine can be built on, if it needs one; HostUnfit where this host is not
    what was ordered."""
    target, builder = order.job.variant.target, order.job.builder
    if order.version != __version__:
        raise HostUnfit(f"it has engineforge {__version__}, and the order is of {order.version}")
    gpus = here.gpus() if order.need.gpu else ()
    why = host.why_not(target, lambda: gpus, builder)
    if why is None and order.need.gpu:
        why = host.why_no_gpu(target, gpus, builder)
    if why is not None:
        raise HostUnfit(why)
    return tuple(host.matching(target, gpus, builder)) if order.need.gpu else ()


def _answer(
    order: Order,
    here: Here,
    gpus: tuple[HostGpu, ...],
    tell: Callable[[Event], None],
    running: Running,
) -> Answer:
    def noted(text: str) -> None:
        tell(Noted(order.label, text))

    try:
        store = LocalStore(here.cache, noted)
        far = Remote.open(order.remote, environment=here.environment, said=noted)
        with store.session() as session:
            work = _Work(
                order=order,
                here=here,
                gpus=gpus,
                far=far,
                store=store,
                session=session,
                index=Index(here.cache),
                tell=tell,
                running=running,
            )
            return work.engine()
    except StageFailed as failure:
        return Failed(stage=failure.stage, error=failure.error, log=failure.log)
    except Halted:
        return Skipped(why=running.why or INTERRUPTED)
    except EngineForgeError as error:
        return Failed(stage="engine", error=f"on {here.name}: {error}")
    except OSError as error:
        what = f"{error.strerror}: '{error.filename or here.cache}'"
        return Failed(stage="store", error=f"on {here.name}: {what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    order: Order
    here: Here
    gpus: tuple[HostGpu, ...]
    far: Remote
    store: LocalStore
    session: Session
    index: Index
    tell: Callable[[Event], None]
    running: Running

    def engine(self) -> Delivered:
        order, here = self.order, self.here
        entries = Entries(self.store, self.session, self.index, here.now, self._elsewhere)
        stage = Stage(
            self.store, self.session, entries, running=self.running, conditions=self._conditions()
        )
        try:
            obtained = stage.found(order.label, "engine", order.engine) or self._built(stage)
        finally:
            if self.index.changed:
                self.index.save(self.store.root / "staging")
        self.far.push(obtained.entry, self._moved("pushing"))
        return Delivered(engine=obtained.entry.manifest.key, made=obtained.why is None)

    def _conditions(self) -> Conditions:
        order, here = self.order, self.here
        return Conditions(
            jobs=1,
            keep_going=False,
            timeout=order.timeout,
            memory=here.memory,
            cold=order.cold,
            environment=here.environment,
            about={**order.about, "host": here.name},
            now=here.now,
            observe=self.tell,
        )

    def _built(self, stage: Stage) -> Obtained:
        order, here = self.order, self.here
        with self.session.staged() as folder:
            job, path = unpacked(self._parcel(stage), order.parcel, order.job, folder)
            job = replace(job, gpus=self.gpus)
            model = Model(path, order.digest, order.external)
            spare = Spare(folder, here.environment)  # nothing to start beforehand: it is known
            return Building(stage, spare).engine(job, model)

    def _parcel(self, stage: Stage) -> Entry:
        key = self.order.parcel.key
        obtained = stage.found(self.order.label, PARCEL, key)
        if obtained is None:
            raise StageFailed(
                "store",
                f"the parcel {key.short} is not in '{self.far.url}', seen from "
                f"{self.here.name}: do all nodes mean the same place by that?",
            )
        return obtained.entry

    def _elsewhere(self, stage: str, key: Digest) -> Obtained | None:
        """An entry of the remote store, as `Overlay.fetch` has it; but what cannot be reached ends
        the order, since the engine could not be given either."""
        manifest = self.far.manifest(stage, key)
        if manifest is None:
            return None
        told = self._moved("fetching")
        told(0, 1)
        with self.session.staged() as staged:
            try:
                self.far.fetch(manifest, staged, self.store.root / PARTIAL, told)
            except RemoteCorrupt:
                return None  # it was said where it was found
            entry, ours = self.store.adopt(staged, manifest)
        if not ours:
            found = whole(self.store, self.index, stage, key)
            return None if found is None else Obtained(found, _ELSEWHERE)
        self.index.know_entry(stage, key.hex, folder_stats(entry.path))
        return Obtained(entry, _ELSEWHERE)

    def _moved(self, phase: str) -> Progress:
        label = self.order.label
        last = -1

        def told(done: int, total: int) -> None:
            nonlocal last
            if self.running.why is not None:
                raise Halted
            if phase == "fetching" and done == 0:
                self.tell(Started(label, phase))
            elif (step := _STEPS * done // max(total, 1)) != last:  # each is a message
                last = step
                self.tell(Moved(label, phase, done, total))

        return told
