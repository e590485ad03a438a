"""What is said of an exception, and the exit code that it comes to."""

from __future__ import annotations

import errno
import sys

from engineforge.errors import EngineForgeError, HostUnfit, SpecError, printable

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


def told(error: Exception) -> int:
    """Say it, and give its exit code. Raised again where it is a bug: that stays a traceback."""
    match error:
        case SpecError(problems=problems):
            print(printable(str(error)), file=sys.stderr)
            count = len(problems)
            print(f"{count} problem{'s' if count != 1 else ''}", file=sys.stderr)
            return error.exit_code
        case EngineForgeError():
            print(printable(f"engineforge: {error}"), file=sys.stderr)
            return error.exit_code
        case OSError(errno=number) if number in _NOT_OURS:
            where = f"'{error.filename}'" if error.filename else "the output"
            print(f"engineforge: {where}: {error.strerror}", file=sys.stderr)
            return HostUnfit.exit_code
    raise error
