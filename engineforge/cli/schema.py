"""`engineforge schema`."""

from __future__ import annotations

import argparse

from engineforge.cli import world
from engineforge.spec.validate import schema


def run(args: argparse.Namespace) -> int:
    world.print_json(schema(args.kind))
    return 0
