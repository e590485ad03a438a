"""Data sets as streams of what a model is run on: of any size, never all in memory.

Here is which files a data set is made of, for planning; read.py has the samples in them.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path

from engineforge.errors import EngineForgeError
from engineforge.spec.model import ArrayFiles, DataSet, ImageFolder

ARRAYS = (".npz", ".npy")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
_LISTED = 8


class BadSamples(EngineForgeError):
    """Data that cannot be used; the message names the file and the sample."""

    exit_code = 2


FORMAT = 1
"""Of how files become samples: raised when the same files would give others."""

PILLOW = "13"
"""The series of Pillow that images are read with: another may scale and decode otherwise."""


def how_read(data: DataSet) -> dict[str, object]:
    """What of this package shapes samples: part of keys."""
    return {"format": FORMAT, **({"pillow": PILLOW} if isinstance(data, ImageFolder) else {})}


def data_files(data: DataSet, folder: Path) -> list[Path]:
    """Every file that a data set is made of, in its order; `folder` is that of the spec.

    Of a function: the source of its module, those of the packages that it is in, then its `files`.
    Nothing is opened or imported.
    BadSamples where one is missing, or there are none; OSError where a folder cannot be read.
    """
    if isinstance(data, ArrayFiles):
        return _array_files(folder / data.path, data.path)
    if isinstance(data, ImageFolder):
        return _images(folder / data.path, data.path)
    source = function_source(data.function, folder)
    return [source, *_packages(source, data.function), *_files(data.files, folder)]


def _packages(source: Path, function: str) -> Iterator[Path]:
    """The sources of the packages that a module is in: they run when it is imported."""
    folder = source.parent.parent if source.name == "__init__.py" else source.parent
    for _ in range(function.partition(":")[0].count(".")):
        if (package := folder / "__init__.py").is_file():
            yield package
        folder = folder.parent


def near(name: str, names: Collection[str]) -> str | None:
    """A hint: the name that was probably meant, else some of those that there are."""
    from engineforge.spec.validate import nearest  # brings yaml, and most data is there

    names = sorted(names)
    if close := nearest(name, names):
        return f"did you mean '{close}'?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"there is: {', '.join(names[:_LISTED])}{more}" if names else None


def _missing(path: Path, called: str) -> BadSamples:
    gone = next(each for each in reversed((path, *path.parents)) if not each.exists())
    beside = [each.name for each in gone.parent.iterdir()] if gone.parent.is_dir() else []
    return BadSamples(f"'{called}' does not exist", hint=near(gone.name, beside))


def _array_files(path: Path, called: str) -> list[Path]:
    if not path.exists():
        raise _missing(path, called)
    if not path.is_dir():
        if path.suffix in ARRAYS:
            return [path]
        hint = "numpy.savez('samples.npz', x=x) writes one, with an array for each input"
        raise BadSamples(f"'{called}' is no .npz file and no .npy file", hint=hint)
    here = [each for each in path.iterdir() if not each.name.startswith(".")]
    found = [each for each in here if each.suffix in ARRAYS and not each.is_dir()]
    if not found:
        pictures = any(each.suffix.lower() in IMAGES or each.is_dir() for each in here)
        message = f"the folder '{called}' has no .npz files and no .npy files"
        raise BadSamples(
            message, hint=f"for images write data: {{images: {called}}}" if pictures else None
        )
    return sorted(found, key=bytes)


def _images(root: Path, called: str) -> list[Path]:
    if not root.exists():
        raise _missing(root, called)
    if not root.is_dir():
        raise BadSamples(f"'{called}' is no folder", hint="'images' names a folder of images")
    found = sorted(_images_in(root, called, ()), key=lambda each: bytes(each.relative_to(root)))
    if not found:
        hint = f"images are files that end in {', '.join(IMAGES)}"
        raise BadSamples(f"the folder '{called}' has no images", hint=hint)
    return found


def _images_in(folder: Path, called: str, above: tuple[Path, ...]) -> Iterator[Path]:
    """Follows links to folders, as data sets are often put together from some."""
    real = folder.resolve()
    if real in above:
        raise BadSamples(f"the folder '{called}' holds a link to what it stands in: '{folder}'")
    for each in folder.iterdir():
        if each.name.startswith("."):
            continue
        if each.is_dir():
            yield from _images_in(each, called, (*above, real))
        elif each.suffix.lower() in IMAGES:
            yield each


def _files(names: Collection[str], folder: Path) -> Iterator[Path]:
    for name in names:
        path = folder / name
        if not path.exists():
            raise _missing(path, name)
        if path.is_dir():
            raise BadSamples(f"'{name}' is a folder", hint="'files' names files, one by one")
        yield path


def function_source(function: str, folder: Path) -> Path:
    """The source file of the module of `module:function`: the one that `import` would take with
    the spec's folder first on the path. For a package that is its `__init__.py`."""
    module = function.partition(":")[0]
    beside = str(folder.absolute())
    search = [beside, *sys.path]
    spec = None
    for depth, part in enumerate(module.split(".")):
        # By the last part of its name: with the full one, parents would have to be imported.
        spec = PathFinder.find_spec(part, search)
        if spec is None:
            names = _modules(Path(each) for each in (search if depth else search[:1]))
            where = f"in '{module.rsplit('.', 1)[0]}'" if depth else "beside the spec or installed"
            raise BadSamples(f"'{function}': no module '{part}' {where}", hint=near(part, names))
        search = list(spec.submodule_search_locations or ())
    if spec is None or spec.origin is None or not isinstance(spec.loader, SourceFileLoader):
        message = f"'{function}': '{module}' has no Python source, so nothing says what it gives"
        raise BadSamples(message, hint="write the function into a .py file beside the spec")
    source = Path(spec.origin)
    if not source.is_relative_to(beside):
        return source
    first = module.partition(".")[0]
    if first in sys.stdlib_module_names:
        message = f"'{function}': '{first}' is also a module of Python's own"
        raise BadSamples(message, hint="rename the file, such as 'my_" + first + "'")
    return folder / source.relative_to(beside)


def _modules(folders: Iterator[Path]) -> set[str]:
    """What could be imported from these folders, by the look of it."""
    found = [each for folder in folders if folder.is_dir() for each in folder.iterdir()]
    return {each.stem for each in found if each.suffix == ".py" or (each / "__init__.py").exists()}
