"""One variant that is to be built or checked, with all that its stages need to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engineforge.backends.gpu import HostGpu
from engineforge.digest import Digest
from engineforge.plan.keys import PlanKey, SamplesRecipe, SourceKey
from engineforge.spec.model import ModelInterface, Profile, ShapeRange, Variant
from engineforge.spec.sources import (
    InputAxes,
    NetworkSource,
    Preparation,
    Source,
    UrlSource,
)
from engineforge.store.local import Entry
from engineforge.store.stats import Stat
from engineforge.store.uses import Ref

Files = Mapping[Path, tuple[Digest, Stat]]
"""Files with their digests, and the stats that they had when they were hashed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceJob:
    """A spec's model that has to be made before the spec can be planned: from `source`, whose key
    is `key`; or, where that is None, of the ONNX file `model`. Then it is prepared, if that is
    asked; `exported` says that only that is left to do. `files` are those that it is made from,
    `called` is what people call it."""

    spec: str
    called: str
    source: Source
    key: SourceKey | None
    model: Path | None
    files: Files
    folder: Path
    inputs: Mapping[str, InputAxes]
    prepare: Preparation | None
    exported: bool = False

    @property
    def label(self) -> str:
        return self.spec

    @property
    def is_only_prepared(self) -> bool:
        """Whether there is an ONNX model already."""
        return self.key is None or self.exported

    @property
    def first(self) -> str:
        """What the model has to be before all else."""
        if self.is_only_prepared:
            return "prepared"
        return "downloaded" if isinstance(self.source, UrlSource) else "exported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`builder` has plugins as paths; `called` is what people call the model, `made` are the
    entries that it was made as, in the last of which it lies. Where there is a `network` instead,
    `model` is the file of its function. `source` are its files, `libraries` the plugins,
    `calibrated_on` the files of the calibration data and `checked_on` those of the accuracy check,
    in their order. Data sets are relative to `folder`. `gpus` are those of this host that the
    engine can be built on, where its backend builds on one."""

    variant: Variant
    key: PlanKey
    builder: Mapping[str, object]
    model: Path
    external: Mapping[str, Digest]
    interface: ModelInterface
    called: str
    made: tuple[Ref, ...] = ()
    network: NetworkSource | None = None
    source: Files
    libraries: Files
    calibrated_on: Files
    folder: Path
    check: SamplesRecipe | None = None
    checked_on: Files
    gpus: tuple[HostGpu, ...] = ()

    @property
    def label(self) -> str:
        return self.variant.label

    @property
    def plugins(self) -> tuple[str, ...]:
        """The libraries that TensorRT must have loaded to build the engine, or to run it."""
        found = [self.builder.get(name) for name in ("plugins", "safety_plugins")]
        return tuple(
            each for libraries in found if isinstance(libraries, list) for each in libraries
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The engine of a job, in the store, that is to be checked on a GPU of the job's; `than` is the
    one, of that job, that its latency is compared with."""

    job: Job
    entry: Entry
    than: Engine | None = None


class ToolMissing(Exception):
    """This host lacks what a stage needs; the message says what, and how to get it."""


class StageFailed(Exception):
    """A stage of a job could not be carried out; `log` is the end of what was said on the way."""

    def __init__(self, stage: str, error: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(error)
        self.stage, self.error, self.log = stage, error, log


def outside_profiles(shapes: Mapping[str, Any], profiles: Sequence[Profile]) -> str | None:
    """What to say of the first sample whose shape no profile takes, if there is one.

    `shapes` are those that samples had, by input, each with the place of the first one. The batch
    is left out: samples are fed one by one, whatever an engine takes at once.
    """
    for name, found in shapes.items():
        ranges = [
            given.shape
            for profile in profiles
            if (given := profile.get(name)) is not None and given.shape is not None
        ]
        for dims, place in found if len(ranges) == len(profiles) and ranges else ():
            shape = tuple(dims)
            if not any(_inside(shape, bounds) for bounds in ranges):
                taken = " or ".join(f"{list(b.min)} to {list(b.max)}" for b in ranges)
                return (
                    f"{place}: input '{name}' has shape {list(shape)}, outside the "
                    f"profiles of this variant: {taken}\n"
                    "hint: calibrate on what the engine will see, or widen the profile"
                )
    return None


def _inside(shape: tuple[int, ...], bounds: ShapeRange) -> bool:
    return all(
        low <= size <= high
        for low, size, high in zip(bounds.min[1:], shape[1:], bounds.max[1:], strict=True)
    )
