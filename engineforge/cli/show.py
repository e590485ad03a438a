"""`engineforge show`: what an engine is, by spec, by key, or by the file itself."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engineforge.cli import world
from engineforge.digest import digest_file
from engineforge.errors import EngineForgeError, SpecError, UsageError
from engineforge.plan.planner import UpToDate
from engineforge.project.checking import last_check
from engineforge.project.last import LastChecks
from engineforge.project.plans import PlannedVariant
from engineforge.promotion.placing import manifest_of
from engineforge.report import accuracy, data, latency, text
from engineforge.store.local import Entry, LocalStore
from engineforge.store.manifest import BadManifest, Manifest
from engineforge.worker.chain import CALIBRATION, MODEL

_FEWEST_DIGITS = 4


def run(args: argparse.Namespace) -> int:
    path = Path(args.what)
    if path.is_dir() or path.suffix in (".yaml", ".yml"):
        return _show_specs(args, path)
    root = Path("specs")
    store = LocalStore(world.cache(args, root), world.say)
    if path.is_file():
        entries = list(_by_file(store, path)) or list(_beside(path))
        if not entries:
            raise EngineForgeError(
                f"'{path}' ({digest_file(path)}) is no file of this cache",
                hint=f"looked in '{store.root}'; name another cache with --cache",
            )
    elif re.fullmatch(r"(sha256:)?[0-9a-f]+", args.what):
        entries = _by_digits(store, args.what.removeprefix("sha256:"))
    else:
        raise UsageError(f"'{args.what}' is no spec, no file, and no digits of a key")
    if args.calibration:
        return _print_calibration(args, [each for e in entries for each in _typed(store, e)])
    return _print(args, [_Shown(entry) for entry in entries])


def _show_specs(args: argparse.Namespace, path: Path) -> int:
    shown: list[_Shown] = []
    missing = []
    with world.project(args, [path]) as project:
        plan = project.plan([path], world.selection(args), checks=True, data_may_miss=True)
        world.say_notes(plan.notes)
        last = LastChecks(plan, project.store)
        for variant in plan.variants:
            entry = None
            if isinstance(variant.state, UpToDate):
                entry = project.store.get("engine", variant.state.engine)
            if entry is None:
                missing.append(variant.label)
                continue
            verdict = None
            if variant.job is not None and variant.job.variant.accuracy is not None:
                data_found = variant.job.check is not None
                checked = last_check(project, variant) if data_found else None
                verdict = accuracy.verdict(checked, data=data_found)
            shown.append(_Shown(entry, variant, verdict, _on_gpu(last, variant)))
        if args.calibration:
            entries = [each for one in shown for each in _typed(project.store, one.entry)]
            code = _print_calibration(args, entries)
        else:
            code = _print(args, shown)
    if world.say_problems(plan.problems):
        return SpecError.exit_code
    for label in missing:
        world.say(f"{label}: stale, see `engineforge plan --explain`")
    return code


@dataclass(frozen=True, slots=True)
class _Shown:
    """An entry, the variant that it was found for, and what that one's checks came to: variants
    with different checks may share an engine."""

    entry: Entry
    variant: PlannedVariant | None = None
    verdict: str | None = None
    on_gpu: Mapping[str, str] = field(default_factory=dict)
    """The same of its engine on a GPU: its accuracy (`on gpu`) and its `latency`."""


def _on_gpu(last: LastChecks, variant: PlannedVariant) -> dict[str, str]:
    found = {}
    if (checked := last.accuracy(variant)) is not None:
        found["on gpu"] = accuracy.verdict(checked, data=True)
    if variant.job is not None and variant.job.variant.latency is not None:
        found["latency"] = latency.verdict(last.latency(variant))
    return found


def _print(args: argparse.Namespace, shown: list[_Shown]) -> int:
    if args.json:
        world.print_json(
            [
                {
                    **({} if each.variant is None else data.named(each.variant)),
                    **data.entry(each.entry),
                    "checks": each.verdict,
                    "engine_checks": each.on_gpu.get("on gpu"),
                    "latency": each.on_gpu.get("latency"),
                }
                for each in shown
            ]
        )
        return 0
    for each in shown:
        for line in text.entry_lines(each.entry, each.variant.label if each.variant else None):
            print(line)
        if each.verdict is not None:
            print(f"  checks     {each.verdict}")
        for name, verdict in each.on_gpu.items():
            print(f"  {name:10} {verdict}")
    return 0


def _typed(store: LocalStore, entry: Entry) -> Iterator[Entry]:
    """The converted models that an entry was built from, or is."""
    if entry.manifest.stage == "typed":
        yield entry
    if entry.manifest.stage == "engine":
        model = entry.manifest.key_document["model"]
        for each in store.entries("typed"):
            if each.manifest.files[MODEL].sha256 == model:
                yield each


def _print_calibration(args: argparse.Namespace, entries: list[Entry]) -> int:
    """The ranges that converted models are quantized by, each once."""
    found = {
        str(each.path): json.loads(each.file(CALIBRATION).read_text(encoding="utf-8"))
        for each in entries
        if CALIBRATION in each.manifest.files
    }
    if args.json:
        world.print_json(found)
        return 0
    for path, calibration in found.items():
        for line in accuracy.calibration_lines(path, calibration):
            print(line)
    if not found:
        world.say("none of these was calibrated")
    return 0


def _by_file(store: LocalStore, path: Path) -> Iterator[Entry]:
    """The entries that hold this very file, by its digest; its name says nothing."""
    size, digest = path.stat().st_size, None
    for stage in store.stages():
        for entry in store.entries(stage):
            for file in entry.manifest.files.values():
                if file.size == size:
                    digest = digest or digest_file(path)
                    if file.sha256 == digest:
                        yield entry
                        break


def _beside(path: Path) -> Iterator[Entry]:
    """A file that was pulled, by the manifest that lies with it; nothing where that is of another
    file."""
    try:
        manifest = Manifest.from_bytes(manifest_of(path).read_bytes())
    except (OSError, BadManifest):
        return
    if digest_file(path) in {each.sha256 for each in manifest.files.values()}:
        yield Entry(path.parent, manifest, (0, 0, 0))


def _by_digits(store: LocalStore, digits: str) -> list[Entry]:
    """The entry whose key, plan key or engine digest begins so; UsageError if not exactly one."""
    if len(digits) < _FEWEST_DIGITS:
        raise UsageError(f"expected at least {_FEWEST_DIGITS} digits of a key, found '{digits}'")
    plans = {record.entries.get("engine") for record in store.plan_records(digits)}
    found = [
        entry
        for stage in store.stages()
        for entry in store.entries(stage)
        if entry.manifest.key in plans
        or entry.manifest.key.hex.startswith(digits)
        or any(file.sha256.hex.startswith(digits) for file in entry.manifest.files.values())
    ]
    if not found:
        raise UsageError(f"nothing in '{store.root}' has a key or file that begins '{digits}'")
    if len(found) > 1:
        names = ", ".join(entry.manifest.key.hex[:16] for entry in found[:5])
        raise UsageError(f"{len(found)} entries match '{digits}'", hint=f"such as {names}")
    return found
