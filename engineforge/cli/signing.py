"""Who promotes and signs: the key, the name and the environments that the command line, the process
environment and the machine give."""

from __future__ import annotations

import argparse
import getpass
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from engineforge.cli import world
from engineforge.errors import UsageError
from engineforge.project.folder import spec_name
from engineforge.promotion.promoting import Who

if TYPE_CHECKING:
    from engineforge.project.promotion import Environments
    from engineforge.promotion.attest.keys import SigningKey

_KEY, _PASSWORD = "ENGINEFORGE_KEY", "ENGINEFORGE_KEY_PASSWORD"


def environments(file: Path) -> Environments:
    """Those that a file names; UsageError or SpecError where it cannot be read."""
    from engineforge.project.promotion import Environments

    return Environments(file, os.environ, world.say)


def spec_named(args: argparse.Namespace, text: str) -> str:
    """The name of a spec, which may be given as the path of its file."""
    path = Path(text)
    if path.suffix not in (".yaml", ".yml"):
        return text
    return spec_name(path, Path(args.environments).parent)


def signing_key(args: argparse.Namespace) -> SigningKey | None:
    """The key that is named; None where none is."""
    text = args.key or os.environ.get(_KEY)
    if not text:
        return None
    from engineforge.promotion.attest.keys import open_signing_key

    key = open_signing_key(text, root=Path(), password=os.environ.get(_PASSWORD))
    world.say_notes(key.notes)
    return key


def who(args: argparse.Namespace, key: SigningKey | None) -> Who:
    """UsageError where nothing can be signed, or gates are overridden without a reason."""
    if key is None:
        raise UsageError(
            "what is promoted is signed, and there is no key",
            hint=f"--key FILE, or ${_KEY}; `engineforge attest key FILE` makes one",
        )
    reason = getattr(args, "reason", "")
    if getattr(args, "override", None) and not reason.strip():
        raise UsageError("--override needs a reason", hint="--reason TEXT; it is kept for ever")
    return Who(key=key, by=_by(), reason=reason, now=world.now().replace(microsecond=0))


def _by() -> str:
    """A name for people; who it really was, the key says."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in containers
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
