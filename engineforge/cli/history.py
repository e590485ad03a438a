"""`engineforge history`: the ledgers of an environment, every event verified."""

from __future__ import annotations

import argparse
from pathlib import Path

from engineforge.cli import world
from engineforge.cli.signing import environments, spec_named
from engineforge.errors import UsageError
from engineforge.report import promotion as report


def run(args: argparse.Namespace) -> int:
    opened = environments(Path(args.environments)).open(args.environment)
    found = []
    for spec in [spec_named(args, each) for each in args.specs] or opened.specs():
        state = opened.state(spec)
        if state is None:
            raise UsageError(
                f"nothing of '{spec}' was ever promoted to {args.environment}",
                hint=f"it has {', '.join(opened.specs()) or 'nothing'}",
            )
        events = opened.history(state)
        found.append({"spec": spec, "events": [report.event_data(each, by) for each, by in events]})
        if not args.json:
            for line in report.plain(report.history_lines(spec, events)):
                print(line)
    if args.json:
        world.print_json({"environment": args.environment, "specs": found})
    return 0
