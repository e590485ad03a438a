"""`engineforge bench`: how fast an engine is, as `trtexec` would say."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engineforge.cli import run as run_command
from engineforge.cli import world
from engineforge.errors import UsageError

_ROWS = {
    "latency": "latency",
    "h2d": "copies in",
    "compute": "compute",
    "d2h": "copies out",
    "enqueue": "enqueue (host)",
}
_COLUMNS = ("min", "mean", "median", "p90", "p95", "p99", "max")
_CONDITIONS = ("sm_clock_mhz", "sm_clock_max_mhz", "temperature_c", "power_mw", "throttled_by")
_MOST_LAYERS = 40


def run(args: argparse.Namespace) -> int:
    shapes = _shapes(args.shapes)
    engine = run_command.find(args)
    found = run_command.ask(
        args,
        {
            "op": "bench",
            "engine": engine,
            "measure": {
                "shapes": shapes,
                "profile": args.profile,
                "at": args.at,
                "warm_up_ms": args.warm_up,
                "duration_s": args.duration,
                "iterations": args.iterations,
                "streams": args.streams,
                "cuda_graph": args.cuda_graph,
                "transfers": not args.no_transfers,
                "layers": args.layers,
            },
        },
    )
    if args.json:
        world.print_json(found)
        return 0
    for line in lines(found):
        print(line)
    for note in found["notes"]:
        world.say(f"note: {note}")
    return 0


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What was measured, for people."""
    shapes = ", ".join(f"{n} {'x'.join(map(str, s))}" for n, s in found["shapes"].items())
    how = [f"profile {found['profile']}", f"{found['streams']} stream"]
    how[1] += "s" if found["streams"] > 1 else ""
    how += ["CUDA graph"] * found["cuda_graph"] + ["no copies"] * (not found["transfers"])
    gpu = found["gpu"]
    yield f"engine      {found['engine']} ({found['backend']})"
    yield f"gpu         {gpu['name']} ({gpu['uuid']})"
    yield f"inputs      {shapes}"
    yield f"how         {', '.join(how)}"
    yield f"queries     {found['queries']} in {found['seconds']:.2f} s"
    yield f"throughput  {found['throughput_qps']:.1f} queries/s"
    yield ""
    yield f"{'ms':15}" + "".join(f"{column:>10}" for column in _COLUMNS)
    for part, name in _ROWS.items():
        times = found[f"{part}_ms"]
        yield f"{name:15}" + "".join(f"{times[column]:10.4f}" for column in _COLUMNS)
    for when in ("idle", "start", "end"):
        if when in gpu:
            told = (f"{key} {_value(gpu[when].get(key))}" for key in _CONDITIONS)
            yield f"gpu {when:11} {', '.join(told)}"
    layers = sorted(found.get("layers", ()), key=lambda each: -each["ms"])
    if layers:
        yield ""
        yield f"{'ms':>10} {'share':>7}  layer"
    for each in layers[:_MOST_LAYERS]:
        yield f"{each['ms']:10.4f} {each['share']:7.1%}  {each['name']}"
    if len(layers) > _MOST_LAYERS:
        yield f"and {len(layers) - _MOST_LAYERS} more: --json has all"


def _value(value: object) -> str:
    if isinstance(value, list):
        return " and ".join(map(str, value)) or "nothing"
    return "unknown" if value is None else str(value)


def _shapes(given: Sequence[str]) -> dict[str, list[int]]:
    """`NAME=8x3x224x224`, several with commas or options between them."""
    found = {}
    for each in (part for text in given for part in text.split(",")):
        name, _, dims = each.rpartition("=")
        if not name or not re.fullmatch(r"\d+(x\d+)*|", dims):
            raise UsageError(f"--shapes {each}: expected NAME=8x3x224x224")
        found[name] = [int(dim) for dim in dims.split("x") if dim]
    return found
