"""What can be said to the command that does everything: nightly."""

from __future__ import annotations

from engineforge.cli.arguments.options import (
    collection,
    gpus,
    limits,
    paths,
    positive,
    remote,
    selectors,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engineforge.cli.arguments.options import Command


def add_nightly(command: Command) -> None:
    """Add this command to the others."""
    night = command(
        "nightly",
        "nightly",
        "check the lock, build what is stale, check it, promote it, collect garbage, report",
    )
    paths(night)
    selectors(night)
    night.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FOLDER",
        help="keeps nights: a folder in it for each, and 'latest'",
    )
    night.add_argument(
        "--keep-nights",
        type=positive,
        metavar="N",
        default=30,
        help="how many of them it keeps (default: 30)",
    )
    night.add_argument(
        "--to",
        metavar="ENV",
        help="what is promoted to (default: the environment that takes engines from the cache)",
    )
    night.add_argument(
        "--key",
        metavar="KEY",
        help="what signs: a private key file (PEM) or a KMS URI (default: $ENGINEFORGE_KEY)",
    )
    night.add_argument(
        "--reason", default="nightly", metavar="TEXT", help="for the ledger (default: nightly)"
    )
    night.add_argument("--no-promote", action="store_true", help="promote nothing")
    night.add_argument(
        "--webhook",
        metavar="URL",
        help="told of failures and of served engines that are newly stale, as Slack is; better in "
        "$ENGINEFORGE_WEBHOOK, which no list of processes shows",
    )
    limits(night)
    gpus(night)
    remote(night)
    night.add_argument(
        "--push", choices=("always", "ci", "never"), help="add what is built to the remote store"
    )
    night.add_argument("--no-gc", action="store_true", help="collect no garbage")
    collection(night, "gc: ", keep_last=3, older_than="30d", grace="7d")
    night.set_defaults(keep_going=True, partial=False, forget=(), dry_run=False)
