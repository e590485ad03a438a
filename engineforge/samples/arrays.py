"""`.npz` and `.npy` files as samples, and how arrays that hold many samples become them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from engineforge.samples import BadSamples
from engineforge.samples.rows import Rows, StoredRows, reading
from engineforge.samples.sample import (
    Array,
    Sample,
    Source,
    array_names,
    check_labels,
    require,
    written,
)
from engineforge.spec.model import TensorInterface


@dataclass(frozen=True, slots=True)
class _Column:
    """How an array becomes what one input takes: so many rows a sample, or one row as it is."""

    rows: Rows
    step: int
    whole: bool

    def skip(self, samples: int) -> None:
        self.rows.skip(samples * self.step)

    def take(self, place: str) -> Array:
        taken = self.rows.take(self.step, place)
        return taken.reshape(taken.shape[1:]) if self.whole else taken


@dataclass(frozen=True, slots=True)
class Stack:
    """Arrays with samples along axis 0.

    One of the input's rank has rows that the model takes as many at a time as its first dimension
    says, one where that is dynamic; of an array of one rank more, each row is what the input takes.
    """

    count: int
    _inputs: Mapping[str, _Column]
    _labels: _Column | None

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, Rows],
        inputs: Sequence[TensorInterface],
        labels: str | None,
        place: str,
    ) -> Stack:
        columns = {each.name: _column(arrays[each.name], each, place) for each in inputs}
        counts = {name: each.rows.shape[0] // each.step for name, each in columns.items()}
        if len(set(counts.values())) != 1:
            said = ", ".join(f"'{name}' {count}" for name, count in counts.items())
            raise BadSamples(f"{place}: the arrays have different numbers of samples: {said}")
        count = next(iter(counts.values()))
        if labels is None:
            return cls(count, columns, None)
        rows = arrays[labels]
        check_labels(rows.dtype, place, labels)
        if not rows.shape or rows.shape[0] % count:
            message = f"{place}: {count} samples, and labels '{labels}' of {list(rows.shape)}"
            raise BadSamples(message, hint="give as many labels as samples, along axis 0")
        # Inputs that come with their batch axis have labels that come with it.
        step = rows.shape[0] // count
        whole = len(rows.shape) > 1 and step == 1 and all(c.whole for c in columns.values())
        return cls(count, columns, _Column(rows, step, whole))

    def read(self, chosen: Iterable[int], place: str) -> Iterator[Sample]:
        """The samples of these indices, which must ascend. Once only."""
        at = 0
        columns = [*self._inputs.values(), *([self._labels] if self._labels else [])]
        step = max(each.step for each in self._inputs.values())
        for index in chosen:
            where = f"{place}, sample {index}"
            if step > 1:
                where += f" (rows {index * step} to {(index + 1) * step - 1})"
            for column in columns:
                column.skip(index - at)
            feed = {name: column.take(where) for name, column in self._inputs.items()}
            labels = self._labels.take(where) if self._labels else None
            yield Sample(feed, labels, where)
            at = index + 1


def _column(rows: Rows, tensor: TensorInterface, place: str) -> _Column:
    rank, found = len(tensor.dims), len(rows.shape)
    place = f"{place}, input '{tensor.name}'"
    if found == rank + 1:
        return _Column(rows, 1, whole=True)
    if found != rank or not rank:
        ways = f"{written(('samples', *tensor.dims))}"
        if rank:
            ways = f"{written(('samples', *tensor.dims[1:]))} or {ways}"
        raise BadSamples(f"{place}: expected {ways}, found {list(rows.shape)}")
    first = tensor.dims[0]
    step = first if isinstance(first, int) and first > 0 else 1
    if rows.shape[0] % step:
        message = f"{place}: {rows.shape[0]} rows, and the model takes {step} at a time"
        raise BadSamples(message, hint=f"leave out the last {rows.shape[0] % step}")
    return _Column(rows, step, whole=False)


def open_arrays(
    files: Sequence[Path],
    inputs: Sequence[TensorInterface],
    labels: str | None,
    called: Callable[[Path], str],
) -> Source:
    """The samples of these files, one file after another. Looks at the start of every one."""
    counts = []
    for path in files:
        with _opened(path, inputs, labels, called(path)) as stack:
            counts.append(stack.count)

    def read(chosen: Iterable[int] | None) -> Iterator[Sample]:
        waiting = iter(range(sum(counts)) if chosen is None else chosen)
        index = next(waiting, None)
        start = 0
        for path, count in zip(files, counts, strict=True):
            here = []
            while index is not None and index < start + count:
                here.append(index - start)
                index = next(waiting, None)
            if here:
                with _opened(path, inputs, labels, called(path)) as stack:
                    yield from stack.read(here, called(path))
            start += count

    return Source(sum(counts), read)


@contextmanager
def _opened(
    path: Path, inputs: Sequence[TensorInterface], labels: str | None, place: str
) -> Iterator[Stack]:
    names = array_names(inputs, labels)
    with ExitStack() as stack:
        arrays = _npy if path.suffix == ".npy" else _npz
        yield Stack.of(arrays(path, names, place, stack), inputs, labels, place)


def _npy(path: Path, names: Sequence[str], place: str, stack: ExitStack) -> dict[str, Rows]:
    if len(names) != 1:
        wanted = ", ".join(f"'{name}'" for name in names)
        hint = f"write a .npz: numpy.savez(file, {', '.join(f'{name}=...' for name in names)})"
        raise BadSamples(f"{place}: a .npy file has one array, expected {wanted}", hint=hint)
    with reading(path, place):
        file = stack.enter_context(path.open("rb"))
        size = path.stat().st_size
    return {names[0]: StoredRows(file, size, path, place)}


def _npz(path: Path, names: Sequence[str], place: str, stack: ExitStack) -> dict[str, Rows]:
    with reading(path, place):
        archive = stack.enter_context(zipfile.ZipFile(path))
    found = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
    require(names, found, place)
    arrays: dict[str, Rows] = {}
    for name in names:
        where = f"{place}, '{name}'"
        with reading(path, where):
            member = stack.enter_context(archive.open(f"{name}.npy"))
            size = archive.getinfo(f"{name}.npy").file_size
        arrays[name] = StoredRows(member, size, path, where)
    return arrays
