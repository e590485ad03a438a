"""Measurements in the store: under which key, what they say, and whether that is enough."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engineforge.backends.gpu import HostGpu
from engineforge.checks import MEASURING, VERSIONS
from engineforge.checks.thresholds import failures, order_failures
from engineforge.digest import Digest, digest_value, document
from engineforge.plan.keys import CheckKey, EngineCheckKey, plugins_of
from engineforge.store.local import ENGINE, Entry, LocalStore
from engineforge.worker.chain import MODEL, typed_model
from engineforge.worker.job import Job
from engineforge.worker.outcome import Checked

CHECKS, SENSITIVITY, ENGINE_CHECKS = "checks", "sensitivity", "engine-checks"
"""The stages whose entries hold measurements of models, and of engines against models."""

MEASURED = "measured.json"


def check_key(job: Job, source: tuple[Digest, ...], typed: tuple[Digest, ...]) -> CheckKey:
    """The key of a job's measurements, for its models as they really are."""
    check = job.variant.accuracy
    if check is None or job.check is None:
        raise RuntimeError("a variant without an accuracy check cannot be measured")
    return CheckKey(
        measuring=MEASURING,
        versions=VERSIONS,
        source=source,
        typed=typed,
        data=job.check,
        labels=check.labels,
        class_axis=check.class_axis,
    )


def engine_check_key(
    job: Job, source: tuple[Digest, ...], engine: Entry, gpu: HostGpu, onnxruntime: str
) -> EngineCheckKey:
    """The key of the accuracy of an engine on such a GPU, its source run by this ONNX Runtime."""
    check = job.variant.accuracy
    if check is None or job.check is None:
        raise RuntimeError("a variant without an accuracy check cannot be measured")
    return EngineCheckKey(
        measuring=MEASURING,
        versions={"onnxruntime": onnxruntime},
        engine=engine.manifest.files[ENGINE].sha256,
        plugins=plugins_of(engine.manifest.key_document["recipe"]["builder"]),
        source=source,
        data=job.check,
        labels=check.labels,
        class_axis=check.class_axis,
        gpu=document(gpu.gpu),
        driver=gpu.driver,
    )


def read_measured(entry: Entry) -> Mapping[str, Any]:
    measured: Mapping[str, Any] = json.loads(entry.file(MEASURED).read_text(encoding="utf-8"))
    return measured


def judged(job: Job, entry: Entry) -> Checked:
    """The measurements against what the job's spec asks today."""
    measured, check = read_measured(entry), job.variant.accuracy
    failed = failures(measured, check.thresholds if check else {}) + order_failures(measured)
    return Checked(entry=entry.manifest.key, measured=measured, failures=tuple(failed))


def last_check(store: LocalStore, job: Job) -> Checked | None:
    """What a job's accuracy check came to; None where it has not been run on these very models."""
    imported = store.get("onnx", digest_value(job.key.onnx))
    if imported is None or job.check is None:
        return None
    model = imported.manifest.files[MODEL].sha256
    source = typed = (model, *job.key.external)
    if (asked := job.key.typed_key(model)) is not None:
        converted = store.get("typed", digest_value(asked))
        if converted is None:
            return None
        typed = typed_model(converted).digests
    entry = store.get(CHECKS, digest_value(check_key(job, source, typed)))
    return None if entry is None else judged(job, entry)
