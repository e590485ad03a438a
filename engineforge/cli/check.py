"""`engineforge check`."""

from __future__ import annotations

import argparse

from engineforge.cli import world
from engineforge.errors import SpecError
from engineforge.project.plans import Selection


def run(args: argparse.Namespace) -> int:
    specs = world.paths(args)
    with world.project(args, specs) as project:
        plan = project.plan(specs, Selection())
    if args.json:
        from engineforge.report import data

        made = data.plan(plan)
        world.print_json({name: made[name] for name in ("format", "problems", "notes", "effort")})
        return SpecError.exit_code if plan.problems else 0
    for note in plan.notes:
        world.say(f"note: {note}")
    if plan.problems:
        raise SpecError(plan.problems)
    from engineforge.report.text import counted

    specs_found = counted(len({each.spec for each in plan.variants}), "spec")
    print(f"sound: {specs_found} with {counted(len(plan.variants), 'variant')}")
    return 0
