"""What is said of a command line that cannot be understood: what was meant, and where to look."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from engineforge.errors import UsageError, printable
from engineforge.spec.validate import nearest

_CHOICE = re.compile(r"(?:argument )?(.*?): invalid choice: '(.*?)' \(choose from (.*)\)")
_URL = re.compile(r"://\S*")
_UNKNOWN = "unrecognized arguments: "


def mistake(parser: argparse.ArgumentParser, message: str) -> str:
    """The lines that end a command. `message` is argparse's own. No URL is repeated: one behind an
    option that is mistyped may be a secret, and CI keeps what is said."""
    asked, close = parser, None
    message = _URL.sub("://…", message)
    if found := _CHOICE.fullmatch(message):
        what, word, choices = found.groups()
        names = [each.strip("'") for each in choices.split(", ")]
        close = nearest(word, names)
        message = f"{what}: '{word}' is none of {', '.join(names)}"
        if what == "COMMAND":
            message = f"there is no command '{word}'"
    elif message.endswith("COMMAND"):
        message = "what is to be done?"
    elif message.startswith(_UNKNOWN):
        asked = _asked(parser)
        word = message.removeprefix(_UNKNOWN).split()[0]
        message = f"'{word}' is nothing that it takes"
        close = nearest(word.partition("=")[0], [*_options(asked)]) if word[0] == "-" else None
    hint = f"`{asked.prog} --help` lists what there is, with examples"
    if asked.prog == "engineforge" and close is None:
        hint = f"`engineforge init MODEL.onnx` to begin with; {hint}"
    error = UsageError(message, hint=f"did you mean '{close}'? {hint}" if close else hint)
    return printable(f"{asked.prog}: {error}\n")


def _asked(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser of the command that was asked for: only that one was made."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) and len(action.choices) == 1:
            asked: argparse.ArgumentParser = next(iter(action.choices.values()))
            return asked
    return parser


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _options(each)
