"""`engineforge verify`: every stored file hashed again."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from engineforge.cli import world
from engineforge.errors import StoreCorrupt
from engineforge.plan.planner import UpToDate
from engineforge.project.plans import Selection
from engineforge.store.local import Entry, LocalStore


def run(args: argparse.Namespace) -> int:
    checked = bytes_hashed = 0
    if args.paths:
        specs = world.paths(args)
        with world.project(args, specs) as project:
            store = project.store
            plan = project.plan(specs, Selection())
        states = [each.state for each in plan.variants]
        keys = {state.engine for state in states if isinstance(state, UpToDate)}
        entries = [entry for key in sorted(keys) if (entry := store.get("engine", key))]
    else:
        store = LocalStore(world.cache(args, Path("specs")), world.say)
        entries = list(_all(store))
    for entry in entries:
        if broken := store.broken_files(entry):
            store.quarantine(entry.manifest.stage, entry.manifest.key, "; ".join(broken))
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


def _all(store: LocalStore) -> Iterator[Entry]:
    for stage in store.stages():
        yield from store.entries(stage)
    # Reading the records finds those that are broken.
    for _ in store.plan_records(""):
        continue
