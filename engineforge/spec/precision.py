"""What a variant says of its types, its calibration data and its accuracy, as values.

Which tool can do what is not known here: see stages/precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engineforge.errors import Problem
from engineforge.spec.load import Place
from engineforge.spec.model import (
    AS_IT_IS,
    QUANTIZED,
    AccuracyCheck,
    ArrayFiles,
    Calibration,
    DataSet,
    ImageFolder,
    Precision,
    PythonFunction,
)

Given = Mapping[str, tuple[Any, Place]]
"""Keys with their values as the schema lets them be, and where they stand."""

_CONVERTED = ("fp16", "bf16", "int8", "fp8", "int4")
# Which precisions a key says something about.
_FOR = {
    "tool": _CONVERTED,
    "keep_fp32": _CONVERTED,
    "high_precision": QUANTIZED,
    "block_size": ("int4",),
    "sparsity": (*AS_IT_IS, *_CONVERTED),
    "keep_io_types": _CONVERTED,
    # FP16 can overflow, which data shows; BF16 reaches as far as FP32.
    "calibration": ("fp16", *QUANTIZED),
}
PRECISION_KEYS = ("precision", *_FOR)
_DEFAULTS = {"int8": "max", "fp8": "max", "int4": "awq_clip"}
_SETTINGS = frozenset({"data", "samples", "seed", "labels", "class_axis", "against"})


def parse_precision(
    chosen: Given, own: frozenset[str], belongs: Place, problems: list[Problem]
) -> Precision:
    """The precision of a variant. A key of its `own` must mean something for it; one that all
    variants share is left out where it does not. `belongs` is for what is missing."""
    name = chosen["precision"][0] if "precision" in chosen else "source"
    at = chosen["precision"][1] if "precision" in chosen else belongs
    values: dict[str, Any] = {}
    for key, precisions in _FOR.items():
        if key not in chosen:
            continue
        value, place = chosen[key]
        if name in precisions:
            values[key] = value
        elif key in own:
            message = f"'{key}' says nothing about precision '{name}'"
            problems.append(place.problem(message, f"it is for {_listed(precisions)}"))
    if "calibration" in values:
        raw, place = chosen["calibration"]
        if name not in QUANTIZED:
            raw = _for_a_cast(name, raw, place, problems if "calibration" in own else [])
        values["calibration"] = _calibration(name, raw, place, problems)
    elif name in ("int8", "fp8"):
        problems.append(
            at.problem(
                f"precision '{name}' needs calibration data, found none",
                "write calibration: {data: samples.npz}; ranges are never made up",
            )
        )
    values["keep_fp32"] = tuple(sorted(values.get("keep_fp32", ())))
    if name == "int4":
        values.setdefault("block_size", 128)
    return Precision(name=name, **values)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else names[0]


def _for_a_cast(
    name: str, raw: Mapping[str, Any], place: Place, problems: list[Problem]
) -> Mapping[str, Any]:
    """Data without a method: a cast only looks for what overflows."""
    if "method" in raw:
        message = f"precision '{name}' has no calibration methods: the data shows what overflows"
        problems.append(place.problem(message, "remove 'method'", "method"))
    return {key: value for key, value in raw.items() if key not in ("method", "percentile")}


def _calibration(
    name: str, raw: Mapping[str, Any], place: Place, problems: list[Problem]
) -> Calibration:
    method = raw.get("method") or _DEFAULTS.get(name, "max")
    percentile = raw.get("percentile")
    if percentile is not None and method != "percentile":
        message = f"'percentile' says nothing about the method '{method}'"
        problems.append(place.problem(message, "write method: percentile", "percentile"))
    if method == "percentile":
        percentile = percentile or 99.99
    at = place.below("data")
    return Calibration(
        data=_data_set(raw["data"], at, problems),
        method=method,
        percentile=None if percentile is None else _text(percentile),
        samples=raw.get("samples"),
        seed=_seed(raw, place, problems),
    )


def _seed(raw: Mapping[str, Any], place: Place, problems: list[Problem]) -> int | None:
    seed: int | None = raw.get("seed")
    if seed is not None and "samples" not in raw:
        message = "'seed' chooses 'samples' of the data at random, and that is not given"
        problems.append(place.problem(message, "write how many: samples: 256", "seed"))
    return seed


def _text(number: float) -> str:
    """A number as it is written: the same text for 1 and 1.0, since both mean one value."""
    return str(int(number)) if number == int(number) else repr(number)


def _data_set(raw: Any, place: Place, problems: list[Problem]) -> DataSet:  # noqa: ANN401 - the schema checked it
    if isinstance(raw, str):
        return ArrayFiles(path=raw)
    kind = "python" if "python" in raw else "images"
    alien = [key for key in raw if (key in ("python", "files")) != (kind == "python")]
    if kind not in raw:
        problems.append(place.problem("expected the key 'images' or 'python', found neither"))
        return ArrayFiles(path=".")
    for key in alien:
        message = f"'{key}' says nothing about {kind}"
        problems.append(place.problem(message, None, key))
    if kind == "python":
        return PythonFunction(function=raw["python"], files=tuple(raw.get("files", ())))
    channels = 1 if raw.get("channels") == "gray" else 3
    for key in ("mean", "std"):
        found = raw.get(key)
        if isinstance(found, list) and len(found) not in (1, channels):
            message = f"expected 1 or {channels} numbers, found {len(found)}"
            problems.append(place.problem(message, None, key))
        if key == "std" and 0 in (found if isinstance(found, list) else [found]):
            problems.append(place.problem("expected numbers other than 0", None, key))
    if "fit" in raw and "size" not in raw:
        problems.append(place.problem("'fit' says how to reach a 'size', found none", None, "fit"))
    return ImageFolder(
        path=raw["images"],
        size=tuple(raw["size"]) if "size" in raw else None,
        divide=_text(raw.get("divide", 255)),
        mean=_texts(raw.get("mean", 0)),
        std=_texts(raw.get("std", 1)),
        **{key: raw[key] for key in ("fit", "channels", "layout") if key in raw},
    )


def _texts(found: float | list[float]) -> tuple[str, ...]:
    return tuple(map(_text, found if isinstance(found, list) else [found]))


def parse_accuracy(
    shared: tuple[Any, Place] | None, own: tuple[Any, Place] | None, problems: list[Problem]
) -> AccuracyCheck | None:
    """The accuracy check of a variant: the file's, with what the variant says for itself."""
    merged: dict[str, tuple[Any, Place]] = {}
    at: Place | None = None
    for given in (shared, own):
        if given is not None and "accuracy" in given[0]:
            at = given[1].below("accuracy")
            merged.update({key: (value, at) for key, value in given[0]["accuracy"].items()})
    if at is None:
        return None
    if "data" not in merged:
        problems.append(at.problem("expected the key 'data', found none"))
        return None
    raw = {key: value for key, (value, _) in merged.items()}
    thresholds = dict(_thresholds(raw))
    if not thresholds:
        message = "an accuracy check without a threshold passes nothing"
        problems.append(at.problem(message, "such as min_top1_agreement: 0.99"))
    for key in ("min_top1", "max_top1_drop"):
        if key in raw and "labels" not in raw:
            message = "needs 'labels': the array of the data that holds the right classes"
            problems.append(merged[key][1].problem(message, None, key))
    seed_at = merged["seed"][1] if "seed" in merged else at
    return AccuracyCheck(
        data=_data_set(raw["data"], merged["data"][1].below("data"), problems),
        samples=raw.get("samples"),
        seed=_seed(raw, seed_at, problems),
        labels=raw.get("labels"),
        class_axis=raw.get("class_axis", -1),
        thresholds=thresholds,
    )


def _thresholds(raw: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in sorted(raw.items()):
        if key not in _SETTINGS:
            yield key, float(value)
