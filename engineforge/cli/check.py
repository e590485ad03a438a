"""`engineforge check`: specs against schema, models and targets; with `--accuracy`, converted
models against their sources; with `--engine`, engines against them; with `--latency`, engines
against the clock."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence

from engineforge.cli import world
from engineforge.cli.build import running, with_sources
from engineforge.errors import EngineForgeError, HostUnfit, SpecError, UsageError
from engineforge.project.outcomes import Results, exit_code
from engineforge.project.plans import Kind, Plan, PlannedVariant
from engineforge.worker.outcome import Outcome, Skipped

_KINDS: tuple[Kind, ...] = ("accuracy", "engine", "latency")


def run(args: argparse.Namespace) -> int:
    kinds = [kind for kind in _KINDS if getattr(args, kind)]
    if args.again and not args.latency:
        raise UsageError("--again measures latency anew", hint="give --latency as well")
    with world.specs(args) as specs:
        plan = specs.plan(
            variants=args.variant, targets=args.target, checks=True, environments=True
        )
        if kinds and (args.keep_going or not plan.problems):
            plan = with_sources(args, plan)
        if kinds and (args.keep_going or not plan.problems):
            return _check(args, plan, kinds)
    if args.json:
        from engineforge.report import data

        made = data.plan(plan)
        world.print_json({name: made[name] for name in ("format", "problems", "notes", "effort")})
        return SpecError.exit_code if plan.problems else 0
    world.say_notes(plan.notes)
    if plan.problems:
        raise SpecError(plan.problems)
    for job in plan.unmade.values():
        world.say(
            f"note: {job.spec}: the {job.called} is not {job.first} yet: not checked against it"
        )
    from engineforge.report.text import counted

    specs_found = counted(len({each.spec for each in plan.variants}), "spec")
    print(f"sound: {specs_found} with {counted(len(plan.variants), 'variant')}")
    return 0


def measure(args: argparse.Namespace, plan: Plan, kind: Kind) -> Results:
    """Carry out the checks of a plan, showing how it goes."""
    from engineforge.cli.progress import progress

    on_one = kind in ("accuracy", "sensitivity")
    expected = dict.fromkeys(
        each.label for each in (plan.checked.values() if on_one else plan.variants)
    )
    with progress(sys.stderr, os.environ, expected) as observe:
        again = getattr(args, "again", False)
        return plan.check(kind, again=again, **running(args, observe))


def say_results(args: argparse.Namespace, results: Results, lines: Iterable[str]) -> int:
    """Print what was measured, as JSON or as these lines, and why what failed did; exit code."""
    from engineforge.report import accuracy, data

    if args.json:
        world.print_json(data.build(results.plan, results.outcomes))
    else:
        for line in lines:
            print(line)
        sys.stdout.flush()
        for line in accuracy.failure_lines(results.plan, results.outcomes):
            world.say(line)
    return results.exit_code


def _check(args: argparse.Namespace, plan: Plan, kinds: list[Kind]) -> int:
    from engineforge.report import checks

    if not args.json:
        world.say_notes(plan.notes)
    world.say_problems(plan.problems)
    found: dict[str, Sequence[Outcome]] = {}
    for kind in kinds:
        try:
            found[kind] = measure(args, plan, kind).outcomes
        except HostUnfit as error:
            if len(kinds) == 1:
                raise
            found[kind] = [Skipped(why=str(error), unfit=True) for _ in plan.variants]
    if args.json:
        world.print_json(checks.as_json(plan, found))
    else:
        for line in checks.check_lines(plan, found):
            print(line)
        sys.stdout.flush()
        for line in checks.failure_lines(plan, found):
            world.say(line)
    # Each kind by itself: that the accuracy is right does not make up for a GPU that is missing.
    codes = [
        exit_code(
            plan,
            [
                outcome
                for variant, outcome in zip(plan.variants, outcomes, strict=True)
                if _has(variant, kind)
            ],
        )
        for kind, outcomes in found.items()
    ]
    worst_first = (SpecError.exit_code, EngineForgeError.exit_code, HostUnfit.exit_code)
    return next((code for code in worst_first if code in codes), 0)


def _has(variant: PlannedVariant, kind: str) -> bool:
    """Whether its spec asks for such a check of a variant."""
    if variant.job is None:
        return variant.settled is not None  # whose checks nobody could make
    check = variant.job.variant.latency if kind == "latency" else variant.job.variant.accuracy
    return check is not None
