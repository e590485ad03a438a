"""Options that several commands have, and the kinds of values that options take."""

from __future__ import annotations

import argparse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[[str, str, str], argparse.ArgumentParser]
    """Makes a command of a name, a module and a text."""

_LONGEST = 86_400


def paths(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "paths",
        nargs="*",
        metavar="SPEC",
        default=["specs"],
        help="specs or folders (default: specs)",
    )
    common(made)


def common(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--cache", metavar="DIR", help="the cache (default: 'cache' beside the folder of the specs)"
    )
    made.add_argument("--json", action="store_true", help="print JSON")


def folder(made: argparse.ArgumentParser) -> None:
    """For commands that are given labels."""
    made.add_argument(
        "--specs", default="specs", metavar="DIR", help="the folder of the specs (default: specs)"
    )


def selectors(made: argparse.ArgumentParser) -> None:
    for name in ("variant", "target"):
        made.add_argument(
            f"--{name}", action="append", default=[], metavar="NAME", help=f"only this {name}"
        )


def running(made: argparse.ArgumentParser, when: str = "") -> None:
    limits(made, when)
    made.add_argument(
        "--keep-going",
        action="store_true",
        help=f"{when}go on with the rest when something fails",
    )


def limits(made: argparse.ArgumentParser, when: str = "") -> None:
    made.add_argument(
        "-j",
        "--jobs",
        type=positive,
        metavar="N",
        help=f"{when}variants at once, beside one on each GPU",
    )
    made.add_argument(
        "--timeout", type=positive, metavar="S", help=f"{when}seconds that a step may take"
    )


def gpus(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--gpus",
        metavar="LIST",
        help="only these GPUs, as in CUDA_VISIBLE_DEVICES: numbers or UUIDs, with commas",
    )


def remote(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--remote",
        metavar="URL",
        help="a store that machines share: s3://, gs://, az://, https:// or a folder",
    )
    made.add_argument("--no-remote", action="store_true", help="use none, whatever the specs say")


def collection(
    made: argparse.ArgumentParser,
    when: str = "",
    *,
    keep_last: int,
    older_than: str | None,
    grace: str,
) -> None:
    """What `gc` keeps and takes, with these defaults."""

    def unless(default: object) -> str:
        return f" (default: {default})" if default else ""

    made.add_argument(
        "--keep-last",
        type=positive,
        metavar="N",
        default=keep_last,
        help=f"{when}keep the newest N engines of each variant{unless(keep_last)}",
    )
    made.add_argument(
        "--older-than",
        metavar="AGE",
        default=older_than,
        help=f"{when}only what was last used, or held, so long ago{unless(older_than) or ': 30d'}",
    )
    made.add_argument(
        "--max-size",
        metavar="SIZE",
        help=f"{when}only until all entries fit, unused ones first: 50GiB",
    )
    made.add_argument(
        "--grace",
        metavar="AGE",
        default=grace,
        help=f"{when}remove for good what has been in the trash so long (default: {grace}; 0 "
        "empties it)",
    )


def duration(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1
    if not 0 <= found < _LONGEST:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {_LONGEST}, found '{text}'")
    return found


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found '{text}'")
    return int(text)
