"""What a cache knows of an engine besides how it was built: its checks, as statements are made of
them. Nothing is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any, Literal

from engineforge.digest import Digest
from engineforge.project.last import LastChecks
from engineforge.project.plans import PlannedVariant
from engineforge.promotion.attest.results import TEST_RESULT, Accuracy, Latency, LoadTest, OnGpu
from engineforge.store.local import Entry, LocalStore
from engineforge.store.manifest import Manifest
from engineforge.target import Gpu
from engineforge.worker.latency import LATENCY
from engineforge.worker.measured import CHECKS, ENGINE_CHECKS, last_check
from engineforge.worker.outcome import Checked

Predicate = tuple[str, Mapping[str, Any]]
"""A predicate's type, and the predicate."""


def results(
    store: LocalStore, last: LastChecks, variant: PlannedVariant, engine: Manifest
) -> Iterator[Predicate]:
    """The newest of each kind: the accuracy of the model and of the engine, how fast it is, and
    whether it was loaded when it was built. `last` is of a plan made with `checks`."""
    job = variant.job
    if job is not None and (checked := last_check(store, job)) is not None:
        yield from _accuracy("model", checked, store.get(CHECKS, checked.entry), variant)
    if (checked := last.accuracy(variant)) is not None:
        yield from _accuracy("engine", checked, store.get(ENGINE_CHECKS, checked.entry), variant)
    if (timed := last.latency(variant)) is not None:
        entry, times = store.get(LATENCY, timed.entry), timed.measured["latency_ms"]
        if entry is not None and times.get("median") and times.get("p99"):
            key = entry.manifest.key_document
            found = Latency(
                time=_finished(entry.manifest),
                median_ms=times["median"],
                p99_ms=times["p99"],
                point=key["point"],
                settings=key["settings"],
                on=OnGpu(gpu=key["gpu"], driver=key["driver"]),
            )
            yield TEST_RESULT, found.to_predicate()
            # What was measured was loaded and run, by a process of its own.
            loaded = LoadTest(time=found.time, passed=True, on=found.on)
            yield TEST_RESULT, loaded.to_predicate()
    gpu = engine.record.get("gpu")
    # An engine without its weights was loaded, and not run.
    if gpu is not None and engine.record.get("load_test", {}).get("runs"):
        facts = {each.name: gpu[each.name] for each in fields(Gpu)}
        loaded = LoadTest(
            time=_finished(engine), passed=True, on=OnGpu(gpu=facts, driver=gpu["driver"])
        )
        yield TEST_RESULT, loaded.to_predicate()


def _accuracy(
    of: Literal["model", "engine"], checked: Checked, entry: Entry | None, variant: PlannedVariant
) -> Iterator[Predicate]:
    check = None if variant.job is None else variant.job.variant.accuracy
    if entry is None or check is None:
        return
    key = entry.manifest.key_document
    found = Accuracy(
        of=of,
        time=_finished(entry.manifest),
        data=Digest(key["data"]["files"]),
        samples=key["data"]["samples"],
        source=tuple(map(Digest, key["source"])),
        model=tuple(map(Digest, key.get("typed", ()))),
        measured=checked.measured["outputs"],
        thresholds=check.thresholds,
        failures=checked.failures,
        on=OnGpu(gpu=key["gpu"], driver=key["driver"]) if of == "engine" else None,
    )
    yield TEST_RESULT, found.to_predicate()


def _finished(manifest: Manifest) -> datetime:
    return datetime.fromisoformat(manifest.record["finished"])
