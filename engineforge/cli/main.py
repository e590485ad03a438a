"""`engineforge`: runs the command that its arguments mean."""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import NoReturn

_INTERRUPTED = 130
_BROKEN_PIPE = 141
_SPECS = "specs"
_MADE_BETWEEN = 100_000
"""Objects that are made between two collections of garbage: of a large project there are very many,
all of them stay, and looking through them took as long as making them."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit; a bug stays a traceback."""
    _open_streams()
    words = sys.argv[1:] if argv is None else argv
    try:
        code = _code(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        code = _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone: `| head` looks at its own exit code, and whoever
        # looks at ours must not take this for success.
        _drop_output()
        code = _BROKEN_PIPE
    except Exception as error:
        # Loaded when it is needed, which is not where nothing is to be done.
        from engineforge.cli.failures import told

        code = told(error)
        if isinstance(error, OSError) and not error.filename:
            _drop_output()
    sys.exit(code)


def _drop_output() -> None:
    """What is still to be written cannot be, which is not to be tried and told again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _code(words: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # What is said most often, and comes to nothing most often, is understood without a parser.
    command, *paths = words or ("",)
    glance = None
    if command in ("build", "plan") and not any(each.startswith("-") for each in paths):
        from engineforge.cli.noop import unchanged

        if (glance := unchanged(command, paths or [_SPECS])) is None:
            return 0
    import gc

    from engineforge.cli.arguments import parser

    gc.set_threshold(_MADE_BETWEEN)
    args = parser(words).parse_args(words)
    args.glance = glance
    run: Callable[[argparse.Namespace], int] = import_module(args.module).run
    return run(args)


def _open_streams() -> None:
    """Streams that take any text, also where they were closed or the locale knows only ASCII."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - until we end
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
