"""`engineforge verify`: every stored file hashed again; with `--rebuild`, engines built again."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from engineforge.cli import world
from engineforge.cli.build import running, with_sources
from engineforge.cli.progress import progress
from engineforge.errors import SpecError, StoreCorrupt, UsageError
from engineforge.project.plans import Plan
from engineforge.report import data, text
from engineforge.store.local import Entry, LocalStore
from engineforge.store.timings import BadTimings, all_timings

_NAME_IT = "name it with --cache"


def run(args: argparse.Namespace) -> int:
    if args.rebuild:
        return _rebuild(args)
    for name in ("jobs", "keep_going", "timeout", "gpus"):
        if getattr(args, name):
            raise UsageError(f"--{name.replace('_', '-')} goes with --rebuild")
    if args.variant or args.target:
        args.paths = args.paths or ["specs"]
    return _hash(args)


def _rebuild(args: argparse.Namespace) -> int:
    """Exit code 1 where an engine that was built once more is not the same in any respect."""
    args.paths = args.paths or ["specs"]
    specs = world.specs(args)
    if not specs.cache.is_dir():
        raise UsageError(f"there is no cache at '{specs.cache}'", hint=_NAME_IT)
    with specs:
        plan = specs.plan(variants=args.variant, targets=args.target, jobs=True)
        if not args.json:
            world.say_notes(plan.notes)
        if plan.problems:
            raise SpecError(plan.problems)
        plan = with_sources(args, plan)
        expected = {each.label: each.seconds for each in plan.variants}
        with progress(sys.stderr, os.environ, expected) as observe:
            results = plan.rebuild(**running(args, observe))
    if args.json:
        world.print_json(data.build(results.plan, results.outcomes, results.faults))
    else:
        width = max((len(each.label) for each in results.plan.variants), default=0)
        for variant, outcome in results:
            print(f"{variant.label:{width}}  {text.outcome(outcome)}")
    return StoreCorrupt.exit_code if results.faults else results.exit_code


def _hash(args: argparse.Namespace) -> int:
    checked = bytes_hashed = 0
    if args.paths:
        specs = world.paths(args)
        with world.project(args, specs) as project:
            store = project.store
            plan = project.plan(specs, world.selection(args))
        if plan.problems:
            raise SpecError(plan.problems)
        entries = list(_of_plans(store, plan))
    else:
        store = LocalStore(world.cache(args, Path("specs")), world.say)
        if not store.root.is_dir():
            raise UsageError(f"there is no cache at '{store.root}'", hint=_NAME_IT)
        entries = list(_all(store))
    for entry in entries:
        if broken := store.broken_files(entry):
            store.quarantine(entry, "; ".join(broken))
        checked += 1
        bytes_hashed += sum(file.size for file in entry.manifest.files.values())
    if args.json:
        world.print_json(
            {
                "entries": checked,
                "bytes_hashed": bytes_hashed,
                "faults": [str(fault) for fault in store.faults],
            }
        )
    else:
        print(f"{checked} entries hashed, {len(store.faults)} corrupt")
    return StoreCorrupt.exit_code if store.faults else 0


def _of_plans(store: LocalStore, plan: Plan) -> Iterator[Entry]:
    """The entries of every stage of the plans, each once; what was not built has none."""
    seen = set()
    for variant in plan.variants:
        record = None if variant.plan is None else store.plan_record(variant.plan)
        for stage, key in record.entries.items() if record else ():
            if key not in seen and (entry := store.get(stage, key)) is not None:
                yield entry
            seen.add(key)


def _all(store: LocalStore) -> Iterator[Entry]:
    for stage in store.stages():
        yield from store.entries(stage)
    for timings in all_timings(store.root):
        try:
            timings.read()
        except BadTimings as error:
            store.quarantine_file(timings.path, f"timing cache '{timings.path}': {error}")
    # Reading the records finds those that are broken.
    for _ in store.plan_records(""):
        continue
