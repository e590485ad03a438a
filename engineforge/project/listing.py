"""Which files below a folder are specs. Imports next to nothing: this is the no-op."""

from __future__ import annotations

import os

TARGETS, SETTINGS, ENVIRONMENTS = "targets.yaml", "engineforge.yaml", "environments.yaml"
_NOT_SPECS = frozenset({TARGETS, SETTINGS, ENVIRONMENTS})


def specs_below(folder: str) -> list[str]:
    """The paths of all specs below a folder, from there, in the order of paths. OSError."""
    found: list[str] = []
    _add_below(folder, "", found)
    return found


def _add_below(folder: str, below: str, found: list[str]) -> None:
    with os.scandir(folder) as entries:
        here = [
            (each.name, each.path if each.is_dir() else None, each.is_symlink())
            for each in entries
            if each.name[0] != "."
        ]
    here.sort()
    for name, path, link in here:
        if path is not None:
            if not link:  # a link may lead anywhere, and back here
                _add_below(path, f"{below}{name}/", found)
        elif name.endswith((".yaml", ".yml")) and name not in _NOT_SPECS:
            found.append(below + name)
