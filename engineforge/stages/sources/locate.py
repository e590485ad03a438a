"""Where the file of a model source is on this machine. Imports no package to find out."""

from __future__ import annotations

from importlib.machinery import PathFinder
from pathlib import Path

from engineforge.errors import EngineForgeError
from engineforge.spec.model import PackageSource, Source


class SourceMissing(EngineForgeError):
    """The file of a source is not there; the hint says how to get it."""

    exit_code = 2


def locate(source: Source, folder: Path) -> Path:
    """The ONNX file of a source; SourceMissing if there is none. `folder` is that of the spec."""
    if isinstance(source, PackageSource):
        folder = _package_folder(source.package)
    path = folder / source.path
    if path.is_file():
        return path
    what = "is no regular file" if path.exists() else "does not exist"
    near = sorted(each.name for each in path.parent.glob("*.onnx")) if path.parent.is_dir() else []
    hint = f"'{path.parent.name}/' has: {', '.join(near)}" if near else None
    inside = f" in the package '{source.package}'" if isinstance(source, PackageSource) else ""
    raise SourceMissing(f"'{source.path}' {what}{inside}", hint=hint)


def _package_folder(name: str) -> Path:
    found = PathFinder.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise SourceMissing(
            f"the Python package '{name}' is not installed here",
            hint=f"install what provides it, such as: python -m pip install {name}",
        )
    return Path(next(iter(found.submodule_search_locations)))
