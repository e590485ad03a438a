"""`engineforge show`: what an engine is, by spec, by key, or by the file itself."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engineforge.cli import world
from engineforge.cli.labels import Label, label
from engineforge.errors import SpecError, UsageError
from engineforge.plan.planner import UpToDate
from engineforge.project.checking import last_check
from engineforge.project.finding import by_digits, by_file
from engineforge.project.last import LastChecks
from engineforge.project.plans import PlannedVariant
from engineforge.report import accuracy, data, latency, layers, text
from engineforge.report.promotion import plain
from engineforge.store.local import Entry, LocalStore
from engineforge.worker.chain import CALIBRATION, MODEL


def run(args: argparse.Namespace) -> int:
    path = Path(args.what)
    if path.is_dir() or path.suffix in (".yaml", ".yml"):
        return _show_specs(args, path)
    root = Path(args.specs)
    named = label(args.what)
    if named is not None and not path.is_file():
        if not world.selection(args).all:
            raise UsageError(f"'{args.what}' names one variant", hint="leave out the selectors")
        return _show_specs(args, named.file(root), named)
    store = LocalStore(world.cache(args, root), world.say)
    if path.is_file():
        entries = by_file(store, path)
    elif re.fullmatch(r"(sha256:)?[0-9a-f]+", args.what):
        entries = [by_digits(store, args.what.removeprefix("sha256:"))]
    else:
        raise UsageError(
            f"'{args.what}' is no spec, no variant, no file, and no digits of a key",
            hint="`engineforge plan` prints keys, `engineforge build` where engines are",
        )
    return _print_asked(args, store, [_Shown(entry) for entry in entries])


def _show_specs(args: argparse.Namespace, path: Path, named: Label | None = None) -> int:
    """With a label, that variant alone, which has to be built."""
    selection = world.selection(args) if named is None else named.selection
    shown: list[_Shown] = []
    missing = []
    with world.project(args, [path]) as project:
        plan = project.plan([path], selection, checks=True, data_may_miss=True)
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
        if named is not None and missing and not plan.problems:
            raise named.not_built(path)
        code = _print_asked(args, project.store, shown)
    if world.say_problems(plan.problems):
        return SpecError.exit_code
    for each in missing:
        world.say(f"{each}: stale, see `engineforge plan --explain`")
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


def _print_asked(args: argparse.Namespace, store: LocalStore, shown: list[_Shown]) -> int:
    if args.layers:
        return _print_layers(args, store, shown)
    if args.calibration:
        return _print_calibration(args, [each for s in shown for each in _typed(store, s.entry)])
    return _print(args, shown)


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


def _print_layers(args: argparse.Namespace, store: LocalStore, shown: list[_Shown]) -> int:
    """Of each engine the layers that TensorRT made; what has none says why."""
    from engineforge.project.subjects import Subjects

    subjects = Subjects(store)
    found = [
        subjects.of_entry(each.entry, None if each.variant is None else each.variant.label)
        for each in shown
        if each.entry.manifest.stage == "engine"
    ]
    if args.json:
        world.print_json([layers.layers_data(each) for each in found])
        return 0
    for each in found:
        for line in plain(layers.layer_lines(each)):
            print(line)
    if not found:
        world.say("none of these is an engine")
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
