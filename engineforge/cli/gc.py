"""`engineforge gc`: takes away what no spec, pin or running process holds."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engineforge.cli import world
from engineforge.errors import SpecError, UsageError
from engineforge.project.folder import TARGETS, find_root, spec_files
from engineforge.project.project import Project
from engineforge.project.roots import about, all_given, spec_roots
from engineforge.report.text import counted, size
from engineforge.store import gc
from engineforge.store.local import LocalStore
from engineforge.store.pins import Pins
from engineforge.store.projects import Projects, Registered
from engineforge.store.uses import TRASH, Living, Ref

_SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_POWERS = ("", "k", "m", "g", "t")


def run(args: argparse.Namespace) -> int:
    done = collected(args)
    if args.json:
        world.print_json(_as_json(args, policy(args), done))
    else:
        _print(args, policy(args), done)
    return 0


def collected(args: argparse.Namespace) -> Done:
    """Take away what nothing holds, as the options say; or only find it."""
    grace = _seconds("--grace", args.grace)
    given = _given(args)
    cache = _one_cache(args, given)
    if not cache.is_dir():
        raise UsageError(f"there is no cache at '{cache}'", hint="name it with --cache")
    store = LocalStore(cache, world.say)
    with contextlib.ExitStack() as stack:
        # It lives before anything is looked at: what is used from now on is not taken.
        session = None if args.dry_run else stack.enter_context(store.session())
        if session is not None and store.file_system.locks != "reliable":
            world.say(
                f"note: on '{store.file_system.kind}', locks may not hold between hosts: "
                "run this while none of the others builds"
            )
        roots = [
            gc.Root(by=f"pin of {pin.label}, since {pin.since}", plan=pin.plan)
            for pin in Pins(store).all()
        ]
        for root, paths in given.items():
            if not args.partial:
                all_given(root, paths)
            roots += _held_by(args, cache, root, paths)
        for sharing in _sharing(args, cache, given):
            roots += _held_by_another(args, cache, sharing)
        now = world.now().timestamp()
        reliable = store.file_system.locks == "reliable"
        living = Living(cache, reliable=reliable, now=session.began if session else now)
        seen = gc.survey(store, about)
        decision = gc.decide(seen, roots, policy(args), living, now)
        if session is None:
            spared = {}
            purged = [
                (path, gc.size_of(path))
                for path, since in gc.in_trash(store)
                if gc.is_due(since, now, grace)
            ]
        else:
            moved = gc.collect(store, seen, decision, living)
            spared = {ref: why for ref, why in moved if why is not None}
            purged = list(gc.purge(store, session, now, grace))
    names = {path.relative_to(cache / TRASH).as_posix(): count for path, count in purged}
    return Done(seen, decision, spared, names)


@dataclass(frozen=True, slots=True)
class Done:
    """`spared` came to be used meanwhile; `purged` are bytes, by path in the trash."""

    seen: gc.Survey
    decision: gc.Decision
    spared: Mapping[Ref, str]
    purged: Mapping[str, int]

    @property
    def gone(self) -> list[Ref]:
        return [ref for ref in self.decision.gone if ref not in self.spared]

    @property
    def stays(self) -> int:
        """Bytes of all entries that are left."""
        return _total(self.seen, self.seen.entries) - _total(self.seen, self.gone)


def _given(args: argparse.Namespace) -> dict[Path, list[Path]]:
    """The folders of specs that are meant, each with what was given of it."""
    found: dict[Path, list[Path]] = {}
    by_place: dict[Path, Path] = {}
    for path in world.paths(args):
        root = find_root([path])
        root = by_place.setdefault(root.resolve(), root)
        found.setdefault(root, []).append(path)
    return found


def _held_by(
    args: argparse.Namespace, cache: Path, root: Path, paths: Sequence[Path]
) -> list[gc.Root]:
    with Project(root, cache, world.environment(args), said=world.say) as project:
        return list(spec_roots(project, paths))


def _sharing(args: argparse.Namespace, cache: Path, given: Iterable[Path]) -> Iterator[Registered]:
    """The other projects that build into this cache, less those that are to be forgotten."""
    registered = Projects(cache)
    there = {each.path: each for each in registered.all()}
    for path in map(Path, args.forget):
        if there.pop(Path(os.path.abspath(path)), None) is None:  # noqa: PTH100 - links stay
            known = ", ".join(f"'{each}'" for each in there) or "none"
            raise UsageError(f"--forget: no project at '{path}'", hint=f"those known are {known}")
        if not args.dry_run:
            registered.forget(path)
    meant = {root.resolve() for root in given}
    for each in there.values():
        if (real := each.path.resolve()) not in meant:
            meant.add(real)
            yield each


def _held_by_another(
    args: argparse.Namespace, cache: Path, sharing: Registered
) -> Iterator[gc.Root]:
    """What its specs hold now, or held when they were last built, if they are not there."""
    path = sharing.path
    try:
        # Looked for here, as planning takes what is missing for no specs at all.
        (path / TARGETS).read_bytes()
        spec_files([path])
    except (OSError, UsageError):
        world.say(
            f"note: '{path}', which built into this cache, is gone or cannot be read: what it last "
            f"needed is kept; --forget '{path}' lets it go"
        )
        for label, plan in sharing.plans.items():
            yield gc.Root(by=f"last plan of {label} of '{path}', which is gone", plan=plan)
        return
    try:
        yield from _held_by(args, cache, path, [path])
    except SpecError:
        world.say(
            f"'{path}' builds into this cache, too, and has problems: what it needs is not known; "
            f"mend them, or leave it out with --forget '{path}'"
        )
        raise


def _one_cache(args: argparse.Namespace, roots: Mapping[Path, Sequence[Path]]) -> Path:
    caches = {(cache := world.cache(args, root)).resolve(): cache for root in roots}
    if len(caches) > 1:
        raise UsageError(
            "these specs have different caches: " + ", ".join(f"'{each}'" for each in caches),
            hint="collect one after the other, or name the cache that they share with --cache",
        )
    return next(iter(caches.values()))


def policy(args: argparse.Namespace) -> gc.Policy:
    """What the options say; UsageError where that is no time, or no size."""
    _seconds("--grace", args.grace)
    return gc.Policy(
        keep_last=args.keep_last,
        older_than=None if args.older_than is None else _seconds("--older-than", args.older_than),
        max_size=None if args.max_size is None else _bytes("--max-size", args.max_size),
    )


def _seconds(option: str, text: str) -> float:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(s|min|h|d|w)", text.lower())
    if found is None and text != "0":
        raise UsageError(f"{option}: '{text}' is no time", hint="such as 90min, 12h, 30d or 2w")
    return 0.0 if found is None else float(found[1]) * _SECONDS[found[2]]


def _bytes(option: str, text: str) -> int:
    found = re.fullmatch(r"(\d{1,18}(?:\.\d{1,9})?)\s*([kmgt]?)(i?)b", text.lower())
    if found is None and text != "0":
        raise UsageError(f"{option}: '{text}' is no size", hint="such as 500MiB, 50GiB or 50GB")
    if found is None:
        return 0
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _POWERS.index(found[2]))


def _total(seen: gc.Survey, refs: Iterable[Ref]) -> int:
    return sum(seen.entries[ref].size for ref in refs)


def _as_json(args: argparse.Namespace, asked: gc.Policy, done: Done) -> dict[str, Any]:
    def described(ref: Ref) -> dict[str, Any]:
        found = done.seen.entries[ref]
        return {
            "stage": ref.stage,
            "key": ref.key,
            "label": found.label,
            "bytes": found.size,
            "last_used": found.used,
        }

    decision = done.decision
    return {
        "format": 1,
        "dry_run": args.dry_run,
        "removed": [{**described(ref), "why": decision.gone[ref]} for ref in done.gone],
        "kept": [
            *({**described(ref), "by": list(by)} for ref, by in sorted(decision.held.items())),
            *({**described(ref), "by": []} for ref in sorted(decision.left)),
            *({**described(ref), "by": [why]} for ref, why in sorted(done.spared.items())),
        ],
        "purged": [{"path": name, "bytes": count} for name, count in done.purged.items()],
        "bytes": {
            "removed": _total(done.seen, done.gone),
            "kept": done.stays,
            "held": _total(done.seen, decision.held),
            "purged": sum(done.purged.values()),
        },
        "exceeds_max_size": asked.max_size is not None and done.stays > asked.max_size,
    }


def summary(args: argparse.Namespace, done: Done) -> str:
    count, would = len(done.gone), "would be " if args.dry_run else ""
    return (
        f"{counted(count, 'entry', 'entries')} ({size(_total(done.seen, done.gone))}) "
        f"{would}moved to the trash; {len(done.purged)} ({size(sum(done.purged.values()))}) "
        f"{would}removed from it for good; {len(done.seen.entries) - count} kept "
        f"({size(done.stays)})"
    )


def _print(args: argparse.Namespace, asked: gc.Policy, done: Done) -> None:
    def line(what: str, ref: Ref, why: str) -> str:
        found = done.seen.entries[ref]
        name = f"{ref.stage} {ref.key.short}"
        return f"{what}  {name:26}  {size(found.size):>10}  {found.label}: {why}"

    decision = done.decision
    for ref in done.gone:
        print(line("goes" if args.dry_run else "gone", ref, decision.gone[ref]))
    kept = dict(done.spared)
    if args.dry_run:
        kept |= decision.left
        kept |= {ref: ", ".join(by) for ref, by in sorted(decision.held.items())}
    for ref, why in kept.items():
        print(line("kept", ref, why))
    for name, count in done.purged.items():
        what = "goes" if args.dry_run else "gone"
        print(f"{what}  {name}  {size(count):>10}  for good: it was in the trash long enough")
    sys.stdout.flush()
    world.say(summary(args, done))
    if asked.max_size is not None and done.stays > asked.max_size:
        held = _total(done.seen, decision.held)
        why = (
            f"what specs, pins and running processes hold takes {size(held)}"
            if held > asked.max_size
            else "the rest was used too lately, or meanwhile"
        )
        world.say(f"note: more than {size(asked.max_size)} is left: {why}")
