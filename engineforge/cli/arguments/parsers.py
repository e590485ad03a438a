"""Parsers of arguments that are made in no time: what is not asked for is not looked up."""

from __future__ import annotations

import argparse
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_COLUMNS = 80


def _width() -> int:
    """Columns for help texts, as `shutil.get_terminal_size` would say; that is made of much that
    nobody needs here."""
    try:
        columns = int(os.environ.get("COLUMNS", "0"))
        return (columns or os.get_terminal_size().columns or _COLUMNS) - 2
    except (ValueError, OSError):
        return _COLUMNS - 2


class Help(argparse.RawDescriptionHelpFormatter):
    """With the examples as they are written."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_width())


class Discreet(argparse.ArgumentParser):
    """Repeats no URL that it does not understand: one of a webhook, behind an option that is
    mistyped, is a secret, and CI keeps what is said."""

    def error(self, message: str) -> NoReturn:
        words = (word.partition("://") for word in message.split(" "))
        super().error(" ".join(f"{word}{found}{'…' if found else ''}" for word, found, _ in words))


class Unasked(argparse.ArgumentParser):
    """Stands for a command that is not meant, and forgets its arguments: making parsers of them all
    would take as long as the rest of a build with nothing to do."""

    def __init__(self) -> None:
        pass

    def add_argument(self, *_: object, **__: object) -> Any:  # noqa: ANN401 - nobody asks
        return None

    def set_defaults(self, **_: object) -> None:
        pass

    def add_subparsers(self, **_: object) -> Any:  # noqa: ANN401
        return self

    def add_parser(self, *_: object, **__: object) -> argparse.ArgumentParser:
        return self
