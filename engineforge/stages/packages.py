"""Libraries that stages use, the release series that are tested, and whether they are here. Imports
none of them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata

_PYTHON = (3, 11)  # the oldest that ONNX Runtime 1.31 and onnx 1.23 are both there for


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A distribution, under any of its `names`, and the release series that is tested; None where
    any will do, since it does not shape what comes out. `but_for` are precisions that it has no
    part in."""

    names: tuple[str, ...]
    series: str | None
    but_for: tuple[str, ...] = ()

    @property
    def version(self) -> str | None:
        """The exact version that is here."""
        for name in self.names:
            try:
                return metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return None


def series(packages: Sequence[Package]) -> dict[str, str]:
    """The series of those that shape what comes out."""
    return {each.names[0]: each.series for each in packages if each.series is not None}


def installed(packages: Sequence[Package]) -> Mapping[str, str]:
    """The exact versions of those that are here."""
    found = ((each.names[0], each.version) for each in packages)
    return {name: version for name, version in found if version is not None}


def missing(what: str, packages: Sequence[Package], extra: str) -> str | None:
    """Why `what` cannot be used here, and what to do; None if it can. `extra` is what this package
    calls the installation."""
    if sys.version_info < _PYTHON:
        needed = ".".join(map(str, _PYTHON))
        return f"{what} needs Python {needed} or later, and this is {platform.python_version()}"
    for package in packages:
        version, name = package.version, package.names[0]
        install = f"python -m pip install 'engineforge[{extra}]'"
        if version is None:
            return f"{what} needs '{name}', which is not installed: {install}"
        if package.series is not None and not f"{version}.".startswith(f"{package.series}."):
            return f"{what} needs '{name}' {package.series}, found {version}: {install}"
    return None
