"""`engineforge plan`."""

from __future__ import annotations

import argparse
import re

from engineforge.cli import world
from engineforge.errors import SpecError, UsageError


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
    versions = {}
    for pair in given:
        backend, _, version = pair.partition("=")
        if not re.fullmatch(r"[0-9]+(\.[0-9]+){2,3}", version) or backend not in (
            "tensorrt",
            "tensorrt_rtx",
        ):
            raise UsageError(
                f"--with {pair}: expected a backend and a full version",
                hint="such as --with tensorrt=11.4.0.106 or --with tensorrt_rtx=1.8.0.1",
            )
        versions[backend] = version
    return versions
