"""`engineforge check`: specs against schema, models and targets; with `--accuracy`, converted
models against their sources."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable

from engineforge.cli import world
from engineforge.errors import SpecError
from engineforge.project.plans import Plan
from engineforge.project.project import Project
from engineforge.worker.outcome import Outcome


def run(args: argparse.Namespace) -> int:
    specs = world.paths(args)
    with world.project(args, specs) as project:
        plan = project.plan(specs, world.selection(args), checks=True)
        if args.accuracy and (args.keep_going or not plan.problems):
            return _accuracy(args, project, plan)
    if args.json:
        from engineforge.report import data

        made = data.plan(plan)
        world.print_json({name: made[name] for name in ("format", "problems", "notes", "effort")})
        return SpecError.exit_code if plan.problems else 0
    world.say_notes(plan.notes)
    if plan.problems:
        raise SpecError(plan.problems)
    from engineforge.report.text import counted

    specs_found = counted(len({each.spec for each in plan.variants}), "spec")
    print(f"sound: {specs_found} with {counted(len(plan.variants), 'variant')}")
    return 0


def measure(args: argparse.Namespace, project: Project, plan: Plan, stage: str) -> list[Outcome]:
    """Carry out the checks of a plan, showing how it goes; an outcome for each variant."""
    from engineforge.cli.build import conditions
    from engineforge.cli.progress import progress

    expected = dict.fromkeys(each.label for each in plan.checked.values())
    with progress(sys.stderr, os.environ, expected) as observe:
        about = world.about(project.root)
        return project.check(plan, conditions(args, about, observe), stage)


def say_outcomes(
    args: argparse.Namespace, plan: Plan, outcomes: list[Outcome], lines: Iterable[str]
) -> int:
    """Print what was measured, as JSON or as these lines, and why what failed did; exit code."""
    from engineforge.cli.build import exit_code
    from engineforge.report import accuracy, data

    if args.json:
        world.print_json(data.build(plan, outcomes))
    else:
        for line in lines:
            print(line)
        sys.stdout.flush()
        for line in accuracy.failure_lines(plan, outcomes):
            world.say(line)
    return exit_code(plan, outcomes)


def _accuracy(args: argparse.Namespace, project: Project, plan: Plan) -> int:
    from engineforge.report import accuracy

    if not args.json:
        world.say_notes(plan.notes)
    world.say_problems(plan.problems)
    outcomes = measure(args, project, plan, "checks")
    return say_outcomes(args, plan, outcomes, accuracy.check_lines(plan, outcomes))
