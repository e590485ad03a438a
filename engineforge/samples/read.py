"""A data set as a stream of samples, each checked before the model sees it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np

from engineforge.samples import BadSamples, data_files
from engineforge.samples.arrays import open_arrays
from engineforge.samples.functions import open_function
from engineforge.samples.sample import Sample, Source, check_sample
from engineforge.spec.model import ArrayFiles, DataSet, ImageFolder, PythonFunction, TensorInterface

__all__ = ["Sample", "Samples"]
_IMAGES = "see 'size', 'channels' and 'layout' of the data"
_INSTALL = "python -m pip install 'engineforge[precision]'"


class Samples:
    """The samples of a data set, from its files anew with each `iter()`, never all in memory.

    Of `samples` the first so many, or with `seed` so many chosen at random, in the order of the
    data set. `files` are its files where they were listed before: those that came since are left
    out. `labels` names the array of labels; sub-folders are those of images, whatever the
    name. With `varied` it is an error if all are the same, or a function gives others when it is
    called again; with `calibrating`, also a sample that no range can be told from.
    """

    def __init__(
        self,
        data: DataSet,
        folder: Path,
        inputs: Sequence[TensorInterface],
        *,
        samples: int | None,
        seed: int | None,
        labels: str | None = None,
        files: Sequence[Path] | None = None,
        fewest: int = 1,
        varied: bool = False,
        calibrating: bool = False,
    ) -> None:
        self._data, self._folder, self._inputs = data, folder, tuple(inputs)
        self._files = files
        self._first: str | None = None
        self._asked, self._seed, self._fewest = samples, seed, fewest
        self._labels, self._calibrating = labels, calibrating
        self._varied = varied or calibrating
        self._shapes: dict[str, dict[tuple[int, ...], str]] = {}

    def __iter__(self) -> Iterator[Sample]:
        """BadSamples at the first sample that is wrong; at the end, where only then it is known
        that there are too few or that all are the same."""
        seen, first, same = 0, "", True
        made_up = self._varied and isinstance(self._data, PythonFunction)
        if made_up and self._first is None:
            self._first = self._digest_of_first()
        hint = _IMAGES if isinstance(self._data, ImageFolder) else None
        with self._opened() as source:
            chosen = self._chosen(source.count)
            for sample in islice(source.read(chosen), self._asked):
                check_sample(sample, self._inputs, calibrating=self._calibrating, hint=hint)
                for name, array in sample.feed.items():
                    self._shapes.setdefault(name, {}).setdefault(array.shape, sample.place)
                if self._varied and same:
                    digest = _digest(sample)
                    first = first or digest
                    same = digest == first
                    if made_up and not seen and digest != self._first:
                        message = f"{self._data} gives other samples each time it is called"
                        raise BadSamples(message, hint="seed what is random in it")
                seen += 1
                yield sample
        self._enough(seen)
        if self._varied and same and seen > 1:
            hint = "take samples as varied as those of production"
            raise BadSamples(f"{self._data}: all {seen} samples are the same", hint=hint)

    def _digest_of_first(self) -> str:
        with self._opened() as source:
            chosen = self._chosen(source.count)
            return next((_digest(sample) for sample in source.read(chosen)), "")

    def count(self) -> int | None:
        """How many samples there will be, or None where only reading them tells that.

        Reads the headers of files; a function is called, and what it gives is not looked at.
        """
        with self._opened() as source:
            chosen = self._chosen(source.count)
        return None if chosen is None else len(chosen)

    def shapes(self) -> dict[str, list[tuple[tuple[int, ...], str]]]:
        """Of each input the shapes seen so far, in that order, with the place of the first sample
        of each."""
        return {name: list(places.items()) for name, places in self._shapes.items()}

    @contextmanager
    def _opened(self) -> Iterator[Source]:
        data, folder = self._data, self._folder
        if not self._inputs:
            raise BadSamples(f"{data}: the model has no inputs that samples could be for")
        if isinstance(data, ArrayFiles):
            yield open_arrays(self._listed(), self._inputs, self._labels, self._called)
        elif isinstance(data, ImageFolder):
            try:
                from engineforge.samples.images import open_images
            except ModuleNotFoundError as error:
                message = f"{data}: images are read with Pillow, and it is not installed"
                raise BadSamples(message, hint=_INSTALL) from error
            root, files = folder / data.path, self._listed()
            labelled = self._labels is not None
            yield open_images(data, root, files, self._inputs, self._called, labelled=labelled)
        else:
            files = self._listed()
            with open_function(data, folder, self._inputs, self._labels, files=files) as source:
                yield source

    def _listed(self) -> list[Path]:
        return data_files(self._data, self._folder) if self._files is None else [*self._files]

    def _called(self, path: Path) -> str:
        """A file as the spec would name it."""
        inside = path.is_relative_to(self._folder)
        return f"'{path.relative_to(self._folder) if inside else path}'"

    def _chosen(self, count: int | None) -> Sequence[int] | None:
        """The indices of the samples to read; None is all, or the first ones of who knows how
        many."""
        if count is None:
            if self._seed is not None:
                message = f"{self._data}: 'seed' chooses of samples that can be counted"
                raise BadSamples(message, hint="return a list, or leave out 'seed'")
            return None
        self._enough(count)
        if self._asked is None:
            return range(count)
        if self._seed is None:
            return range(self._asked)
        random = np.random.default_rng(self._seed)
        return sorted(random.choice(count, self._asked, replace=False).tolist())

    def _enough(self, count: int) -> None:
        if count == 0:
            raise BadSamples(f"{self._data} has no samples")
        if self._asked is not None and count < self._asked:
            message = f"{self._data} has {_samples(count)}, and 'samples' asks for {self._asked}"
            raise BadSamples(message, hint="give more, or ask for fewer")
        used = count if self._asked is None else self._asked
        if used < self._fewest:
            message = f"{self._data}: expected {self._fewest} samples or more, found {used}"
            raise BadSamples(message, hint="give more: what few samples show is chance")


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count} samples"


def _digest(sample: Sample) -> str:
    digest = hashlib.sha256()
    for name, array in sample.feed.items():
        digest.update(f"{name} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
