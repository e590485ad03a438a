"""`engineforge build`: plans, builds, and says how it goes."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

from engineforge.cli import plan as plan_command
from engineforge.cli import world
from engineforge.errors import SpecError, UsageError
from engineforge.project.outcomes import Results
from engineforge.project.plans import Plan, Running
from engineforge.worker.outcome import Failed, Outcome


def run(args: argparse.Namespace) -> int:
    if args.dry_run and args.prepare:
        raise UsageError("--dry-run plans builds, and --prepare builds nothing", hint="choose one")
    _on_cluster(args)
    if args.locked:
        from engineforge.cli.lock import must_hold

        must_hold(world.paths(args))
    if args.dry_run:
        args.versions = []
        return plan_command.run(args)
    started = time.monotonic()
    with world.specs(args) as specs:
        plan = specs.plan(
            variants=args.variant,
            targets=args.target,
            paranoid=args.paranoid,
            to_build=not args.prepare and args.on is None,
            jobs=args.prepare,
        )
        _refuse(args, plan)
        if args.on is not None and plan.stale:
            specs.shared()
        plan = with_sources(args, plan)
        _refuse(args, plan)
        if not args.json:
            world.say_notes(plan.notes)
        world.say_problems(plan.problems)
        results = _carried_out(args, plan)
    if args.json:
        _print_json(results.plan, results.outcomes, results.faults)
    else:
        _print_text(results, time.monotonic() - started)
    return results.exit_code


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


def _refuse(args: argparse.Namespace, plan: Plan) -> None:
    """SpecError where a plan has problems, unless the rest is to be built all the same."""
    if not plan.problems or args.keep_going:
        return
    if args.json:
        _print_json(plan, (), plan.faults)
    else:
        world.say_notes(plan.notes)
    raise SpecError(plan.problems)


def _carried_out(args: argparse.Namespace, plan: Plan) -> Results:
    if not plan.stale:
        return plan.build(prepare=args.prepare, on=args.on, **running(args))
    from engineforge.cli.progress import progress

    if args.explain:
        from engineforge.report import text

        plan = plan.elsewhere()
        for line in text.plan_lines(plan, explain=True):
            world.say(line)
    expected = {each.label: each.seconds for each in plan.stale}
    with progress(sys.stderr, os.environ, expected) as observe:
        return plan.build(prepare=args.prepare, on=args.on, **running(args, observe))


def with_sources(args: argparse.Namespace, plan: Plan) -> Plan:
    """The plan once the models that it lacks were made, showing how that goes; it may have other
    problems than before."""
    if not plan.unmade:
        return plan
    from engineforge.cli.progress import progress

    with progress(sys.stderr, os.environ, dict.fromkeys(plan.unmade)) as observe:
        plan = plan.make_sources(**running(args, observe))
    if plan.problems:
        from engineforge.report import text

        for variant in plan.variants:
            if isinstance(variant.settled, Failed):
                for line in text.failure_lines(variant.label, variant.settled):
                    world.say(line)
    return plan


def running(args: argparse.Namespace, observe: world.Observe = lambda _: None) -> Running:
    """What the options say of how to run."""
    return {
        "jobs": args.jobs,
        "keep_going": args.keep_going,
        "timeout": args.timeout,
        "cold": getattr(args, "cold", False),
        "observe": observe,
    }


def _print_json(plan: Plan, outcomes: Sequence[Outcome], faults: Sequence[str]) -> None:
    from engineforge.report import data

    if not outcomes:
        plan = Plan(problems=plan.problems, notes=plan.notes, effort=plan.effort)
    world.print_json(data.build(plan, outcomes, faults))


def _print_text(results: Results, seconds: float) -> None:
    from engineforge.report import text

    plan = results.plan
    width = max((len(each.label) for each in plan.variants), default=0)
    lines = []
    for variant, outcome in results:
        if isinstance(outcome, Failed):
            lines.append(f"{variant.label:{width}}  failed in stage {outcome.stage}\n")
        else:
            lines.append(f"{variant.label:{width}}  {text.outcome(outcome)}\n")
    # At once: where nothing is buffered, each line would be a call of the kernel.
    sys.stdout.write("".join(lines))
    for variant, outcome in results:
        if isinstance(outcome, Failed):
            for line in text.failure_lines(variant.label, outcome):
                world.say(line)
    sys.stdout.flush()
    world.say(text.build_summary(results.outcomes, len(plan.problems), seconds))
