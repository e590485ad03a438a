"""`engineforge cache`: what is in a cache, and what it is to keep."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engineforge.cli import world
from engineforge.errors import EngineForgeError, SpecError, UsageError
from engineforge.project.plans import Selection
from engineforge.project.roots import about
from engineforge.report.text import size
from engineforge.store import gc
from engineforge.store.local import LocalStore
from engineforge.store.pins import Pin, Pins
from engineforge.store.timings import all_timings


def run(args: argparse.Namespace) -> int:
    commands: Mapping[str, Callable[[argparse.Namespace], int]] = {
        "stats": _stats,
        "pin": _pin,
        "unpin": _unpin,
    }
    return commands[args.action](args)


def _stats(args: argparse.Namespace) -> int:
    found = stats(_store(args))
    if args.json:
        world.print_json(found)
        return 0
    for line in _lines(found):
        print(line)
    return 0


def stats(store: LocalStore) -> dict[str, Any]:
    """What a store holds; sizes are in bytes. Reads every manifest."""
    seen = gc.survey(store, about)
    stages: dict[str, dict[str, int]] = {}
    engines: Counter[str] = Counter()
    for ref, entry in sorted(seen.entries.items()):
        stage = stages.setdefault(ref.stage, {"entries": 0, "bytes": 0})
        stage["entries"] += 1
        stage["bytes"] += entry.size
        if ref.stage == "engine":
            engines[entry.label] += 1
    others = {
        name: {"count": _count(store.root / name, depth), "bytes": gc.size_of(store.root / name)}
        for name, depth in (("trash", "*/*"), ("quarantine", "*"), ("staging", "*.lock"))
        if (store.root / name).is_dir()
    }
    timings = [each.path for each in all_timings(store.root)]
    system = store.file_system
    return {
        "format": 1,
        "cache": str(store.root),
        "file_system": {"kind": system.kind, "locks": system.locks},
        "stages": stages,
        "records": len(seen.records),
        "engines": dict(sorted(engines.items())),
        "pins": [
            {"label": pin.label, "plan": pin.plan, "since": pin.since} for pin in Pins(store).all()
        ],
        "timings": {"count": len(timings), "bytes": sum(map(gc.size_of, timings))},
        **others,
    }


def _count(folder: Path, pattern: str) -> int:
    return sum(1 for _ in folder.glob(pattern))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    system = found["file_system"]
    yield f"cache       {found['cache']} ({system['kind']}, locks {system['locks']})"
    for name, stage in found["stages"].items():
        yield f"{name:14}  {stage['entries']:6}  {size(stage['bytes']):>10}"
    yield f"{'plan records':14}  {found['records']:6}"
    for name, what in (
        ("timings", "timing caches"),
        ("trash", "trash"),
        ("quarantine", "quarantine"),
        ("staging", "sessions"),
    ):
        if name in found:
            each = found[name]
            yield f"{what:14}  {each['count']:6}  {size(each['bytes']):>10}"
    for label, count in found["engines"].items():
        yield f"engines of {label or '(no variant)'}: {count}"
    for pin in found["pins"]:
        yield f"pinned {pin['label']} since {pin['since']}"


def _pin(args: argparse.Namespace) -> int:
    specs = [Path(args.specs)]
    with world.project(args, specs) as project:
        plan = project.plan(specs, Selection())
        plans = {each.label: each.plan for each in plan.variants}
        for label in args.labels:
            if label not in plans:
                if plan.problems:
                    raise SpecError(plan.problems)
                raise _unknown(label, plans)
        with project.store.session() as session:
            since = world.now().isoformat(timespec="seconds")
            for label in args.labels:
                pins, key = Pins(project.store), plans[label]
                pinned = key is not None and pins.add(
                    Pin(label=label, plan=key, since=since), session
                )
                if not pinned:
                    raise EngineForgeError(
                        f"{label} is not built, or not up to date: there is nothing to hold",
                        hint="`engineforge build` builds it, `engineforge plan --explain` says why",
                    )
    _say_pins(args, project.store)
    return 0


def _unpin(args: argparse.Namespace) -> int:
    store = _store(args)
    pins = Pins(store)
    labels = {pin.label: pin for pin in pins.all()}
    for label in args.labels:
        if label not in labels:
            raise _unknown(label, labels)
    for label in args.labels:
        pins.remove(label)
    _say_pins(args, store)
    return 0


def _unknown(label: str, labels: Mapping[str, object]) -> UsageError:
    from engineforge.spec.validate import did_you_mean

    return UsageError(f"there is no '{label}'", hint=did_you_mean(label, labels))


def _say_pins(args: argparse.Namespace, store: LocalStore) -> None:
    pins = Pins(store).all()
    if args.json:
        world.print_json([{"label": p.label, "plan": p.plan, "since": p.since} for p in pins])
        return
    for pin in pins:
        print(f"pinned {pin.label} since {pin.since}")


def _store(args: argparse.Namespace) -> LocalStore:
    store = LocalStore(world.cache(args, Path("specs")), world.say)
    if not store.root.is_dir():
        raise UsageError(f"there is no cache at '{store.root}'", hint="name it with --cache")
    return store
