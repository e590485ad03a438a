"""`engineforge plan`."""

from __future__ import annotations

import argparse

from engineforge.cli import world
from engineforge.errors import SpecError


def run(args: argparse.Namespace) -> int:
    versions = _versions(args.versions)
    with world.specs(args) as specs:
        plan = specs.plan(
            variants=args.variant, targets=args.target, versions=versions, paranoid=args.paranoid
        )
        if plan.stale and (args.explain or getattr(args, "dry_run", False)):
            plan = plan.elsewhere()
    if args.json:
        from engineforge.report import data

        world.print_json(data.plan(plan))
    else:
        from engineforge.report import text

        for line in text.plan_lines(plan, explain=args.explain):
            print(line)
        world.say_problems(plan.problems)
        world.say(text.plan_summary(plan))
    return SpecError.exit_code if plan.problems else 0


def _versions(given: list[str]) -> dict[str, str]:
    """By backend; whether they are versions, planning says."""
    return {backend: version for backend, _, version in (each.partition("=") for each in given)}
