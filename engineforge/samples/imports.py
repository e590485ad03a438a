"""What the code of people imports beyond its own files and Python's: installed packages, which are
known by version, and what lies on the path, which nothing says the content of."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import FrameType

_INSTALLED_IN = ("site-packages", "dist-packages")


@dataclass(frozen=True, slots=True, kw_only=True)
class Packages:
    """Distributions that code may import, and what each of them requires: those that a spec has
    `named`, and those that the key knows without (`own`)."""

    named: tuple[str, ...]
    own: tuple[str, ...]


class Imports(MetaPathFinder):
    """While it is first on `sys.meta_path`: the top-level modules that are looked for by the module
    `first`, or on its behalf. What a library that was there before looks for by itself is not among
    them: PyTorch's exporter takes torchvision where it finds it."""

    def __init__(self, first: str) -> None:
        self.path = [Path(each).absolute() for each in sys.path]
        self._found = {first}

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        del target
        if path is None and fullname not in self._found and self._asks(sys._getframe(1)):
            self._found.add(fullname)

    def loaded(self) -> list[str]:
        """Those that there were, but for Python's own."""
        found = (name for name in self._found if name in sys.modules)
        return sorted(name for name in found if not _is_of_python(name))

    def _asks(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if str(frame.f_globals.get("__name__")).partition(".")[0] in self._found:
                return True
            frame = frame.f_back
        return False


def _is_of_python(name: str) -> bool:
    if name in sys.stdlib_module_names:
        return True
    import sysconfig  # not for planning

    # Some are generated, such as _sysconfigdata__linux_x86_64-linux-gnu.
    file = getattr(sys.modules[name], "__file__", None)
    if file is None:
        return False
    inside = Path(file).is_relative_to(sysconfig.get_path("stdlib"))
    return inside and not any(each in Path(file).parts for each in _INSTALLED_IN)


def unknown(names: Iterable[str], packages: Packages) -> dict[str, str | None]:
    """Of top-level modules those that are in no key, each with a distribution that it is of; None
    where that is none, or one whose version does not say what it is."""
    of = metadata.packages_distributions()
    allowed = set(required((*packages.named, *packages.own)))
    allowed |= {normal(each) for each in packages.own}  # which may be there without metadata
    found: dict[str, str | None] = {}
    for name in names:
        fixed = [each for each in of.get(name, ()) if not is_editable(each)]
        if not {normal(each) for each in (name, *fixed)} & allowed:
            found[name] = fixed[0] if fixed else None
    return found


def required(names: Iterable[str]) -> dict[str, str]:
    """The exact versions of distributions and of all that they require, as far as they are here, by
    name in its normal form. What only an extra takes is not among them."""
    found: dict[str, str] = {}
    ahead = [normal(each) for each in names]
    while ahead:
        name = ahead.pop()
        if name in found:
            continue
        try:
            one = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = one.version
        for each in one.requires or ():
            wanted = re.match(r"[A-Za-z0-9._-]+", each)
            if wanted is not None and not re.search(r";.*\bextra\b", each):
                ahead.append(normal(wanted[0]))
    return dict(sorted(found.items()))


def normal(name: str) -> str:
    """The one form of the names that mean one distribution, see PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_editable(name: str) -> bool:
    """Whether a distribution is run from where it is written, see PEP 660 and PEP 610.

    PackageNotFoundError if it is not here."""
    told = metadata.distribution(name).read_text("direct_url.json")
    return told is not None and bool(json.loads(told).get("dir_info", {}).get("editable"))
