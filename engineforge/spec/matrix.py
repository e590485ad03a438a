"""Validated documents to values: targets, and a spec's matrix of variants.

Each value keeps the place that it was written at, for the problems that later rooms find.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from engineforge.errors import Problem
from engineforge.spec.latency import parse_latency
from engineforge.spec.load import Document, Place
from engineforge.spec.model import (
    InputRange,
    Precision,
    Profile,
    ShapeRange,
    Variant,
)
from engineforge.spec.precision import PRECISION_KEYS, Given, parse_accuracy, parse_precision
from engineforge.spec.sources import ModelSource, parse_model
from engineforge.spec.validate import did_you_mean, schema
from engineforge.target import Gpu, Target, Toolchain, sorted_capabilities

BACKENDS = ("tensorrt_rtx", "tensorrt")
# What `pip install tensorrt-rtx` brings.
_DEFAULT_CUDA = {"tensorrt_rtx": "13"}
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_FEW = 3
_SHARED = (*PRECISION_KEYS, "inputs", "profiles", "builder", "targets")


@dataclass(frozen=True, slots=True)
class Cell:
    """A variant, and where its parts stand; `profiles_belong` is for one that has none.

    `keys` has the places of the keys about precision that the variant or its file has, `own` are
    those that it does not share, and `accuracy` is the place of the accuracy check.
    """

    variant: Variant
    precision: Place
    keys: Mapping[str, Place]
    own: frozenset[str]
    accuracy: Place
    profiles: tuple[Place, ...]
    profiles_belong: Place
    target: Place
    builder: Mapping[str, Place]


@dataclass(frozen=True, slots=True)
class Spec:
    """One model and its matrix. `name` is the file's path below the specs folder, no suffix."""

    name: str
    document: Document
    model: ModelSource
    cells: tuple[Cell, ...]


def size_in_bytes(text: str | int) -> int:
    """`4GiB` as a number of bytes; the schema has checked its form."""
    if isinstance(text, int):
        return text
    number = text.rstrip("BKMGTi ")
    return int(number) * _UNITS[text.removeprefix(number).strip()]


@cache
def _size_options() -> frozenset[str]:
    options = schema("spec")["$defs"]["option"]
    return frozenset(name for name, each in options.items() if each.get("$ref") == "#/$defs/size")


def parse_targets(document: Document) -> tuple[dict[str, Target], list[Problem]]:
    """The targets of a valid targets file, by name."""
    targets: dict[str, Target] = {}
    problems: list[Problem] = []
    for name, raw in cast("dict[str, dict[str, Any]]", document.value).items():
        place = Place(document, (name,))
        try:
            targets[name] = _target(name, raw, place, problems)
        except _Refused as refused:
            problems.append(refused.problem)
    return targets, problems


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _target(name: str, raw: Mapping[str, Any], place: Place, problems: list[Problem]) -> Target:
    backend = raw["backend"]
    needs, alien = (
        ("compute_capabilities", "gpu")
        if backend == "tensorrt_rtx"
        else ("gpu", "compute_capabilities")
    )
    if alien in raw:
        message = f"'{alien}' does not belong to a target of backend '{backend}'"
        problems.append(place.problem(message, f"it takes '{needs}'", alien))
    if needs not in raw:
        raise _Refused(place.problem(f"expected the key '{needs}', found none"))
    cuda = raw.get("cuda", _DEFAULT_CUDA.get(backend))
    if cuda is None:
        hint = "the CUDA version that this TensorRT is built for, such as cuda: '12.9'"
        raise _Refused(place.problem("expected the key 'cuda', found none", hint))
    return Target(
        name=name,
        toolchain=Toolchain(backend=backend, version=raw["version"], cuda=cuda),
        platform=raw.get("platform", "linux-x86_64"),
        compute_capabilities=sorted_capabilities(
            [
                _capability(each, place, problems, "compute_capabilities", i)
                for i, each in enumerate(raw["compute_capabilities"])
            ]
        )
        if backend == "tensorrt_rtx"
        else (),
        gpu=_gpu(raw["gpu"], place, problems) if backend == "tensorrt" else None,
        driver=raw.get("driver"),
        builder=_options(raw.get("builder", {})),
    )


def _capability(
    found: str | float, place: Place, problems: list[Problem], *below: str | int
) -> str:
    # 8.9 and 12.0 have one decimal: their float says which was written.
    if isinstance(found, str) or (found > 0 and found == round(found, 1)):
        return found if isinstance(found, str) else f"{found:.1f}"
    message = f"expected a compute capability, such as 8.9, found the number {found}"
    problems.append(place.problem(message, None, *below))
    return "0.0"


def _gpu(raw: Mapping[str, Any], place: Place, problems: list[Problem]) -> Gpu:
    sizes = ("memory", "l2_cache", "shared_memory_per_block", "shared_memory_per_sm")
    return Gpu(
        name=raw["name"],
        compute_capability=_capability(
            raw["compute_capability"], place, problems, "gpu", "compute_capability"
        ),
        sm_count=raw["sm_count"],
        memory_bus_width=raw["memory_bus_width"],
        ecc=raw["ecc"],
        mig_profile=raw.get("mig_profile"),
        **{size: size_in_bytes(raw[size]) for size in sizes},
    )


def _options(raw: Mapping[str, Any]) -> dict[str, object]:
    """Builder options with sizes in bytes; options under a backend's name are left out."""
    return {
        name: size_in_bytes(value) if name in _size_options() else value
        for name, value in raw.items()
        if name not in BACKENDS
    }


def expand(
    name: str, document: Document, targets: Mapping[str, Target], targets_file: str
) -> tuple[Spec, list[Problem]]:
    """A valid spec document to its matrix; what the schema cannot say is checked here."""
    raw = cast("dict[str, Any]", document.value)
    problems: list[Problem] = []
    shared = _shared(raw, document, problems)
    variants = raw.get("variants", {"default": {}})
    per_variant = any("inputs" in own or "profiles" in own for own in variants.values())
    for_all = shared["targets"][0] if "targets" in shared else ()
    targets_of = {variant: own.get("targets", for_all) for variant, own in variants.items()}
    cells = []
    for variant, own in variants.items():
        own_place = Place(document, ("variants", variant) if "variants" in raw else ())
        chosen = {
            key: (own[key], own_place.below(key))
            for key in _SHARED
            if key in own and key != "builder"
        }
        _one_way(chosen, problems)
        if "inputs" not in own and "profiles" not in own:
            chosen.update({k: shared[k] for k in ("inputs", "profiles") if k in shared})
        chosen.update(
            {k: shared[k] for k in (*PRECISION_KEYS, "targets") if k in shared and k not in own}
        )
        said = frozenset(own if "variants" in raw else shared)
        precision = parse_precision(chosen, said, own_place, problems)
        checks = (raw["checks"], Place(document, ("checks",))) if "checks" in raw else None
        own_checks = (own["checks"], own_place.below("checks")) if "checks" in own else None
        accuracy = parse_accuracy(checks, own_checks, problems)
        latency = parse_latency(
            variant, targets_of, shared=checks, own=own_checks, problems=problems
        )
        if precision.sparsity and accuracy is None:
            problems.append(
                chosen["sparsity"][1].problem(
                    "pruning in one shot may ruin a network, and no accuracy check is there to see",
                    "write checks: {accuracy: {data: holdout.npz, min_top1_agreement: 0.99}}",
                )
            )
        builders = [shared["builder"]] if "builder" in shared else []
        if "builder" in own:
            builders.append((own["builder"], own_place.below("builder")))
        profiles, places = _profiles(chosen, problems)
        if "targets" not in chosen:
            message = "expected 'targets', here or for the whole file, found none"
            problems.append(own_place.problem(message, _some(targets)))
            continue
        names, target_place = chosen["targets"]
        for index, target_name in enumerate(names):
            place = target_place.below(index)
            target = targets.get(target_name)
            if target is None:
                message = f"unknown target '{target_name}': {targets_file} has no such name"
                problems.append(place.problem(message, did_you_mean(target_name, targets)))
                continue
            builder, option_places = _builder(builders, target)
            _imply(precision, chosen, builder, option_places, problems)
            cells.append(
                Cell(
                    variant=Variant(
                        spec=name,
                        name=variant,
                        precision=precision,
                        profiles=profiles,
                        builder=builder,
                        target=target,
                        accuracy=accuracy,
                        latency=latency,
                    ),
                    precision=chosen.get("precision", (None, own_place))[1],
                    keys={k: chosen[k][1] for k in PRECISION_KEYS if k in chosen},
                    own=said,
                    accuracy=Place(document, ("checks", "accuracy")),
                    profiles=places,
                    # What all variants lack, the file lacks.
                    profiles_belong=own_place if per_variant else Place(document, ()),
                    target=place,
                    builder={
                        option: option_places.get(option, place.below("builder", option))
                        for option in builder
                    },
                )
            )
    spec = Spec(
        name=name,
        document=document,
        model=parse_model(raw["model"]),
        cells=tuple(cells),
    )
    return spec, _once(problems)


def _shared(
    raw: Mapping[str, Any], document: Document, problems: list[Problem]
) -> dict[str, tuple[Any, Place]]:
    """What all variants have: `defaults`, or the same keys at the top of the file."""
    defaults = raw.get("defaults", {})
    shared = {}
    for key in _SHARED:
        if key in raw and key in defaults:
            message = f"'{key}' stands here and at the top of the file"
            problems.append(Place(document, ("defaults", key)).problem(message, "keep one of them"))
        if key in raw:
            shared[key] = (raw[key], Place(document, (key,)))
        elif key in defaults:
            shared[key] = (defaults[key], Place(document, ("defaults", key)))
    _one_way(shared, problems)
    return shared


def _one_way(given: Mapping[str, tuple[Any, Place]], problems: list[Problem]) -> None:
    if "inputs" in given and "profiles" in given:
        message = "found both 'inputs' (one profile) and 'profiles' (several)"
        place = given["profiles"][1]
        problems.append(place.problem(message, "move 'inputs' into 'profiles'"))


def _profiles(
    chosen: Mapping[str, tuple[Any, Place]], problems: list[Problem]
) -> tuple[tuple[Profile, ...], tuple[Place, ...]]:
    if "profiles" in chosen:
        raw, place = chosen["profiles"]
        each = [(item, place.below(i)) for i, item in enumerate(raw)]
    elif "inputs" in chosen:
        each = [chosen["inputs"]]
    else:
        return (), ()
    profiles = tuple(
        {name: _input(item, at.below(name), problems) for name, item in raw.items()}
        for raw, at in each
    )
    return profiles, tuple(at for _, at in each)


def _input(raw: Any, place: Place, problems: list[Problem]) -> InputRange:  # noqa: ANN401 - the schema checked it
    """An input without shape and values is one that a problem was found in."""
    if isinstance(raw, list):
        raw = {"min": raw, "opt": raw, "max": raw}
    if not raw:
        problems.append(place.problem("expected min, opt and max, or values, found nothing"))
    shape = _range(raw, place, problems) if "min" in raw else None
    values = None
    if "values" in raw:
        values = _range(raw["values"], place.below("values"), problems)
    return InputRange(shape=shape, values=values)


def _range(raw: Mapping[str, Any], place: Place, problems: list[Problem]) -> ShapeRange | None:
    bounds = {key: tuple(raw[key]) for key in ("min", "opt", "max")}
    try:
        return ShapeRange(**bounds)
    except ValueError as error:
        in_order = sorted(bounds.values(), key=lambda dims: (len(dims), dims))
        hint = None
        if "<=" in str(error):
            lo, opt, hi = (list(dims) for dims in in_order)
            if all(a <= b <= c for a, b, c in zip(lo, opt, hi, strict=True)):
                hint = f"in order they are min: {lo}, opt: {opt}, max: {hi}"
        problems.append(place.problem(str(error), hint, "opt"))
        return None


def _builder(
    builders: list[tuple[Any, Place]], target: Target
) -> tuple[dict[str, object], dict[str, Place]]:
    """Options from the target, then the file, then the variant; of each, those of the backend
    over those for all. The later one wins."""
    merged = dict(target.builder)
    places = {}
    for raw, place in builders:
        for part, path in (
            (raw, place.path),
            (raw.get(target.toolchain.backend, {}), (*place.path, target.toolchain.backend)),
        ):
            for name, value in _options(part).items():
                merged[name] = value
                places[name] = Place(place.document, (*path, name))
    return merged, places


def _imply(
    precision: Precision,
    chosen: Given,
    builder: dict[str, object],
    places: dict[str, Place],
    problems: list[Problem],
) -> None:
    """Builder options that a precision cannot do without."""
    implied = {"tf32": "precision"} if precision.name == "tf32" else {}
    if precision.sparsity:
        implied["sparse_weights"] = "sparsity"
    for option, key in implied.items():
        asked, place = chosen[key]
        if builder.get(option) is False:
            message = f"'{option}: false' contradicts {key} '{asked}'"
            problems.append(places.get(option, place).problem(message))
        builder[option] = True
        places.setdefault(option, place)


def _once(problems: list[Problem]) -> list[Problem]:
    # A shared profile is read for each variant that has it.
    return list(dict.fromkeys(problems))


def _some(targets: Mapping[str, Target]) -> str | None:
    names = sorted(targets)[:_FEW]
    return f"such as targets: [{', '.join(names)}]" if names else None
