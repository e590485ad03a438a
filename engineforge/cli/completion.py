"""`engineforge completion`: what a shell has to know to complete commands, options and files.

The script is made of the arguments once, by shtab: no key press starts Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from engineforge.cli.arguments import parser

_FOLDERS = frozenset({"DIR", "FOLDER"})
_FILES = _FOLDERS | {
    *("[NAME=]FILE", "[NAME=]PATH", "FILE", "KEY", "MODEL.onnx", "PATH", "SPEC", "SPECS", "WHAT"),
}


def run(args: argparse.Namespace) -> int:
    import shtab

    whole = parser()
    for action in _actions(whole):
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        if metavar in _FILES and action.choices is None:
            found = shtab.DIRECTORY if metavar in _FOLDERS else shtab.FILE
            action.complete = found  # type: ignore[attr-defined] # where shtab looks for it
    print(shtab.complete(whole, args.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
