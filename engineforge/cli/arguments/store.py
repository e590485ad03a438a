"""What can be said to the commands that look after the store: verify, gc, cache."""

from __future__ import annotations

import argparse

from engineforge.cli.arguments.options import (
    collection,
    common,
    folder,
    gpus,
    paths,
    remote,
    running,
    selectors,
)
from engineforge.cli.arguments.parsers import Help

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engineforge.cli.arguments.options import Command


def add_store(command: Command) -> None:
    """Add these commands to the others."""
    verify = command("verify", "verify", "hash every stored file again")
    verify.add_argument(
        "paths", nargs="*", metavar="SPEC", help="only entries of these specs (default: all)"
    )
    verify.add_argument(
        "--rebuild",
        action="store_true",
        help="build engines once more, from their own timing caches, and say how far they agree",
    )
    selectors(verify)
    running(verify, when="with --rebuild: ")
    gpus(verify)
    common(verify)

    gc = command("gc", "gc", "move what no spec, pin or running process holds to the trash")
    paths(gc)
    collection(gc, keep_last=0, older_than=None, grace="1d")
    gc.add_argument(
        "--partial", action="store_true", help="take these for all specs, though there are others"
    )
    gc.add_argument(
        "--forget", action="append", default=[], metavar="PATH", help="leave out the project there"
    )
    gc.add_argument(
        "--dry-run", action="store_true", help="say what would go, and what holds the rest"
    )

    cache = command("cache", "cache", "say what a cache holds, check it, pin, move and share it")
    _cache_actions(cache)


def _cache_actions(cache: argparse.ArgumentParser) -> None:
    actions = cache.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", formatter_class=Help
        )
        made.set_defaults(action=name)
        common(made)
        return made

    action("stats", "count entries and bytes")
    verify = action("verify", "hash every stored file again, as `engineforge verify` does")
    verify.set_defaults(
        module="engineforge.cli.verify",
        **dict.fromkeys(("paths", "variant", "target"), ()),
        **dict.fromkeys(("rebuild", "jobs", "keep_going", "timeout", "gpus")),
    )
    for name, text in (
        ("pin", "keep the current plans of variants, whatever their specs say later"),
        ("unpin", "keep them no longer"),
    ):
        made = action(name, text)
        made.add_argument("labels", nargs="+", metavar="LABEL", help="such as ocr/fp32@rtx-ada")
        if name == "pin":
            folder(made)
    for name, text in (
        ("export", "write the entries of specs that are up to date into one file"),
        ("import", "take the entries of such a file, each byte verified"),
        ("push", "give the remote store what is up to date here"),
    ):
        made = action(name, text)
        made.set_defaults(module="engineforge.cli.moving")
        if name != "push":
            made.add_argument("file", metavar="FILE", help="a tar archive")
        if name == "push":
            remote(made)
        if name != "import":
            made.add_argument(
                "paths", nargs="*", metavar="SPEC", default=["specs"], help="(default: specs)"
            )
            selectors(made)
