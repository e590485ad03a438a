"""`engineforge`: runs the command that its arguments mean."""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib import import_module

from engineforge.cli.arguments import parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import NoReturn

_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit; a bug stays a traceback."""
    _open_streams()
    args = parser(sys.argv[1:] if argv is None else argv).parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run: Callable[[argparse.Namespace], int] = import_module(args.module).run
        code = run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        code = _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone: `| head` looks at its own exit code, and whoever
        # looks at ours must not take this for success.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _BROKEN_PIPE
    except Exception as error:
        # Loaded when it is needed, which is not where nothing is to be done.
        from engineforge.cli.failures import told

        code = told(error)
    sys.exit(code)


def _open_streams() -> None:
    """Streams that take any text, also where they were closed or the locale knows only ASCII."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - until we end
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
