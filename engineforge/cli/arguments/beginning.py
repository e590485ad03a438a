"""What can be said to the commands that people begin with: init, import-trtexec, completion."""

from __future__ import annotations

import argparse

from engineforge.cli.arguments.options import common

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engineforge.cli.arguments.options import Command


def add_beginning(command: Command) -> None:
    """Add these commands to the others."""
    init = command("init", "init", "write a spec for an ONNX model, to begin with")
    init.add_argument("model", metavar="MODEL.onnx", help="stays where it is")
    init.add_argument("-o", "--output", metavar="FILE", help="the spec (default: specs/MODEL.yaml)")
    _targets(init)
    common(init)

    imported = command(
        "import-trtexec", "import_trtexec", "translate command lines of trtexec into specs"
    )
    imported.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        help="write it there: a .yaml file, or a folder (default: print it)",
    )
    imported.add_argument(
        "--calibration", metavar="FILE", help="the samples that INT8 and FP8 are quantized by"
    )
    _targets(imported)
    imported.add_argument("--json", action="store_true", help="print JSON")
    imported.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="COMMAND",
        help="the command line, in quotes or not, after all options; a script on stdin without it",
    )

    completion = command(
        "completion", "completion", "print what a shell completes commands and options by"
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell")


def _targets(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME",
        help="a target of targets.yaml (default: those that this host can build for)",
    )
