"""Which files of a folder are specs, what they are called, and where their targets are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from engineforge.errors import UsageError
from engineforge.project.listing import ENVIRONMENTS, SETTINGS, TARGETS, specs_below

__all__ = [
    "ENVIRONMENTS",
    "SETTINGS",
    "TARGETS",
    "find_root",
    "spec_files",
    "spec_name",
    "spec_paths",
]


_SPECS_ARE = "give spec files or their folder; `engineforge init MODEL.onnx` writes a first one"
_SHOW = "`engineforge show {}` says what that engine is"
_NO_SPECS = {
    ".onnx": "`engineforge init {}` writes a spec for it",
    ".engine": _SHOW,
    ".plan": _SHOW,
    ".trt": _SHOW,
}


def find_root(paths: Sequence[Path]) -> Path:
    """The specs folder of some specs: the nearest one, from them upwards, with a targets.yaml."""
    if not paths:
        raise UsageError("no specs are named", hint=_SPECS_ARE)
    roots = {}
    for path in paths:
        if not path.exists():
            raise UsageError(f"'{path}' does not exist", hint=_meant(path))
        if path.is_file() and (hint := _NO_SPECS.get(path.suffix.lower())):
            raise UsageError(f"'{path}' is no spec, by its name", hint=hint.format(path))
        start = path if path.is_dir() else path.parent
        # Not resolved where it can be helped: what is printed should be what was typed.
        above = [start, *start.absolute().parents]
        root = next((folder for folder in above if (folder / TARGETS).is_file()), None)
        if root is None:
            raise UsageError(
                f"no '{TARGETS}' in '{start}' or above",
                hint=f"the folder of the specs needs a '{TARGETS}' that names targets; "
                "`engineforge target detect` prints one to begin with",
            )
        roots[root.resolve()] = root
    if len(roots) != 1:
        raise UsageError(f"the specs belong to several folders that each have a '{TARGETS}'")
    return next(iter(roots.values()))


def _meant(path: Path) -> str:
    """What to write in place of a path that leads nowhere."""
    from engineforge.spec.validate import nearest

    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    if close := nearest(path.name, [each for each in beside if not each.startswith(".")]):
        return f"did you mean '{path.parent / close}'?"
    return _SPECS_ARE


def spec_files(paths: Sequence[Path]) -> list[Path]:
    """The spec files named or contained, each once, by path."""
    return [Path(each) for each in spec_paths(paths)]


def spec_paths(paths: Sequence[Path]) -> list[str]:
    """The same as text: of very many, making paths is what takes longest."""
    found: dict[str, str] = {}
    for path in paths:
        if not path.is_dir():
            found.setdefault(os.path.abspath(path), str(path))  # noqa: PTH100 - links stay
            continue
        above = "" if str(path) == "." else f"{path}/".replace("//", "/")
        files = [above + each for each in specs_below(str(path))]
        if len(paths) == 1 and files:
            return files
        for file in files:
            found.setdefault(os.path.abspath(file), file)  # noqa: PTH100
    if not found:
        raise UsageError(f"no specs (*.yaml) in '{paths[0]}'")
    return sorted(found.values(), key=lambda each: each.split("/"))


def spec_name(file: Path, root: Path) -> str:
    """A spec's name: its path below the specs folder, without the suffix."""
    # A file may be a link to elsewhere, and the folder may have been named in two ways.
    inside = Path(file.name)
    for one, other in (
        (Path(os.path.abspath(file)), Path(os.path.abspath(root))),  # noqa: PTH100 - links stay
        (file.resolve(), root.resolve()),
    ):
        if one.is_relative_to(other):
            inside = one.relative_to(other)
            break
    # A name that is no UTF-8 could be written into no manifest.
    return os.fsencode(inside.with_suffix("").as_posix()).decode("utf-8", "replace")
