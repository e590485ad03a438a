"""`engineforge schema`."""

from __future__ import annotations

import argparse

from engineforge.cli import world


def run(args: argparse.Namespace) -> int:
    if args.kind == "events":
        from engineforge.report import events

        world.print_json(events.schema())
    else:
        from engineforge.spec.validate import schema

        world.print_json(schema(args.kind))
    return 0
