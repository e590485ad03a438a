"""`engineforge pull`: the engine of an environment that runs on this host, once or whenever it
changes."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engineforge.cli import serving, world
from engineforge.errors import UsageError
from engineforge.promotion.pulling import Pulled


def run(args: argparse.Namespace) -> int:
    output = Path(args.output)
    if args.output.endswith(os.sep) and not output.is_dir():
        raise UsageError(f"there is no folder '{output}'", hint=f"mkdir -p '{output}'")
    common: dict[str, Any] = {
        "environments": args.environments,
        "variant": args.variant,
        "target": args.target,
        "gpu": args.gpu,
        "no_overridden": args.no_overridden,
        "said": world.say,
    }
    if not args.watch:
        _tell(args, serving.pull(args.what, output, **common))
        return 0
    for pulled in serving.follow(args.what, output, every=args.every, **common):
        _tell(args, pulled)
    return 0


def _tell(args: argparse.Namespace, pulled: Pulled) -> None:
    """With --watch, JSON is one line for each change."""
    if args.json:
        document = {**asdict(pulled), "path": str(pulled.path)}
        del document["loaded"]
        if args.watch:
            print(json.dumps(document, ensure_ascii=False), flush=True)
        else:
            world.print_json(document)
        return
    what = "" if pulled.changed else ", which was there"
    print(f"{pulled.path}  {pulled.name}, number {pulled.number}{what}", flush=True)
    print(f"  engine  {pulled.engine}, {pulled.size} bytes", flush=True)
    print(f"  why     {pulled.why}", flush=True)
