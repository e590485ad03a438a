"""A Python function as samples: called, and what it gives read one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from engineforge.samples import BadSamples
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
from engineforge.samples.user_code import UserCode
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
    user = UserCode.find(data.function, folder, files, raises=BadSamples, listed="beside 'python'")
    with user.imported() as function:
        with user.running():
            result = function()
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


def _samples(
    items: Iterable[object],
    chosen: Iterable[int] | None,
    user: UserCode,
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
    item: object, user: UserCode, index: int, inputs: Sequence[TensorInterface], labels: str | None
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
    given: Mapping[str, object], user: UserCode, place: str, names: Sequence[str]
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
