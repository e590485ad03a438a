"""Where the file of a model source is on this machine. Imports no package to find out."""

from __future__ import annotations

from importlib.machinery import PathFinder
from pathlib import Path

from engineforge.errors import EngineForgeError
from engineforge.spec.sources import PackageSource, PathSource

_MOST_NAMES = 8


class SourceMissing(EngineForgeError):
    """The file of a source is not there; the hint says how to get it."""

    exit_code = 2


def locate(source: PathSource | PackageSource, folder: Path) -> Path:
    """The ONNX file of a source; SourceMissing if there is none. `folder` is that of the spec."""
    if isinstance(source, PackageSource):
        folder = _package_folder(source.package)
    path = folder / source.path
    if isinstance(source, PackageSource) and ".." in path.parts:
        raise SourceMissing(f"'{source.path}' leads out of the package '{source.package}'")
    if path.is_file():
        return path
    what = "is no regular file" if path.exists() else "does not exist"
    inside = f" in the package '{source.package}'" if isinstance(source, PackageSource) else ""
    raise SourceMissing(f"'{source.path}' {what}{inside}", hint=_hint(source.path, folder))


def missing_file(name: str, folder: Path, *, kind: str = "file") -> SourceMissing:
    """What to say of a file of a source that is not there, relative to the folder of the spec."""
    from engineforge.spec.validate import nearest

    path = folder / name
    if path.exists():
        return SourceMissing(f"'{name}' is no {'regular file' if kind == 'file' else kind}")
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    close = nearest(path.name, beside)
    return SourceMissing(f"'{name}' does not exist", hint=close and f"did you mean '{close}'?")


def _hint(path: str, folder: Path) -> str | None:
    """The model that was probably meant, or those that there are."""
    from engineforge.spec.validate import nearest  # not where nothing is missing

    there = [each.relative_to(folder).as_posix() for each in sorted(folder.rglob("*.onnx"))]
    there = [each for each in there if each != path]
    if (folder / ".." / path).is_file():
        return f"paths are relative to the spec: write ../{path}"
    if close := nearest(path, there):
        return f"did you mean '{close}'?"
    more = ", …" if len(there) > _MOST_NAMES else ""
    return f"there is: {', '.join(there[:_MOST_NAMES])}{more}" if there else None


def _package_folder(name: str) -> Path:
    found = PathFinder.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise SourceMissing(
            f"the Python package '{name}' is not installed here",
            hint=f"install what provides it, such as: python -m pip install {name}",
        )
    return Path(next(iter(found.submodule_search_locations)))
