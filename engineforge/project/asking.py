"""What must be asked again to know which files a spec depends on, where the spec alone does not
say it: packages, folders of samples, code; and which host it is, where that decides."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from glob import glob
from importlib.machinery import PathFinder
from typing import Any

HOST, PACKAGE, FILES = "host", "package", "files"
_MIG = "/dev/nvidia-caps/*"
"""What comes and goes with the instances of MIG."""


def still(asks: str, root: str, shown: str) -> bool:
    """Whether all that is asked, a JSON list of questions with the answers that they had, is
    answered so again. `root` is the folder of the specs, `shown` the GPUs that are left."""
    answers: dict[str, Callable[..., bool]] = {
        HOST: lambda before: host(shown) == before,
        PACKAGE: lambda name, before: package_folder(name) == before,
        FILES: lambda *question: _same_files(root, question),
    }
    return all(answers[kind](*question) for kind, *question in json.loads(asks))


def _same_files(root: str, question: Sequence[Any]) -> bool:
    from engineforge.project.remembered import files_asked

    framework, samples, folder, files, extra = question
    return bool(files) and files_asked(framework, samples, root, folder) == (files, extra)


def package_folder(name: str) -> str | None:
    """Where a package is, which is not imported to find out."""
    found = PathFinder.find_spec(name)
    if found is None or not found.submodule_search_locations:
        return None
    return next(iter(found.submodule_search_locations))


@cache
def host(shown: str) -> str:
    """Other when a package was installed or removed here, or a GPU came, left or was hidden: what
    makes a host unfit may be gone. `shown` are the GPUs that the environment leaves."""
    from engineforge.digest import digest_bytes

    seen = []
    for folder in sys.path:
        if os.path.isdir(folder):  # noqa: PTH112 - the no-op makes no paths
            seen.append(f"{folder} {os.stat(folder).st_mtime_ns}")  # noqa: PTH116
    gpus = sorted((*glob("/dev/nvidia*"), *glob(_MIG)))  # noqa: PTH207
    return digest_bytes("\0".join([sys.version, *seen, *gpus, _driver(), shown]).encode()).hex


def _driver() -> str:
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""
