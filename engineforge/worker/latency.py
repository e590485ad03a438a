"""How fast engines are: measured on a GPU that nobody else uses, each measurement kept as an entry
of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engineforge.backends.gpu import HostGpu
from engineforge.checks import TIMING
from engineforge.digest import Digest, digest_value, document
from engineforge.plan.keys import LatencyKey, plugins_of
from engineforge.store.local import ENGINE, Entry, LocalStore
from engineforge.worker.gpus import Lease
from engineforge.worker.measured import MEASURED, read_measured
from engineforge.worker.outcome import Started
from engineforge.worker.stage import Stage

LATENCY = "latency"
"""The stage whose entries hold measurements of engines."""

_LOG = "bench.log"
_CHILD_BYTES = 2 << 30
_TIMES_ENGINE = 2  # as read from disk, and what TensorRT makes of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be measured, in the words of runtime/latency.py. `profile` None is the one that
    takes `shapes`. `layers` changes nothing of the rest, and is in no key."""

    profile: int | None = 0
    at: str = "opt"
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    warm_up_ms: float = 200
    duration_s: float = 3
    iterations: int = 10
    streams: int = 1
    cuda_graph: bool = False
    transfers: bool = True
    seed: int = 0
    layers: bool = False

    def request(self) -> dict[str, object]:
        """The arguments of `measure`, as JSON can hold them."""
        return {**self._point(), **self._settings(), "layers": self.layers}

    def key(self, engine: Digest, gpu: HostGpu, plugins: tuple[str, ...] = ()) -> LatencyKey:
        """The key of the first such measurement of an engine, by its file, on such a GPU; of
        `plugins` the digests."""
        return LatencyKey(
            measuring=TIMING,
            engine=engine,
            plugins=plugins,
            point=self._point(),
            settings=self._written(),
            gpu=document(gpu.gpu),
            driver=gpu.driver,
            number=0,
        )

    def is_of(self, key: Mapping[str, Any]) -> bool:
        """Whether the document of a key is of such a measurement, whatever engine and GPU."""
        asked = {"measuring": TIMING, "point": self._point(), "settings": self._written()}
        return asked == {name: key[name] for name in asked}

    def _written(self) -> dict[str, object]:
        """The settings as a key has them: a duration of 0.3 is not exact in binary."""
        texts = {name: f"{getattr(self, name):.12g}" for name in ("warm_up_ms", "duration_s")}
        return {**self._settings(), **texts}

    def _point(self) -> dict[str, object]:
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        return {"profile": self.profile, "at": self.at, "shapes": shapes}

    def _settings(self) -> dict[str, object]:
        names = ("warm_up_ms", "duration_s", "iterations", "streams", "cuda_graph", "transfers")
        return {name: getattr(self, name) for name in (*names, "seed")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """An engine in the store that is to be measured, called `label`, and the libraries it needs."""

    label: str
    engine: Entry
    asked: Asked
    plugins: tuple[str, ...] = ()

    @property
    def sha256(self) -> Digest:
        return self.engine.manifest.files[ENGINE].sha256

    def key(self, gpu: HostGpu) -> LatencyKey:
        builder = self.engine.manifest.key_document["recipe"]["builder"]
        return self.asked.key(self.sha256, gpu, plugins_of(builder))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A measurement in the store, the `number`-th of its kind from 0."""

    entry: Entry
    measured: Mapping[str, Any]

    @property
    def number(self) -> int:
        number: int = self.entry.manifest.key_document["number"]
        return number


class Measurements:
    """Which measurements a store has; looked through when first asked, for all threads of a run."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._numbers: dict[Digest, int] | None = None

    def last(self, key: LatencyKey) -> LatencyKey | None:
        """The key of the newest measurement that is alike in all but its number."""
        with self._lock:
            number = self._found().get(digest_value(replace(key, number=0)), -1)
        # Other processes may have measured since.
        while self._is_there(replace(key, number=number + 1)):
            number += 1
        return None if number < 0 else replace(key, number=number)

    def next(self, key: LatencyKey) -> LatencyKey:
        """The key of the one to come."""
        last = self.last(key)
        return replace(key, number=0 if last is None else last.number + 1)

    def _is_there(self, key: LatencyKey) -> bool:
        return self._store.entry_path(LATENCY, digest_value(key)).exists()

    def add(self, key: LatencyKey) -> None:
        with self._lock:
            self._found()[digest_value(replace(key, number=0))] = key.number

    def _found(self) -> dict[Digest, int]:
        if self._numbers is None:
            self._numbers = {}
            for entry in self._store.entries(LATENCY):
                key = entry.manifest.key_document
                alike = digest_value({**key, "number": 0})
                self._numbers[alike] = max(self._numbers.get(alike, 0), key["number"])
        return self._numbers


def _lease(kept: Kept) -> tuple[object, object]:
    gpu = kept.entry.manifest.record["gpu"]
    return gpu["uuid"], gpu["leased"][0]


class Timing:
    """Measures engines, for all threads of a run; StageFailed says what failed."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._measurements = Measurements(stage.store)

    def measured(
        self,
        subjects: Sequence[Subject],
        gpus: Sequence[HostGpu],
        waiting: Callable[[str], None],
        *,
        again: bool,
    ) -> tuple[list[Kept], bool]:
        """A measurement of each, on one of these GPUs, and whether they were all made before.

        Unless all are there for one kind of GPU, or with `again`, all are made now, one after the
        other under one lease: what is compared was measured under equal conditions. `waiting` is
        told who has the GPU.
        """
        if not again and (kept := self._kept(subjects, gpus)):
            return kept, True
        with self._stage.gpus.lease(gpus, waiting) as lease:
            # Another process may have had the GPU for just this.
            if not again and (kept := self._kept(subjects, gpus)):
                return kept, True
            return [self._measure(each, lease) for each in subjects], False

    def _kept(self, subjects: Sequence[Subject], gpus: Sequence[HostGpu]) -> list[Kept]:
        """Of all of them on one kind of GPU, or of none."""
        for gpu in gpus:
            found = [self._last(each.key(gpu)) for each in subjects]
            kept = [each for each in found if each is not None]
            # One lease has one GPU, and one begin.
            leases = {json.dumps(_lease(each), sort_keys=True) for each in kept}
            if len(kept) == len(subjects) and len(leases) == 1:
                return kept
        return []

    def _last(self, key: LatencyKey) -> Kept | None:
        last = self._measurements.last(key)
        entry = None if last is None else self._stage.there(LATENCY, digest_value(last))
        return None if entry is None else Kept(entry=entry, measured=read_measured(entry))

    def _measure(self, subject: Subject, lease: Lease) -> Kept:
        stage = self._stage
        stage.running.go_on()
        stage.tell(Started(subject.label, "measuring"))
        with stage.session.staged() as staged, stage.session.staged() as scratch:
            request = {
                "op": "bench",
                "engine": subject.engine.path,
                "sha256": subject.sha256,
                "plugins": [*subject.plugins],
                "measure": subject.asked.request(),
            }
            size = subject.engine.manifest.files[ENGINE].size
            started = stage.conditions.now()
            measured = stage.ask_about(
                f"{LATENCY} {subject.label}",
                LATENCY,
                request,
                scratch / _LOG,
                memory=_CHILD_BYTES + _TIMES_ENGINE * size,
                lease=lease,
            )
            text = json.dumps(measured, indent=1, allow_nan=False)
            (staged / MEASURED).write_text(text + "\n", encoding="utf-8")
            about = {
                "label": subject.label,
                "engine": subject.engine.manifest.key,
                "started": started.isoformat(timespec="seconds"),
                "gpu": lease.record(stage.conditions.now()),
            }
            key = subject.key(lease.gpu)
            since = started.isoformat(timespec="seconds")
            # Which number is free is for one process at a time to say.
            with stage.session.building(LATENCY, digest_value(key), since, self._go_on):
                key = self._measurements.next(key)
                entry, _ = stage.store.publish(
                    staged,
                    stage=LATENCY,
                    key_document=document(key),
                    digests={},
                    record=stage.record(about),
                )
            self._measurements.add(key)
        return Kept(entry=entry, measured=measured)

    def _go_on(self, _: str) -> None:
        self._stage.running.go_on()
