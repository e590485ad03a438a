"""The exceptions that a user may see, each with its exit code, and the problem found in a file.

    EngineForgeError          1   something asked for could not be done
    ├── RemoteUnavailable     1   a remote store cannot be used (store/far/objects.py)
    ├── KmsUnavailable        1   a KMS cannot be asked, or refuses (promotion/attest/kms.py)
    ├── UsageError            2   the command line asks for what is not there
    │   └── BadKey            2   a key that cannot be used here (promotion/attest/keys.py)
    ├── SpecError             2   specs or targets are wrong: every problem of every file
    ├── PromotionRefused      3   a gate, or whoever pulls, does not let an engine pass
    │   └── Untrusted         3   it cannot be told where it comes from
    ├── StoreCorrupt          4   an entry of the store is not what its manifest says
    │   ├── RemoteCorrupt     4   the same in a remote store (store/far/remote.py)
    │   ├── BadLayout         4   an environment is no layout (promotion/oci/layout.py)
    │   ├── BlobCorrupt       4   the same in an environment (promotion/oci/repository.py)
    │   ├── Gone              4   what it names is not there (promotion/oci/repository.py)
    │   └── BadArchive        4   a file to import is not what was exported (store/far/archive.py)
    └── HostUnfit             5   this machine lacks what was asked of it

Rooms have their own for what goes wrong there alone, each with the code of what it is derived from.
130 (interrupted) is the command line's own. Anything else is a bug and stays a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


def printable(text: str) -> str:
    """The same without what terminals obey: in a name or a reason of others, anything may stand."""
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )


class EngineForgeError(Exception):
    """Something the user can act on: where, what was found, what was expected, what to do."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\nhint: {self.hint}" if self.hint else message


class UsageError(EngineForgeError):
    """What is asked for is not there, or does not go together."""

    exit_code = 2


class PromotionRefused(EngineForgeError):
    """A gate, or whoever pulls, does not let an engine pass."""

    exit_code = 3


class Untrusted(PromotionRefused):
    """A signature, an attestation or a ledger that is not what it has to be: nothing is promoted by
    it, and nothing loaded."""


class StoreCorrupt(EngineForgeError):
    """What is stored is not what its manifest says."""

    exit_code = 4


class HostUnfit(EngineForgeError):
    """This machine lacks what was asked of it: a package, a GPU, a library, room on its disk."""

    exit_code = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong at one place of a file; line and column count from 1, 0 is "the file"."""

    file: str
    line: int = 0
    column: int = 0
    path: str = ""
    message: str
    hint: str | None = None

    @property
    def place(self) -> tuple[str, int, int, str]:
        """What problems are sorted by."""
        return self.file, self.line, self.column, self.path

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        what = f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"
        return f"{what}\nhint: {self.hint}" if self.hint else what


class SpecError(EngineForgeError):
    """All problems of all files at once, in the order of their places."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.place))
        super().__init__("\n".join(str(problem) for problem in self.problems))
