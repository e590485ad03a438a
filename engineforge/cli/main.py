"""`engineforge`: runs the command that its arguments mean."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from engineforge.cli.arguments import parser
from engineforge.errors import EngineForgeError, HostUnfit, SpecError, printable

_INTERRUPTED = 130
_BROKEN_PIPE = 141
# What the machine answers, not a bug: permissions, full and failing disks.
_NOT_OURS = {
    errno.EACCES,
    errno.EPERM,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit; a bug stays a traceback."""
    _open_streams()
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run: Callable[[argparse.Namespace], int] = import_module(args.module).run
        code = run(args)
        sys.stdout.flush()
    except SpecError as error:
        print(printable(str(error)), file=sys.stderr)
        count = len(error.problems)
        print(f"{count} problem{'s' if count != 1 else ''}", file=sys.stderr)
        code = error.exit_code
    except EngineForgeError as error:
        print(printable(f"engineforge: {error}"), file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        code = _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone: `| head` looks at its own exit code, and whoever
        # looks at ours must not take this for success.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _BROKEN_PIPE
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        where = f"'{error.filename}'" if error.filename else "the output"
        print(f"engineforge: {where}: {error.strerror}", file=sys.stderr)
        code = HostUnfit.exit_code
    sys.exit(code)


def _open_streams() -> None:
    """Streams that take any text, also where they were closed or the locale knows only ASCII."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - until we end
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
