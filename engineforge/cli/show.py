"""`engineforge show`: what an engine is, by spec, by key, or by the file itself."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from engineforge.cli import world
from engineforge.digest import digest_file
from engineforge.errors import EngineForgeError, SpecError, UsageError
from engineforge.plan.planner import UpToDate
from engineforge.report import data, text
from engineforge.store.local import Entry, LocalStore

_FEWEST_DIGITS = 4


def run(args: argparse.Namespace) -> int:
    path = Path(args.what)
    if path.is_dir() or path.suffix in (".yaml", ".yml"):
        return _show_specs(args, path)
    root = Path("specs")
    store = LocalStore(world.cache(args, root), world.say)
    if path.is_file():
        entries = list(_by_file(store, path))
        if not entries:
            raise EngineForgeError(
                f"'{path}' ({digest_file(path)}) is no file of this cache",
                hint=f"looked in '{store.root}'; name another cache with --cache",
            )
    elif re.fullmatch(r"(sha256:)?[0-9a-f]+", args.what):
        entries = _by_digits(store, args.what.removeprefix("sha256:"))
    else:
        raise UsageError(f"'{args.what}' is no spec, no file, and no digits of a key")
    return _print(args, entries)


def _show_specs(args: argparse.Namespace, path: Path) -> int:
    entries, missing = [], []
    with world.project(args, [path]) as project:
        plan = project.plan([path], world.selection(args))
        for variant in plan.variants:
            entry = None
            if isinstance(variant.state, UpToDate):
                entry = project.store.get("engine", variant.state.engine)
            if entry is None:
                missing.append(variant.label)
            else:
                entries.append(entry)
    code = _print(args, entries)
    if world.say_problems(plan.problems):
        return SpecError.exit_code
    for label in missing:
        world.say(f"{label}: stale, see `engineforge plan --explain`")
    return code


def _print(args: argparse.Namespace, entries: list[Entry]) -> int:
    if args.json:
        world.print_json([data.entry(entry) for entry in entries])
    else:
        for entry in entries:
            for line in text.entry_lines(entry):
                print(line)
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
