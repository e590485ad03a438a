"""`engineforge build`: plans, builds, and says how it goes."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engineforge.cli import plan as plan_command
from engineforge.cli import world
from engineforge.errors import EngineForgeError, HostUnfit, SpecError, UsageError
from engineforge.project.plans import Plan
from engineforge.project.project import Project
from engineforge.worker.conditions import Conditions
from engineforge.worker.outcome import Checked, Failed, Outcome, Rebuilt, Skipped, Timed

if TYPE_CHECKING:
    from engineforge.store.far.overlay import Overlay

# A TensorRT-RTX build takes about one core, and four times its weights of memory: so many at once
# where it is not known how much there is.
_MOST_JOBS = 4


def run(args: argparse.Namespace) -> int:
    if args.dry_run and args.prepare:
        raise UsageError("--dry-run plans builds, and --prepare builds nothing", hint="choose one")
    _on_cluster(args)
    specs = world.paths(args)
    if args.locked:
        from engineforge.cli.lock import must_hold

        must_hold(specs)
    if args.dry_run:
        args.versions = []
        return plan_command.run(args)
    started = time.monotonic()
    with world.project(args, specs) as project:
        plan = _planned(args, project, specs, paranoid=args.paranoid)
        _refuse(args, project, plan)
        overlay = world.overlay(args, project) if plan.stale else None
        if args.on is not None and plan.stale and overlay is None:
            raise UsageError(
                "the engines that a cluster builds come through a store that all machines share, "
                "and there is none",
                hint="name one with --remote, or in specs/engineforge.yaml: remote: {url: s3://…}",
            )
        plan = with_sources(
            args, project, plan, lambda: _planned(args, project, specs), overlay=overlay
        )
        _refuse(args, project, plan)
        if not args.json:
            world.say_notes(plan.notes)
        world.say_problems(plan.problems)
        if overlay is not None:
            plan = world.with_jobs(args, project, plan, {})
        outcomes = _carry_out(args, project, plan, overlay)
        faults = list(project.store.faults)
    if args.json:
        _print_json(plan, outcomes, faults)
    else:
        _print_text(plan, outcomes, time.monotonic() - started)
    return exit_code(plan, outcomes)


def _on_cluster(args: argparse.Namespace) -> None:
    """UsageError where what is asked for does not go with a cluster."""
    if args.on is None:
        return
    refused = {
        "--prepare": (args.prepare, "it builds no engine, and needs no cluster"),
        "--gpus": (args.gpus is not None, "it names GPUs of this host"),
        "--no-remote": (args.no_remote, "engines come from there"),
        "--push never": (args.push == "never", "nodes push what they build"),
    }
    for option, (given, why) in refused.items():
        if given:
            raise UsageError(f"--on does not go with {option}: {why}")
    args.push = "always"


def _refuse(args: argparse.Namespace, project: Project, plan: Plan) -> None:
    """SpecError where a plan has problems, unless the rest is to be built all the same."""
    if not plan.problems or args.keep_going:
        return
    if args.json:
        _print_json(plan, [], project.store.faults)
    else:
        world.say_notes(plan.notes)
    raise SpecError(plan.problems)


def _planned(
    args: argparse.Namespace, project: Project, specs: list[Path], *, paranoid: bool = False
) -> Plan:
    return project.plan(
        specs,
        world.selection(args),
        paranoid=paranoid,
        to_build=not args.prepare and args.on is None,
        jobs=args.prepare,
    )


def _carry_out(
    args: argparse.Namespace, project: Project, plan: Plan, overlay: Overlay | None
) -> list[Outcome]:
    if not plan.stale:
        return project.build(plan, conditions(args, {}, lambda _: None))
    from engineforge.cli.progress import progress

    if args.explain:
        from engineforge.report import text

        if overlay is not None:
            from engineforge.project.elsewhere import seek

            seek(plan, overlay)
        for line in text.plan_lines(plan, explain=True):
            world.say(line)
    expected = {each.label: each.seconds for each in plan.stale}
    with world.cluster(args) as cluster, progress(sys.stderr, os.environ, expected) as observe:
        about = world.about(project.root)
        run = conditions(args, about, observe)
        return project.build(plan, run, prepare=args.prepare, overlay=overlay, cluster=cluster)


def with_sources(
    args: argparse.Namespace,
    project: Project,
    plan: Plan,
    again: Callable[[], Plan],
    overlay: Overlay | None = None,
) -> Plan:
    """The plan once the models that it lacks were made, showing how that goes: `again` plans anew,
    which may find problems."""
    if not plan.unmade:
        return plan
    from engineforge.cli.progress import progress

    with progress(sys.stderr, os.environ, dict.fromkeys(plan.unmade)) as observe:
        how = conditions(args, world.about(project.root), observe)
        project.make_sources(plan, how, overlay=overlay)
    plan = again()
    if plan.problems:
        from engineforge.report import text

        for variant in plan.variants:
            if isinstance(variant.settled, Failed):
                for line in text.failure_lines(variant.label, variant.settled):
                    world.say(line)
    return plan


def conditions(
    args: argparse.Namespace, about: dict[str, object], observe: world.Observe
) -> Conditions:
    """What the options say of how to run, with what the world says of where."""
    memory = world.available_memory()
    cores = len(os.sched_getaffinity(0))
    return Conditions(
        jobs=args.jobs or (cores if memory is not None else min(_MOST_JOBS, cores)),
        keep_going=args.keep_going,
        timeout=args.timeout,
        memory=memory,
        cold=getattr(args, "cold", False),
        environment=world.environment(args),
        about=about,
        now=world.now,
        observe=observe,
    )


def _print_json(plan: Plan, outcomes: list[Outcome], faults: Sequence[object]) -> None:
    from engineforge.report import data

    if not outcomes:
        plan = Plan(problems=plan.problems, notes=plan.notes, effort=plan.effort)
    world.print_json(data.build(plan, outcomes, faults))


def _print_text(plan: Plan, outcomes: list[Outcome], seconds: float) -> None:
    from engineforge.report import text

    width = max((len(each.label) for each in plan.variants), default=0)
    lines = []
    for variant, outcome in zip(plan.variants, outcomes, strict=True):
        if isinstance(outcome, Failed):
            lines.append(f"{variant.label:{width}}  failed in stage {outcome.stage}\n")
        else:
            lines.append(f"{variant.label:{width}}  {text.outcome(outcome)}\n")
    # At once: where nothing is buffered, each line would be a call of the kernel.
    sys.stdout.write("".join(lines))
    for variant, outcome in zip(plan.variants, outcomes, strict=True):
        if isinstance(outcome, Failed):
            for line in text.failure_lines(variant.label, outcome):
                world.say(line)
    sys.stdout.flush()
    world.say(text.build_summary(outcomes, len(plan.problems), seconds))


def exit_code(plan: Plan, outcomes: list[Outcome]) -> int:
    """Of a plan that was carried out, by building or by measuring."""
    if plan.problems:
        return SpecError.exit_code
    if any(map(_failed, outcomes)):
        return EngineForgeError.exit_code
    if outcomes and all(isinstance(each, Skipped) and each.unfit for each in outcomes):
        return HostUnfit.exit_code
    return 0


def _failed(outcome: Outcome) -> bool:
    match outcome:
        case Failed():
            return True
        case Checked(failures=failures) | Timed(failures=failures):
            return bool(failures)
        case Rebuilt(level=level):
            return level == "none"
        case _:
            return False
