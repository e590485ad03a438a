"""`engineforge cache export`, `import` and `push`: entries to other machines, in a file or through
the store that they share."""

from __future__ import annotations

import argparse
from pathlib import Path

from engineforge.cli import world
from engineforge.errors import EngineForgeError, SpecError, UsageError
from engineforge.project.plans import Plan, PlannedVariant
from engineforge.project.project import Project
from engineforge.report.text import counted, size
from engineforge.store.local import Session
from engineforge.store.manifest import PlanRecord


def run(args: argparse.Namespace) -> int:
    return {"export": _export, "import": _import, "push": _push}[args.action](args)


def _export(args: argparse.Namespace) -> int:
    from engineforge.store.far import archive

    specs = world.paths(args)
    with world.project(args, specs) as project, project.store.session() as session:
        plan = project.plan(specs, world.selection(args))
        found, code = _up_to_date(project, plan, session)
        done = archive.export(project.store, [record for _, record in found], Path(args.file))
    if args.json:
        world.print_json({"entries": done.entries, "records": done.records, "bytes": done.bytes})
    else:
        entries, records = counted(done.entries, "entry", "entries"), counted(done.records, "plan")
        print(f"{args.file}: {entries} of {records}, {size(done.bytes)}")
    return code


def _import(args: argparse.Namespace) -> int:
    from engineforge.store.far import archive
    from engineforge.store.local import LocalStore

    store = LocalStore(world.cache(args, Path("specs")), world.say)
    # What fails of reading the file is told as what it is.
    with store.writing(), store.session() as session:
        done = archive.import_(Path(args.file), store, session)
    if args.json:
        world.print_json(
            {
                "entries": done.entries,
                "records": done.records,
                "bytes": done.bytes,
                "known": done.known,
            }
        )
    else:
        entries, records = counted(done.entries, "entry", "entries"), counted(done.records, "plan")
        print(f"{entries} of {records}, {size(done.bytes)}; {done.known} were here already")
    return 0


def _push(args: argparse.Namespace) -> int:
    specs = world.paths(args)
    args.push = "always"
    pushed: list[str] = []
    with world.specs(args) as asked, asked.open() as project:
        overlay = asked.overlay()
        if overlay is None:
            raise UsageError(
                "there is no remote store to push to",
                hint="name one with --remote, or in specs/engineforge.yaml: remote: {url: s3://…}",
            )
        with project.store.session() as session:
            plan = project.plan(specs, world.selection(args))
            found, code = _up_to_date(project, plan, session)
            for variant, record in found:
                if not overlay.push(record.key, variant.label, lambda _done, _total: None):
                    raise EngineForgeError(f"{variant.label} was not pushed to {overlay.where}")
                pushed.append(variant.label)
                if not args.json:
                    print(f"pushed  {variant.label}")
    if args.json:
        world.print_json({"remote": overlay.where, "pushed": pushed})
    return code


def _up_to_date(
    project: Project, plan: Plan, session: Session
) -> tuple[list[tuple[PlannedVariant, PlanRecord]], int]:
    """The variants that have an engine with what their plans led to, and the exit code: what is
    stale is said, and left out."""
    if plan.problems:
        raise SpecError(plan.problems)
    found = []
    for variant in plan.variants:
        there = variant.plan if variant.engine is not None else None
        record = project.store.plan_record(there) if there is not None else None
        if record is None:
            world.say(f"{variant.label}: left out, as it is not built, or not up to date")
        else:
            for stage, key in record.entries.items():
                session.uses(stage, key)
            found.append((variant, record))
    if not found:
        raise UsageError(
            "nothing is built and up to date", hint="`engineforge build` builds what is stale"
        )
    return found, 0 if len(found) == len(plan.variants) else EngineForgeError.exit_code
