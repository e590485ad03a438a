"""A Python function as samples: found, imported, called, and what it gives read one by one.

What is beside the spec is imported for one stream alone and forgotten after it, so that two specs
may each have a `data.py`. Whatever the function raises is told with its line.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engineforge.samples import BadSamples, function_source, near
from engineforge.samples.arrays import Stack
from engineforge.samples.rows import HeldRows
from engineforge.samples.sample import (
    Array,
    Sample,
    Source,
    array_names,
    check_labels,
    native,
    require,
)
from engineforge.spec.model import PythonFunction, TensorInterface

_EXPECTED = "a mapping of arrays by input name, or an iterable of such, each what one run takes"
_END = object()


@contextmanager
def open_function(
    data: PythonFunction,
    folder: Path,
    inputs: Sequence[TensorInterface],
    labels: str | None,
    *,
    files: Sequence[Path],
) -> Iterator[Source]:
    """What the function gives: arrays with all samples along axis 0, or sample by sample. What it
    imports from beside the spec must be among `files`, whose content is in the key."""
    user = _User(
        data.function, function_source(data.function, folder).absolute(), folder.absolute()
    )
    before = set(sys.modules)
    try:
        with user.running():
            result = _function(user)()
        if isinstance(result, Mapping):
            place = user.called
            arrays = _arrays(result, user, place, array_names(inputs, labels))
            rows = {name: HeldRows(each, f"{place}, '{name}'") for name, each in arrays.items()}
            stack = Stack.of(rows, inputs, labels, place)
            yield Source(
                stack.count,
                lambda chosen: stack.read(range(stack.count) if chosen is None else chosen, place),
            )
        elif isinstance(result, Iterable) and not isinstance(result, str | bytes | np.ndarray):
            with user.running():
                count = len(result) if isinstance(result, Sized) else None
            items = result
            yield Source(count, lambda chosen: _samples(items, chosen, user, inputs, labels))
        else:
            found = type(result).__name__
            raise BadSamples(f"{user.called} gave a {found}", hint=f"expected {_EXPECTED}")
        for name in sorted(set(sys.modules) - before):
            if user.has_beside(name, sys.modules[name]):
                user.must_be_listed(sys.modules[name], files)
    finally:
        for name in set(sys.modules) - before:
            if user.has_beside(name, sys.modules[name]):
                del sys.modules[name]


def _samples(
    items: Iterable[object],
    chosen: Iterable[int] | None,
    user: _User,
    inputs: Sequence[TensorInterface],
    labels: str | None,
) -> Iterator[Sample]:
    wanted = None if chosen is None else iter(chosen)
    want = None if wanted is None else next(wanted, None)
    index = 0
    with user.running():
        iterator = iter(items)
    while wanted is None or want is not None:
        with user.running():
            item = next(iterator, _END)
        if item is _END:
            if want is not None:
                raise BadSamples(f"{user.called} says more samples than it gives: {index}")
            return
        if wanted is None or index == want:
            yield _sample(item, user, index, inputs, labels)
            want = None if wanted is None else next(wanted, None)
        index += 1


def _sample(
    item: object, user: _User, index: int, inputs: Sequence[TensorInterface], labels: str | None
) -> Sample:
    place = f"{user.called}, sample {index}"
    if not isinstance(item, Mapping):
        raise BadSamples(f"{place} is a {type(item).__name__}", hint=f"expected {_EXPECTED}")
    arrays = _arrays(item, user, place, array_names(inputs, labels))
    # In memory of its own: a function may fill one buffer again and again.
    feed = {each.name: native(np.array(arrays[each.name], order="C")) for each in inputs}
    if labels is None:
        return Sample(feed, None, place)
    label = np.atleast_1d(arrays[labels])
    check_labels(label.dtype, place, labels)
    return Sample(feed, label.copy(), place)


def _arrays(
    given: Mapping[str, object], user: _User, place: str, names: Sequence[str]
) -> dict[str, Array]:
    with user.running():
        require(names, given.keys(), place)
        found = {name: given[name] for name in names}
    for name, value in found.items():
        if not isinstance(value, np.ndarray | np.generic):
            kind = type(value).__name__
            message = f"{place}, '{name}': expected a NumPy array, found {kind}"
            raise BadSamples(message, hint="numpy.asarray(...) with the type that the input has")
    return {name: np.asarray(value) for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class _User:
    """Code that is not ours."""

    function: str
    source: Path
    folder: Path

    @property
    def called(self) -> str:
        return f"'{self.function}'"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Its imports find what is beside the spec, and no bytecode is left there; what it raises
        becomes BadSamples."""
        beside, bytecode = str(self.folder), sys.dont_write_bytecode
        sys.path.insert(0, beside)
        sys.dont_write_bytecode = True
        try:
            yield
        except (Exception, SystemExit) as error:
            if isinstance(error, BadSamples):
                raise
            said = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
            hint = None
            if isinstance(error, ModuleNotFoundError) and error.name:
                hint = f"install '{error.name}', or put it beside the spec"
            raise BadSamples(
                f"{self.called} failed{self._line(error)}: {said}", hint=hint
            ) from error
        finally:
            sys.dont_write_bytecode = bytecode
            with contextlib.suppress(ValueError):
                sys.path.remove(beside)

    def _line(self, error: BaseException) -> str:
        if isinstance(error, SyntaxError) and error.filename:
            return f" at {Path(error.filename).name}:{error.lineno}"
        for frame in reversed(traceback.extract_tb(error.__traceback__)):
            if Path(frame.filename) == self.source:
                return f" at {self.source.name}:{frame.lineno}"
        return ""

    def has_beside(self, name: str, module: ModuleType) -> bool:
        """Whether an imported module lies in the spec's folder, where this name leads."""
        first = self.folder / name.partition(".")[0]
        where = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
        path = Path(where)
        return path == first.with_name(f"{first.name}.py") or first in (path, *path.parents)

    def must_be_listed(self, module: ModuleType, files: Sequence[Path]) -> None:
        """BadSamples where a change of that module would go unseen."""
        if module.__file__ is None or any(Path(module.__file__).samefile(each) for each in files):
            return
        name = Path(module.__file__).relative_to(self.folder).as_posix()
        message = f"{self.called} imports '{name}', and a change of that would go unseen"
        raise BadSamples(message, hint=f"name it beside 'python': files: [{name}]")


def _function(user: _User) -> Callable[[], Any]:
    name, _, attribute = user.function.partition(":")
    importlib.invalidate_caches()
    module = importlib.import_module(name)
    if module.__file__ is None or not Path(module.__file__).samefile(user.source):
        message = f"{user.called}: '{name}' is loaded already, from '{module.__file__}'"
        raise BadSamples(message, hint=f"rename '{user.source.name}'")
    found = getattr(module, attribute, None)
    if not callable(found):
        functions = [each for each, value in vars(module).items() if callable(value)]
        message = f"{user.called}: '{user.source.name}' has no function '{attribute}'"
        raise BadSamples(message, hint=near(attribute, functions))
    return found  # type: ignore[no-any-return]
