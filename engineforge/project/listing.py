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
    here = []
    with os.scandir(folder) as entries:
        for each in entries:
            name = each.name
            if each.is_dir():
                # A link may lead anywhere, and back here.
                if name[0] != "." and not each.is_symlink():
                    here.append((name, each.path))
            elif name.endswith((".yaml", ".yml")) and name[0] != "." and name not in _NOT_SPECS:
                here.append((name, ""))
    here.sort()
    for name, path in here:
        if path:
            _add_below(path, f"{below}{name}/", found)
        else:
            found.append(below + name)
