"""`engineforge sensitivity`: what each lowered layer of a variant alone costs."""

from __future__ import annotations

import argparse
from pathlib import Path

from engineforge.cli import world
from engineforge.cli.build import with_sources
from engineforge.cli.check import measure, say_results
from engineforge.errors import SpecError, UsageError
from engineforge.report.plot import can_be_plotted
from engineforge.worker.outcome import Ranked


def run(args: argparse.Namespace) -> int:
    if args.plot:
        can_be_plotted(Path(args.plot))
    with world.specs(args) as specs:
        plan = specs.plan(variants=args.variant, targets=args.target, checks=True)
        if plan.problems and not args.keep_going:
            raise SpecError(plan.problems)
        plan = with_sources(args, plan)
        if plan.problems and not args.keep_going:
            raise SpecError(plan.problems)
        if not args.json:
            world.say_notes(plan.notes)
        world.say_problems(plan.problems)
        in_vain = [each for each in plan.variants if each.settled is not None]
        plan.variants = [
            each
            for each in plan.checked.values()
            if each.job is not None and each.job.key.typed is not None
        ] + in_vain
        if not plan.variants:
            raise UsageError(
                "no variant of these is both converted and checked",
                hint="it takes a lower precision, and an accuracy check for its data",
            )
        if args.plot and len(plan.variants) > 1:
            names = ", ".join(each.variant for each in plan.variants)
            raise UsageError(
                f"--plot draws one variant, and these are {len(plan.variants)}",
                hint=f"choose one with --variant: {names}",
            )
        results = measure(args, plan, "sensitivity")
    from engineforge.report import accuracy

    code = say_results(args, results, accuracy.sensitivity_lines(plan, results.outcomes))
    found = [each for each in results.outcomes if isinstance(each, Ranked)]
    if args.plot and found:
        from engineforge.report.plot import plot_sensitivity

        plot_sensitivity(found[0].measured, plan.variants[0].label, Path(args.plot))
    return code
