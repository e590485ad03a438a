"""The report as plain JSON: what `engineforge report --json` prints, and the page is made of.
Format 1; fields are only ever added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from engineforge.plan.explain import Change
from engineforge.plan.planner import Stale, UpToDate
from engineforge.project.overview import Found, Known, Overview
from engineforge.project.past import Build
from engineforge.project.plans import PlannedVariant
from engineforge.project.promotion import freshness
from engineforge.project.served import Served
from engineforge.promotion.attest.strict import time_text
from engineforge.promotion.candidate import Fresh, Unknown
from engineforge.promotion.candidate import Stale as Outdated
from engineforge.report import data
from engineforge.report.events import Log
from engineforge.report.latency import held_down
from engineforge.store.local import ENGINE
from engineforge.worker.outcome import Failed

FORMAT = 1
KIND = "engineforge-report"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """`time` is ISO 8601, `project` the name of the folder of the specs; `git` is its commit, empty
    where there is none."""

    time: str
    project: str
    version: str
    git: str = ""


def document(overview: Overview, about: About, log: Log | None) -> dict[str, Any]:
    """All of a project; `log` is what the last run came to, where one was given."""
    served = overview.environments or ()
    return {
        "format": FORMAT,
        "kind": KIND,
        "time": about.time,
        "project": about.project,
        "version": about.version,
        "git": about.git,
        "variants": [_variant(each, served, log) for each in overview.variants],
        "environments": None
        if overview.environments is None
        else [
            {
                "name": each.name,
                "from": each.source,
                "unreachable": each.unreachable,
                "faults": dict(each.faults),
            }
            for each in served
        ],
        "builds": [_build(each) for each in overview.builds],
        "timing_caches": list(_timing_caches(overview.variants)),
        "promotions": _promotions(served),
        "log": None if log is None else {"events": len(log.finished), "cut": log.cut},
        "problems": [data.problem(each) for each in overview.plan.problems],
        "notes": list(overview.plan.notes),
    }


def _variant(known: Known, served: Sequence[Served], log: Log | None) -> dict[str, Any]:
    variant = known.variant
    newest = known.builds[-1] if known.builds else None
    entry = known.engine or (newest.entry if newest else None)
    record: Mapping[str, Any] = entry.manifest.record if entry else {}
    job = variant.job
    precision = job.variant.precision.name if job is not None else record.get("precision")
    return {
        **data.planned(variant),
        "label": variant.label,
        "state": _state(variant),
        "why": [str(each) for each in _reasons(variant)],
        "precision": precision,
        "toolchain": _toolchain(known),
        "last": None
        if entry is None
        else {
            "engine": entry.manifest.key,
            "sha256": entry.manifest.files[ENGINE].sha256,
            "size": entry.manifest.files[ENGINE].size,
            "finished": record.get("finished"),
            "seconds": record.get("seconds"),
            "build_seconds": record.get("build_seconds"),
            "host": record.get("host"),
            "git": record.get("git"),
            "gpu": (record.get("gpu") or {}).get("name"),
            "timing_cache": dict(record.get("timing_cache") or {}),
            "warnings": list(record.get("warnings") or ()),
        },
        "history": _history(known),
        "accuracy": {
            "asked": job is not None and job.variant.accuracy is not None,
            "model": _checked(known.model),
            "engine": _checked(known.accuracy),
        },
        "latency": _latency(known),
        "environments": {
            each.name: found
            for each in served
            if (found := _in_environment(each, variant)) is not None
        },
        "failure": _failure(variant, log),
    }


def _state(variant: PlannedVariant) -> str:
    if isinstance(variant.state, UpToDate):
        return "up-to-date"
    return "unfit" if variant.unfit else "stale"


def _reasons(variant: PlannedVariant) -> Sequence[object]:
    return variant.state.reasons if isinstance(variant.state, Stale) else ()


def _toolchain(known: Known) -> str | None:
    job = known.variant.job
    if job is not None:
        return str(job.variant.target.toolchain)
    if known.engine is None:
        return None
    chain = known.engine.manifest.key_document["recipe"]["toolchain"]
    return f"{chain['backend']} {chain['version']} (CUDA {chain['cuda']})"


def _history(known: Known) -> list[dict[str, Any]]:
    """The last builds, oldest first. What only the index remembers has no time."""
    if known.builds:
        return [
            {"finished": each.finished, "seconds": each.seconds, "size": each.size}
            for each in known.builds
        ]
    return [{"finished": None, "seconds": each, "size": None} for each in known.seconds]


def _checked(found: Found | None) -> dict[str, Any] | None:
    if found is None or found.checked is None:
        return None
    manifest = found.entry.manifest
    gpu = manifest.key_document.get("gpu")
    return {
        "entry": manifest.key,
        "finished": manifest.record.get("finished"),
        "gpu": None if gpu is None else gpu.get("name"),
        "samples": found.measured.get("samples"),
        "outputs": dict(found.measured["outputs"]),
        "passed": not found.checked.failures,
        "failures": list(found.checked.failures),
    }


def _latency(known: Known) -> dict[str, Any] | None:
    if (found := known.latency) is None:
        return None
    manifest, measured = found.entry.manifest, found.measured
    return {
        "entry": manifest.key,
        "finished": manifest.record.get("finished"),
        "gpu": (measured.get("gpu") or {}).get("name"),
        "driver": manifest.key_document.get("driver"),
        "shapes": dict(measured.get("shapes") or {}),
        "median_ms": measured["latency_ms"].get("median"),
        "p99_ms": measured["latency_ms"].get("p99"),
        "throughput_qps": measured.get("throughput_qps"),
        "held_down_by": held_down({"gpu": measured.get("gpu") or {}}),
        "passed": None if found.timed is None else not found.timed.failures,
        "failures": [] if found.timed is None else list(found.timed.failures),
    }


def _in_environment(served: Served, variant: PlannedVariant) -> dict[str, Any] | None:
    state = served.states.get(variant.spec)
    engine = None if state is None else state.engine(variant.variant, variant.target)
    if state is None or engine is None:
        return None
    fresh = freshness(variant, engine)
    return {
        "number": state.number,
        "engine": engine.engine,
        "key": engine.key,
        "since": time_text(engine.since),
        "fresh": None if isinstance(fresh, Unknown) else isinstance(fresh, Fresh),
        "why": fresh.why if isinstance(fresh, Outdated | Unknown) else None,
        "overridden": list(engine.overridden),
    }


def _failure(variant: PlannedVariant, log: Log | None) -> dict[str, Any] | None:
    """What its build failed by, in the last run, or when its model was made just now."""
    if isinstance(variant.settled, Failed):
        return {"time": None, **data.outcome(variant.settled)}
    found = None if log is None else log.finished.get(variant.label)
    if found is None or found.get("outcome") != "failed":
        return None
    return {
        "time": found.get("time"),
        "outcome": "failed",
        "stage": str(found.get("stage") or f"{found.get('check', '')} check".strip()),
        "error": str(found.get("error") or "; ".join(map(str, found.get("failures") or ()))),
        "log": [str(each) for each in found.get("log") or ()],
    }


def _build(build: Build) -> dict[str, Any]:
    return {
        "label": build.label,
        "finished": build.finished,
        "engine": build.engine,
        "seconds": build.seconds,
        "size": build.size,
        "first": build.first,
        "changes": [_leaf(each) for each in build.changes],
        "why": "; ".join(map(str, build.changes)),
        "timing_cache": build.timings.get("state"),
    }


def _leaf(change: Change) -> dict[str, object]:
    return {"leaf": change.leaf, "before": change.before, "after": change.after}


def _timing_caches(variants: Sequence[Known]) -> Iterator[dict[str, Any]]:
    """Of each variant that was built both ways: the medians of its builds that began without
    timings, and of those that began with those of others."""
    for each in variants:
        timed = [build for build in each.builds if build.seconds is not None]
        cold = [build for build in timed if build.began_warm is False]
        warm = [build for build in timed if build.began_warm]
        if not cold or not warm:
            continue
        seconds = [median(b.seconds or 0.0 for b in those) for those in (cold, warm)]
        yield {
            "label": each.variant.label,
            "cold_builds": len(cold),
            "cold_seconds": seconds[0],
            "warm_builds": len(warm),
            "warm_seconds": seconds[1],
            "times_as_fast": round(seconds[0] / seconds[1], 3) if seconds[1] else None,
            "tactics_timed_cold": cold[-1].timings.get("tactics_timed"),
            "tactics_timed_warm": warm[-1].timings.get("tactics_timed"),
        }


def _promotions(served: Sequence[Served]) -> list[dict[str, Any]]:
    """All events of all ledgers, the newest first, with the engines that each changed."""
    found = []
    for environment in served:
        for spec, history in environment.histories.items():
            before: dict[str, str] = {}
            for event, signed_by in history:
                now = {each.name: str(each.engine) for each in event.engines}
                found.append(
                    {
                        "environment": environment.name,
                        "spec": spec,
                        "number": event.number,
                        "action": event.action,
                        "time": time_text(event.time),
                        "by": event.by,
                        "signed_by": sorted(signed_by),
                        "reason": event.reason,
                        "from": None if event.source is None else event.source.environment,
                        "changed": sorted(n for n, e in now.items() if before.get(n) != e),
                        "dropped": sorted(before.keys() - now.keys()),
                        "overridden": sorted({g for e in event.engines for g in e.overridden}),
                    }
                )
                before = now
    return sorted(
        found, key=lambda each: (each["time"], each["environment"], each["spec"]), reverse=True
    )
