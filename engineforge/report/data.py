"""Plans, outcomes and manifests as plain JSON objects: what `--json` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from engineforge.errors import Problem
from engineforge.plan.explain import Change
from engineforge.plan.planner import (
    BuiltElsewhere,
    Changed,
    EntryMissing,
    NeverBuilt,
    Reason,
    SourceUnmade,
    UpToDate,
)
from engineforge.project.plans import Effort, Plan, PlannedVariant
from engineforge.store.local import Entry
from engineforge.worker.outcome import (
    Built,
    Checked,
    Failed,
    Outcome,
    Prepared,
    Ranked,
    Rebuilt,
    Reused,
    Skipped,
    Timed,
)

FORMAT = 1


def problem(found: Problem) -> dict[str, Any]:
    return {
        "file": found.file,
        "line": found.line,
        "column": found.column,
        "path": found.path,
        "message": found.message,
        "hint": found.hint,
    }


def _effort(effort: Effort) -> dict[str, int]:
    return {
        "files_hashed": effort.files_hashed,
        "bytes_hashed": effort.bytes_hashed,
        "specs_parsed": effort.specs_parsed,
    }


def _reason(reason: Reason) -> dict[str, Any]:
    match reason:
        case NeverBuilt():
            return {"kind": "never-built"}
        case EntryMissing(stage=stage, key=key):
            return {"kind": "entry-missing", "stage": stage, "key": key}
        case Changed(changes=changes):
            return {"kind": "changed", "changes": _leaves(changes)}
        case BuiltElsewhere(where=where, changes=changes):
            return {"kind": "built-elsewhere", "where": where, "changes": _leaves(changes)}
        case SourceUnmade(source=source, first=first, changes=changes):
            leaves = _leaves(changes)
            return {"kind": "source-unmade", "source": source, "first": first, "changes": leaves}


def _leaves(changes: Iterable[Change]) -> list[dict[str, object]]:
    return [{"leaf": c.leaf, "before": c.before, "after": c.after} for c in changes]


def named(variant: PlannedVariant) -> dict[str, str]:
    return {"spec": variant.spec, "variant": variant.variant, "target": variant.target}


def planned(variant: PlannedVariant) -> dict[str, Any]:
    base: dict[str, Any] = {**named(variant), "plan": variant.plan}
    if isinstance(variant.state, UpToDate):
        return {**base, "state": "up-to-date", "engine": variant.state.engine}
    return {
        **base,
        "state": "stale",
        "reasons": [_reason(reason) for reason in variant.state.reasons],
        "stages": list(variant.state.stages),
        "unfit": variant.unfit,
        "expected_seconds": variant.seconds,
    }


def plan(made: Plan) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "variants": [planned(variant) for variant in made.variants],
        "problems": [problem(found) for found in made.problems],
        "notes": list(made.notes),
        "effort": _effort(made.effort),
    }


def outcome(found: Outcome) -> dict[str, Any]:
    """What became of one variant."""
    match found:
        case Built(engine=engine, path=path, seconds=seconds):
            return {
                "outcome": "built",
                "engine": engine,
                "path": str(path),
                "seconds": round(seconds, 3),
            }
        case Reused(engine=engine, path=path, why=why):
            return {"outcome": "reused", "engine": engine, "path": str(path), "why": why}
        case Prepared(stage=stage, entry=entry):
            return {"outcome": "prepared", "stage": stage, "entry": entry}
        case Rebuilt(engine=engine, level=level, said=said, seconds=seconds, before=before):
            return {
                "outcome": "rebuilt",
                "engine": engine,
                "level": level,
                "said": said,
                "seconds": round(seconds, 3),
                "seconds_before": round(before, 3),
            }
        case Checked(entry=entry, measured=measured, failures=failures, advice=advice):
            return {
                "outcome": "failed" if failures else "passed",
                "entry": entry,
                "measured": dict(measured),
                "failures": list(failures),
                "advice": list(advice),
            }
        case Timed(entry=entry, measured=measured, than=than, kept=kept, failures=failures):
            return {
                "outcome": "failed" if failures else "passed",
                "entry": entry,
                "measured": dict(measured),
                "than": None if than is None else dict(than),
                "kept": kept,
                "failures": list(failures),
            }
        case Ranked(entry=entry, measured=measured):
            return {"outcome": "ranked", "entry": entry, "measured": dict(measured)}
        case Failed(stage=stage, error=error, log=log):
            return {"outcome": "failed", "stage": stage, "error": error, "log": list(log)}
        case Skipped(why=why, unfit=unfit):
            return {"outcome": "skipped", "why": why, "unfit": unfit}


def build(made: Plan, outcomes: Sequence[Outcome], faults: Iterable[object] = ()) -> dict[str, Any]:
    """What became of a plan's variants: built, checked, or their layers ranked."""
    return {
        "format": FORMAT,
        "variants": [
            {
                **named(variant),
                "plan": variant.plan,
                **outcome(became),
            }
            for variant, became in zip(made.variants, outcomes, strict=True)
        ],
        "problems": [problem(found) for found in made.problems],
        "notes": list(made.notes),
        "faults": [str(fault) for fault in faults],
        "effort": _effort(made.effort),
    }


def entry(found: Entry) -> dict[str, Any]:
    manifest = found.manifest
    return {
        "path": str(found.path),
        "stage": manifest.stage,
        "key": manifest.key,
        "key_document": manifest.key_document,
        "files": {
            name: {"size": file.size, "sha256": file.sha256}
            for name, file in manifest.files.items()
        },
        "record": manifest.record,
    }
