"""Functions of people's own: imported from beside their spec, run, and forgotten afterwards.

Two specs may each have a `data.py`. Whatever such code raises is told with its line, as an error of
the kind that is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from engineforge.errors import EngineForgeError
from engineforge.samples import BadSamples, function_source, near
from engineforge.samples.imports import Imports, Packages, unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCode:
    """`function` is `module:name`, in the file `source`, and `folder` is that of the spec; of the
    `files`, which are in the key, are its imports from there. `raises` is what becomes of its
    errors, `listed` where a spec names such files. Of what is installed it may import `packages`;
    None: anything."""

    function: str
    source: Path
    folder: Path
    files: tuple[Path, ...]
    raises: type[EngineForgeError]
    listed: str
    packages: Packages | None = None

    @classmethod
    def find(
        cls,
        function: str,
        folder: Path,
        files: Sequence[Path],
        *,
        raises: type[EngineForgeError],
        listed: str,
        packages: Packages | None = None,
    ) -> UserCode:
        """The function, of which nothing is imported yet; `raises` if there is no such module."""
        try:
            source = function_source(function, folder)
        except BadSamples as error:
            if isinstance(error, raises):
                raise
            raise raises(error.args[0], hint=error.hint) from error
        return cls(
            function=function,
            source=source.absolute(),
            folder=folder.absolute(),
            files=tuple(each.absolute() for each in files),
            raises=raises,
            listed=listed,
            packages=packages,
        )

    @property
    def called(self) -> str:
        return f"'{self.function}'"

    @contextmanager
    def imported(self) -> Iterator[Callable[..., Any]]:
        """The function, for as long as it is needed: at the end, what came from beside the spec is
        forgotten, and it is an error if some of that is not among the files, or if it imported
        what is installed and not among the packages."""
        before, imports = set(sys.modules), Imports(self.function.partition(":")[0].split(".")[0])
        sys.meta_path.insert(0, imports)
        try:
            with self.running():
                function = self._function()
            yield function
            for name in sorted(set(sys.modules) - before):
                if self._has_beside(name, sys.modules[name]):
                    self._must_be_listed(sys.modules[name])
            self._must_be_known(imports)
        finally:
            sys.meta_path.remove(imports)
            for name in set(sys.modules) - before:
                if self._has_beside(name, sys.modules[name]):
                    del sys.modules[name]

    @contextmanager
    def running(self) -> Iterator[None]:
        """As `beside`, and what it raises becomes `raises`; what is that already stays as it is."""
        try:
            with self.beside():
                yield
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            if isinstance(error, self.raises):
                raise
            raise self.failure(error) from error

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Its imports find what is beside the spec, and no bytecode is left there."""
        beside, bytecode = str(self.folder), sys.dont_write_bytecode
        sys.path.insert(0, beside)
        sys.dont_write_bytecode = True
        try:
            yield
        finally:
            sys.dont_write_bytecode = bytecode
            with contextlib.suppress(ValueError):
                sys.path.remove(beside)

    def failure(self, error: BaseException) -> EngineForgeError:
        """What to raise for an error of its code."""
        said = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
        hint = None
        if isinstance(error, ModuleNotFoundError) and error.name:
            hint = f"install '{error.name}', or put it beside the spec"
        return self.raises(f"{self.called} failed{self.line(error)}: {said}", hint=hint)

    def line(self, error: BaseException) -> str:
        """Where in its files an error came from, such as ` at net.py:12`; empty if not there."""
        if isinstance(error, SyntaxError) and error.filename:
            return f" at {Path(error.filename).name}:{error.lineno}"
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if Path(frame.filename) in (self.source, *self.files):
                return f" at {Path(frame.filename).name}:{frame.lineno}"
        return ""

    def _function(self) -> Callable[..., Any]:
        name, _, attribute = self.function.partition(":")
        importlib.invalidate_caches()
        module = importlib.import_module(name)
        if module.__file__ is None or not Path(module.__file__).samefile(self.source):
            message = f"{self.called}: '{name}' is loaded already, from '{module.__file__}'"
            raise self.raises(message, hint=f"rename '{self.source.name}'")
        found = getattr(module, attribute, None)
        if not callable(found):
            functions = [each for each, value in vars(module).items() if callable(value)]
            message = f"{self.called}: '{self.source.name}' has no function '{attribute}'"
            raise self.raises(message, hint=near(attribute, functions))
        return found  # type: ignore[no-any-return]

    def _has_beside(self, name: str, module: ModuleType) -> bool:
        """Whether an imported module lies in the spec's folder, where this name leads."""
        first = self.folder / name.partition(".")[0]
        where = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
        path = Path(where)
        return path == first.with_name(f"{first.name}.py") or first in (path, *path.parents)

    def _must_be_listed(self, module: ModuleType) -> None:
        """An error where a change of that module would go unseen."""
        if module.__file__ is None:
            return
        if any(Path(module.__file__).samefile(each) for each in self.files):
            return
        name = Path(module.__file__).relative_to(self.folder).as_posix()
        message = f"{self.called} imports '{name}', and a change of that would go unseen"
        raise self.raises(message, hint=f"name it {self.listed}: files: [{name}]")

    def _must_be_known(self, imports: Imports) -> None:
        """An error where another version of what it imported would go unseen."""
        if self.packages is None:
            return
        names = [n for n in imports.loaded() if not self._has_beside(n, sys.modules[n])]
        found = unknown(names, self.packages) if names else {}
        for name in (name for name, distribution in found.items() if distribution is None):
            if (where := self._unlisted(name, imports.path)) is not None:
                message = f"{self.called} imports '{name}', and a change of that would go unseen"
                beside = f"put '{where.name}' beside the spec, and name what is in it"
                raise self.raises(message, hint=f"{beside} {self.listed}: files: […]")
        if packages := sorted({each for each in found.values() if each is not None}):
            first = next(
                name for name, distribution in found.items() if distribution == packages[0]
            )
            message = (
                f"{self.called} imports '{first}', and another version of that would go unseen"
            )
            hint = f"name it {self.listed}: packages: [{', '.join(packages)}]"
            raise self.raises(message, hint=hint)

    def _unlisted(self, name: str, path: Sequence[Path]) -> Path | None:
        """What of a module on the path is not among the files: its folder, or itself."""
        for each in [n for n in sys.modules if n.partition(".")[0] == name]:
            file = getattr(sys.modules[each], "__file__", None)
            if file is None or any(Path(file).samefile(own) for own in self.files):
                continue
            # Some libraries write modules of their own, into folders of their own.
            for folder in path:
                if Path(file).is_relative_to(folder):
                    return folder / Path(file).relative_to(folder).parts[0]
        return None
