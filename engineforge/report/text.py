"""Plans, outcomes and manifests as lines for people: one fact a line, easy to grep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engineforge.plan.planner import BuiltElsewhere, Changed, SourceUnmade, Stale, UpToDate
from engineforge.project.plans import Plan, PlannedVariant
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

_FEW_CHANGES = 2
_SIZES = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def size(count: int) -> str:
    for unit, name in _SIZES:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} B"


def duration(seconds: float) -> str:
    if seconds < 10:  # noqa: PLR2004 - tenths are noise above
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def counted(count: int, noun: str, nouns: str | None = None) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {nouns or noun + 's'}"


def plan_lines(plan: Plan, *, explain: bool) -> Iterator[str]:
    """A line for each variant, and with `explain` one for each leaf that changed."""
    width = max((len(each.label) for each in plan.variants), default=0)
    for variant in plan.variants:
        if isinstance(variant.state, UpToDate):
            yield f"up to date  {variant.label:{width}}  engine {variant.state.engine.short}"
            continue
        what = "unfit host" if variant.unfit else "stale"
        why = "; ".join(_reasons(variant, explain=explain))
        expected = f" (about {duration(variant.seconds)})" if variant.seconds else ""
        runs = " → ".join(variant.state.stages)
        yield f"{what:10}  {variant.label:{width}}  {why}; runs {runs}{expected}"
        if explain:
            yield from _explained(variant)
    for why in dict.fromkeys(each.unfit for each in plan.variants if each.unfit):
        yield f"not here: {why}"


def _reasons(variant: PlannedVariant, *, explain: bool) -> Iterator[str]:
    if not isinstance(variant.state, Stale):
        return
    for reason in variant.state.reasons:
        if isinstance(reason, Changed):
            count = len(reason.changes)
            if explain or count > _FEW_CHANGES:
                yield f"{counted(count, 'thing')} changed"
                continue
        if isinstance(reason, BuiltElsewhere) and reason.changes:
            yield f"never built here; the nearest in {reason.where} differs"
            continue
        if isinstance(reason, SourceUnmade) and reason.changes and not explain:
            yield f"{reason}: {', '.join(map(str, reason.changes))}"
            continue
        yield str(reason)


def _explained(variant: PlannedVariant) -> Iterator[str]:
    if isinstance(variant.state, Stale):
        for reason in variant.state.reasons:
            if isinstance(reason, Changed | BuiltElsewhere | SourceUnmade):
                yield from (f"            {change}" for change in reason.changes)


def plan_summary(plan: Plan) -> str:
    stale = plan.stale
    here = [each for each in stale if each.unfit is None]
    parts = [
        counted(len(plan.variants), "variant"),
        f"{len(plan.variants) - len(stale)} up to date",
    ]
    fetched = [each for each in here if _is_elsewhere(each)]
    here = [each for each in here if each not in fetched]
    if fetched:
        parts.append(f"{len(fetched)} to fetch")
    parts.append(f"{len(here)} to build")
    if unfit := [each for each in stale if each.unfit is not None]:
        parts.append(f"{len(unfit)} that this host cannot build")
    known = [each.seconds for each in here if each.seconds is not None]
    if known:
        unknown = len(here) - len(known)
        beside = f" and {unknown} never timed" if unknown else ""
        parts.append(f"about {duration(sum(known))} of building{beside}")
    return ", ".join(parts)


def _is_elsewhere(variant: PlannedVariant) -> bool:
    reasons = variant.state.reasons if isinstance(variant.state, Stale) else ()
    return any(isinstance(each, BuiltElsewhere) and not each.changes for each in reasons)


def outcome(found: Outcome) -> str:
    match found:
        case Built(seconds=seconds, path=path):
            return f"built in {duration(seconds)}  {path}"
        case Reused(path=path, why="nothing changed"):
            return f"up to date  {path}"
        case Reused(path=path, why=why):
            return f"reused, {why}  {path}"
        case Prepared(stage=stage, entry=entry):
            return f"prepared, {stage} {entry.short}"
        case Rebuilt(level=level, said=said, seconds=seconds, before=before):
            times = f"{duration(seconds)}, before {duration(before)}"
            return f"same {level}: {said} (built in {times})".replace("same none", "NOT the same")
        case Checked(failures=failures):
            return "failed its accuracy check" if failures else "passed its accuracy check"
        case Timed(failures=failures):
            return "failed its latency check" if failures else "passed its latency check"
        case Ranked():
            return "ranked its layers"
        case Failed(stage=stage, error=error):
            return f"failed in stage {stage}: {error}"
        case Skipped(why=why):
            return f"skipped: {why}"


def failure_lines(label: str, failed: Failed) -> Iterator[str]:
    """A failure with the end of its log."""
    yield f"{label}: failed in stage {failed.stage}: {failed.error}"
    if failed.log:
        yield "  the end of its log:"
        yield from (f"  | {line}" for line in failed.log)


def build_summary(outcomes: Sequence[Outcome], problems: int, seconds: float) -> str:
    counts = Counter(type(each).__name__ for each in outcomes)
    parts = [f"{counts['Built']} built", f"{counts['Reused']} reused"]
    parts += [
        f"{counts[name]} {name.lower()}"
        for name in ("Prepared", "Failed", "Skipped")
        if counts[name]
    ]
    if problems:
        parts.append(f"{counted(problems, 'problem')} in specs")
    if set(counts) <= {"Reused"} and not problems:
        verb = "is" if len(outcomes) == 1 else "are"
        return f"nothing to do: {counted(len(outcomes), 'variant')} {verb} up to date"
    return f"{counted(len(outcomes), 'variant')}: {', '.join(parts)} in {duration(seconds)}"


def entry_lines(entry: Entry, label: str | None = None) -> Iterator[str]:
    """What an entry is: what it was built from, how, where and when. `label` is the variant that
    is meant; else the one that it was built for."""
    manifest, record = entry.manifest, entry.manifest.record
    if label is not None:
        yield label
    elif "spec" in record:
        yield f"{record['spec']}/{record['variant']}@{record['target']}"
    yield f"  {manifest.stage:10} {manifest.key}"
    for name, file in manifest.files.items():
        yield f"  file       {entry.file(name)}  {size(file.size)}  {file.sha256}"
    if manifest.stage == "engine":
        yield from _engine_lines(manifest.key_document, record)
    if manifest.stage == "typed":
        yield from _typed_lines(manifest.key_document["recipe"], record)


def _typed_lines(recipe: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    yield f"  precision  {recipe['precision']}" + (f", with {versions}" if versions else "")
    # What is around the quantized layers is worth a line where it is not FP32.
    if recipe["high_precision"] not in (None, "fp32"):
        yield f"  around     {recipe['high_precision']}"
    for name in ("block_size", "sparsity"):
        if recipe[name] is not None:
            yield f"  {name.replace('_', ' '):10} {recipe[name]}"
    for word in ("layers", "quantized", "pruned"):
        if found := record.get(word):
            yield f"  {word:10} {', '.join(f'{count} {what}' for what, count in found.items())}"
    if kept := record.get("kept_fp32"):
        yield f"  kept fp32  {', '.join(kept)}"
    if record.get("not_quantized"):
        yield f"  not quantized  {', '.join(record['not_quantized'])}"


def _gpu_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """On which GPU an engine was built, beside what, with which timings, and whether it loads."""
    if (gpu := record.get("gpu")) is None:
        return
    others = (record.get("gpu_at_start") or {}).get("others")
    beside = f", shared with {counted(len(others), 'other program')}" if others else ""
    yield f"  built on   {gpu['name']} {gpu['uuid']}, driver {gpu['driver']}{beside}"
    timings = record["timing_cache"]
    told = [str(timings["state"])]
    told += [f"{timings['tactics_timed']} tactics timed"] if "tactics_timed" in timings else []
    told += [f"{word}: {timings[word]}" for word in ("set_aside", "rejected") if word in timings]
    yield f"  timings    {', '.join(told)}"
    load = record["load_test"]
    yield f"  load test  {counted(len(load['runs']), 'profile')} run in a fresh process"


def _engine_lines(key: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[str]:
    recipe = key["recipe"]
    chain = recipe["toolchain"]
    precision = f"  precision {record['precision']}" if "precision" in record else ""
    yield f"  model      {record.get('source', '?')}{precision}  graph {key['model']}"
    for word in ("inputs", "outputs"):
        for tensor in record.get(word, ()):
            yield f"  {word[:-1]:10} {tensor}"
    yield f"  toolchain  {chain['backend']} {chain['version']}, CUDA {chain['cuda']}"
    target = recipe["target"]
    gpu = target.get("gpu", {})
    named = [f"{gpu['name']} ({gpu['compute_capability']})"] if "name" in gpu else []
    where = [*target.get("compute_capabilities", ()), *named, target["platform"]]
    yield f"  target     {', '.join(where)}"
    yield from _gpu_lines(record)
    for index, profile in enumerate(recipe["profiles"]):
        for name, given in profile.items():
            for kind, bounds in given.items():
                shown = " ≤ ".join(str(bounds[each]) for each in ("min", "opt", "max"))
                yield f"  profile {index}  {name} {kind} {shown}"
    for name, value in recipe["builder"].items():
        if value is not None:
            yield f"  builder    {name} = {value}"
    host = f"on {record['host']}" if "host" in record else ""
    yield f"  built      {record.get('started', '?')} {host} in {record.get('seconds', '?')} s"
    if "git" in record:
        yield f"  specs at   {record['git']}"
    for warning in record.get("warnings", ()):
        yield f"  warning    {warning}"
