"""`engineforge status`: which engines each environment has of each spec, and whether they are what
the specs ask for today."""

from __future__ import annotations

import argparse

from engineforge.cli import world
from engineforge.cli.signing import environments
from engineforge.errors import SpecError
from engineforge.project.promotion import ENVIRONMENTS, freshness
from engineforge.promotion.state import State
from engineforge.report import promotion as report


def run(args: argparse.Namespace) -> int:
    specs = world.paths(args)
    with world.project(args, specs) as project:
        known = environments(project.root / ENVIRONMENTS)
        plan = project.plan(specs, world.selection(args))
        world.say_notes(plan.notes)
        problems = world.say_problems(plan.problems)
        names = list(dict.fromkeys(each.spec for each in plan.variants))
        states: dict[tuple[str, str], State | None] = {
            (name, spec): known.open(name).state(spec) for name in known.names for spec in names
        }
        cells = [
            report.Cell(
                variant=variant,
                environment=name,
                state=state,
                engine=engine,
                freshness=None if engine is None else freshness(variant, engine),
            )
            for variant in plan.variants
            for name in known.names
            for state in [states[name, variant.spec]]
            for engine in [state.engine(variant.variant, variant.target) if state else None]
        ]
    if args.json:
        world.print_json({"cells": [report.cell_data(each) for each in cells]})
    else:
        for line in report.plain(report.status_lines(cells, known.names, world.now())):
            print(line)
    return SpecError.exit_code if problems else 0
