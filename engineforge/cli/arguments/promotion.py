"""What can be said of environments: the arguments of the commands from promote to export."""

from __future__ import annotations

import argparse

from engineforge.cli.arguments.options import common, paths, selectors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engineforge.cli.arguments.options import Command

_PATHS_HELP = "specs or folders (default: specs)"


def add_promotion(command: Command) -> None:
    """Add these commands to the others."""
    promote = command("promote", "promote", "promote engines that pass an environment's gates")
    paths(promote)
    selectors(promote)
    promote.add_argument("--to", required=True, metavar="ENV", help="the environment")
    _key(promote)
    _because(promote)
    promote.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="GATE",
        help="let pass what this gate refuses; needs --reason, and stays visible for ever",
    )
    promote.add_argument(
        "--keep-going", action="store_true", help="go on with other specs when one is refused"
    )
    promote.add_argument("--dry-run", action="store_true", help="only ask the gates")

    rollback = command("rollback", "rollback", "have an environment serve what it served before")
    rollback.add_argument("specs", nargs="+", metavar="SPEC", help="names of specs")
    _in(rollback)
    rollback.add_argument(
        "--number",
        type=int,
        metavar="N",
        help="the number in its history (default: the one before; needs one SPEC)",
    )
    _key(rollback)
    _because(rollback)
    rollback.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="GATE",
        help="let pass what was let in by less than this gate asks today",
    )
    _where(rollback)
    common(rollback)

    history = command("history", "history", "say what was promoted, when, by whom and why")
    history.add_argument("specs", nargs="*", metavar="SPEC", help="names of specs (default: all)")
    _in(history)
    _where(history)
    common(history)

    status = command("status", "status", "say which engines each environment has, and since when")
    paths(status)
    selectors(status)

    attest = command("attest", "attest", "say who says what of an engine, and add to it")
    _attest(attest)

    pull = command("pull", "pull", "have the engine of an environment that runs on this host")
    pull.add_argument("what", metavar="ENV/SPEC", help="such as staging/ocr-detector")
    pull.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="PATH",
        help="a file, or a folder that is there, for it and its manifest",
    )
    pull.add_argument("--variant", metavar="NAME", help="which one, where several run here")
    pull.add_argument("--target", metavar="NAME", help="the engine for it, whatever this host is")
    pull.add_argument("--gpu", metavar="GPU", help="a number or UUID (default: any of them)")
    pull.add_argument(
        "--no-overridden", action="store_true", help="refuse what a gate did not let pass by itself"
    )
    pull.add_argument("--watch", action="store_true", help="follow promotions and rollbacks")
    pull.add_argument(
        "--every", type=_seconds, default=60, metavar="S", help="seconds between (default: 60)"
    )
    pull.add_argument("--json", action="store_true", help="print JSON")
    _where(pull)

    export = command("export", "export", "write engines of an environment as servers want them")
    export.add_argument("format", choices=("triton",), help="a Triton model repository")
    export.add_argument("what", nargs="+", metavar="ENV/SPEC", help="such as staging/ocr-detector")
    export.add_argument("folder", metavar="FOLDER", help="the model repository")
    selectors(export)
    export.add_argument("--name", metavar="NAME", help="of the model (default: the spec's)")
    export.add_argument("--keep", type=int, default=2, metavar="N", help="versions (default: 2)")
    export.add_argument(
        "--instances", type=int, default=1, metavar="N", help="of the model per GPU (default: 1)"
    )
    export.add_argument(
        "--max-batch-size", type=int, metavar="N", help="0 for none (default: what engines allow)"
    )
    export.add_argument(
        "--backend", metavar="NAME", help="a Triton backend of your own that loads these engines"
    )
    _where(export)
    common(export)


def _attest(attest: argparse.ArgumentParser) -> None:
    actions = attest.add_subparsers(metavar="ACTION", required=True)

    def action(name: str, text: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(action=name)
        return made

    verify = action("verify", "tell where engines come from, and whether to trust them")
    verify.add_argument("what", metavar="FILE|ENV/SPEC", help="an engine file, or an environment's")
    _where(verify)
    common(verify)
    for name, text in (
        ("approve", "approve of the engines that would be promoted to an environment"),
        ("results", "attach what the checks of this cache came to"),
    ):
        made = action(name, text)
        paths(made)
        selectors(made)
        made.add_argument("--to", required=True, metavar="ENV", help="whose gates ask for it")
        _key(made)
        if name == "approve":
            _because(made)
    key = action("key", "make a key pair: FILE.key, to be kept secret, and FILE.pub")
    key.add_argument("file", metavar="FILE", help="where to, without the suffix")
    key.add_argument(
        "--kind",
        choices=("ecdsa-p256", "ed25519"),
        default="ecdsa-p256",
        help="of key (default: ecdsa-p256, which cosign takes)",
    )


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0
    if not found > 0:
        raise argparse.ArgumentTypeError(f"expected seconds over 0, found '{text}'")
    return found


def _key(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--key",
        metavar="KEY",
        help="what signs: a private key file (PEM) or a KMS URI (default: $ENGINEFORGE_KEY)",
    )


def _because(made: argparse.ArgumentParser) -> None:
    made.add_argument("--reason", default="", metavar="TEXT", help="why, for the ledger")


def _in(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--in", dest="environment", required=True, metavar="ENV", help="the environment"
    )


def _where(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--environments",
        metavar="FILE",
        default="specs/environments.yaml",
        help="which names them (default: specs/environments.yaml)",
    )
