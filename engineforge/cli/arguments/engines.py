"""What can be said to the commands that ask one engine: show, run, bench."""

from __future__ import annotations

import argparse

from engineforge.cli.arguments.options import common, duration, folder, positive, selectors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engineforge.cli.arguments.options import Command


def add_engines(command: Command) -> None:
    """Add these commands to the others."""
    show = command("show", "show", "say what an engine is")
    show.add_argument(
        "what",
        metavar="WHAT",
        help="a spec, a folder of specs, SPEC/VARIANT@TARGET, an engine file, or a key's digits",
    )
    folder(show)
    selectors(show)
    show.add_argument(
        "--calibration", action="store_true", help="print the ranges that a model is quantized by"
    )
    show.add_argument(
        "--layers",
        action="store_true",
        help="print the layers of engines: types, tactics, and times as `bench --layers` kept them",
    )
    common(show)

    for name, text in (
        ("run", "run an engine once, on arrays in files"),
        ("bench", "measure an engine, as trtexec does"),
    ):
        made = command(name, name, text)
        made.add_argument(
            "what", metavar="WHAT", help="a spec, the folder of an entry, or an engine file"
        )
        selectors(made)
        common(made)
        made.add_argument(
            "--sha256", type=_digest, metavar="sha256:…", help="what a file alone must be"
        )
        made.add_argument("--gpu", default="0", metavar="GPU", help="a number or UUID (default: 0)")
        made.add_argument(
            "--plugin",
            action="append",
            default=[],
            metavar="FILE",
            help="a library of plugins, loaded first",
        )
        made.add_argument("--profile", type=int, metavar="N", help="the optimization profile")
        (_run_arguments if name == "run" else _bench_arguments)(made)


def _run_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="NAME=FILE.npy, or FILE.npz with an array for each input",
    )
    made.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="NAME=FILE.npy, or a folder for all outputs",
    )


def _bench_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--shapes",
        action="append",
        default=[],
        metavar="NAME=8x3x224x224",
        help="shape of an input",
    )
    made.add_argument(
        "--at",
        choices=("min", "opt", "max"),
        default="opt",
        help="shapes of the profile (default: opt)",
    )
    made.add_argument(
        "--warm-up",
        type=duration,
        default=200,
        metavar="MS",
        help="milliseconds that are not measured (default: 200)",
    )
    made.add_argument(
        "--duration",
        type=duration,
        default=3,
        metavar="S",
        help="seconds that it measures (default: 3)",
    )
    made.add_argument(
        "--iterations",
        type=positive,
        default=10,
        metavar="N",
        help="queries at least (default: 10)",
    )
    made.add_argument(
        "--streams",
        type=positive,
        default=1,
        metavar="N",
        help="queries at once, each on a stream (default: 1)",
    )
    made.add_argument("--cuda-graph", action="store_true", help="replay a captured graph")
    made.add_argument("--no-transfers", action="store_true", help="leave out H2D and D2H")
    made.add_argument("--layers", action="store_true", help="profile each layer as well")


def _digest(text: str) -> str:
    from engineforge.digest import Digest

    return Digest(text)
