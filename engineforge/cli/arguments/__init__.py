"""What can be said to `engineforge`: its commands, their arguments, and what they default to."""

from __future__ import annotations

import argparse

from engineforge import __version__
from engineforge.cli.arguments.beginning import add_beginning
from engineforge.cli.arguments.building import add_building
from engineforge.cli.arguments.engines import add_engines
from engineforge.cli.arguments.examples import epilog
from engineforge.cli.arguments.nightly import add_nightly
from engineforge.cli.arguments.parsers import Help, Parser, Unasked
from engineforge.cli.arguments.promotion import add_promotion
from engineforge.cli.arguments.report import add_report
from engineforge.cli.arguments.store import add_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = """\
examples:
  engineforge init model.onnx                   write a spec for a model, to begin with
  engineforge build specs                       build what is stale
  engineforge plan specs --explain              say why it is stale
  engineforge build specs/ocr.yaml --variant fp32 --target rtx-ada
  engineforge check specs --accuracy            are the converted models as good as promised?
  engineforge show model.engine                 what is this engine?

exit codes: 0 done, 1 a build or check failed, 2 bad usage or spec, 3 promotion refused,
4 store corrupt, 5 this host cannot do it, 130 interrupted
"""


def parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """For the command that `argv` begins with, or for all of them."""
    asked = argv[0] if argv and not argv[0].startswith("-") else None
    whole, found = _parser(asked)
    return whole if found else _parser(None)[0]


def _parser(asked: str | None) -> tuple[argparse.ArgumentParser, bool]:
    """Knows only the command `asked` for; and whether there is such a command."""
    names = set()
    whole = Parser(
        prog="engineforge",
        description="A declarative build system for NVIDIA TensorRT engines.",
        epilog=_EPILOG,
        formatter_class=Help,
    )
    whole.add_argument("--version", action="version", version=f"engineforge {__version__}")
    # With `prog` nothing is formatted to find out what that is.
    commands = whole.add_subparsers(metavar="COMMAND", required=True, prog="engineforge")

    def command(name: str, module: str, text: str) -> argparse.ArgumentParser:
        names.add(name)
        if asked not in (None, name):
            return Unasked()
        made = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=epilog(name),
            formatter_class=Help,
        )
        made.set_defaults(module=f"engineforge.cli.{module}")
        return made

    for add in (
        add_beginning,
        add_building,
        add_engines,
        add_store,
        add_promotion,
        add_report,
        add_nightly,
    ):
        add(command)
    return whole, asked is None or asked in names
