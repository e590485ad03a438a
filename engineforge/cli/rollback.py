"""`engineforge rollback`: an environment serves again what it served before."""

from __future__ import annotations

import argparse
from pathlib import Path

from engineforge.cli import world
from engineforge.cli.signing import environments, signing_key, spec_named, who
from engineforge.errors import UsageError
from engineforge.promotion.rolling_back import rollback
from engineforge.report import promotion as report


def run(args: argparse.Namespace) -> int:
    if args.number is not None and len(args.specs) > 1:
        raise UsageError("--number is of one spec", hint="roll them back one after another")
    opened = environments(Path(args.environments)).open(args.environment)
    signer = who(args, signing_key(args))
    done = []
    for spec in (spec_named(args, each) for each in args.specs):
        promoted = rollback(opened, spec, args.number, signer, overridden=args.override)
        done.append(report.state_data(promoted.state) | {"changed": promoted.changed})
        if not args.json:
            for line in report.plain(report.rolled_back_lines(promoted)):
                print(line)
    if args.json:
        world.print_json({"specs": done})
    return 0
