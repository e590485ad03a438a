"""The report's variants as rows of a table and cells of a matrix: words, classes and numbers to
sort by. What a row leaves out, the page has as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engineforge.report.page.figures import MEASURES, accuracy_of, worst
from engineforge.report.text import duration, size

STATUSES = {
    "failed": ("✗", "failed"),
    "check-failed": ("!", "check failed"),
    "stale": ("↻", "stale"),
    "unfit": ("⊘", "other host"),
    "up-to-date": ("✓", "up to date"),
}
"""A sign and words for each, what needs a person first."""

_SPARK_WIDTH, _SPARK_HEIGHT = 48, 14
_MOST_SPARKS = 12
_MOST_WHY = 140


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """An engine in an environment: `mark` is `stale`, `unknown` or empty."""

    environment: str
    mark: str
    overridden: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`order` is by status; sizes in bytes, times in s and ms, None where there is none."""

    label: str
    spec: str
    variant: str
    target: str
    precision: str
    status: str
    order: int
    why: str
    size: int | None
    size_text: str
    seconds: float | None
    seconds_text: str
    spark: str
    error: float | None
    accuracy: str
    accuracy_bad: bool
    of_model: bool
    ms: float | None
    latency: str
    latency_bad: bool
    serving: Sequence[Serving]
    finished: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A spec on a target: a status for each variant, and by environment how many are there and how
    many of those are not what the specs ask for."""

    spec: str
    target: str
    statuses: Sequence[str]
    good: int
    environments: Sequence[tuple[str, int, int]]

    @property
    def says(self) -> str:
        counts = Counter(self.statuses)
        return ", ".join(f"{counts[s]} {STATUSES[s][1]}" for s in STATUSES if counts[s])


def status(variant: Mapping[str, Any]) -> str:
    """What is worst of a variant."""
    if variant["failure"] is not None:
        return "failed"
    checks = (variant["accuracy"]["model"], variant["accuracy"]["engine"], variant["latency"])
    if any(each is not None and each["passed"] is False for each in checks):
        return "check-failed"
    return str(variant["state"])


def row(variant: Mapping[str, Any]) -> Row:
    last = variant["last"] or {}
    found = status(variant)
    accuracy, error, bad, of_model = _accuracy(variant)
    latency = variant["latency"]
    ms = None if latency is None else latency["median_ms"]
    return Row(
        label=variant["label"],
        spec=variant["spec"],
        variant=variant["variant"],
        target=variant["target"],
        precision=variant["precision"] or "",
        status=found,
        order=list(STATUSES).index(found),
        why=_why(variant),
        size=last.get("size"),
        size_text=size(last["size"]) if "size" in last else "",
        seconds=last.get("seconds"),
        seconds_text=duration(last["seconds"]) if last.get("seconds") is not None else "",
        spark=spark([each["seconds"] for each in variant["history"]]),
        error=error,
        accuracy=accuracy,
        accuracy_bad=bad,
        of_model=of_model,
        ms=ms,
        latency="" if ms is None else f"{ms:.4g} ms",
        latency_bad=latency is not None and latency["passed"] is False,
        serving=[_serving(name, each) for name, each in variant["environments"].items()],
        finished=str(last.get("finished") or "")[:10],
    )


def _why(variant: Mapping[str, Any]) -> str:
    if (failure := variant["failure"]) is not None:
        told = f"{failure['stage']}: {failure['error']}"
    else:
        told = variant.get("unfit") or "; ".join(variant["why"])
    told = " ".join(told.split())
    return told if len(told) <= _MOST_WHY else f"{told[:_MOST_WHY]}…"


def _accuracy(variant: Mapping[str, Any]) -> tuple[str, float | None, bool, bool]:
    """Words, an error to sort by, whether it is not good enough, and whether it is the model's."""
    if (found := accuracy_of(variant)) is None:
        return ("not run" if variant["accuracy"]["asked"] else ""), None, False, False
    of, checked = found
    values = worst(checked["outputs"])
    bad = any(
        each is not None and each["passed"] is False
        for each in (variant["accuracy"]["engine"], variant["accuracy"]["model"])
    )
    measure = next((each for each in MEASURES if each.name in values), None)
    if measure is None:
        return "failed" if bad else "passed", None, bad, of == "model"
    value = values[measure.name]
    return measure.text(value), measure.error(value), bad, of == "model"


def _serving(name: str, there: Mapping[str, Any]) -> Serving:
    return Serving(
        environment=name,
        mark={True: "", False: "stale", None: "unknown"}[there["fresh"]],
        overridden=bool(there["overridden"]),
    )


def spark(seconds: Sequence[float | None]) -> str:
    """The path of a line through the last builds' times; empty for fewer than two."""
    known = [each for each in seconds if each is not None][-_MOST_SPARKS:]
    if len(known) < 2:  # noqa: PLR2004 - a point is no line
        return ""
    most = max(known) or 1.0
    step = _SPARK_WIDTH / (len(known) - 1)
    places = (
        f"{at * step:.0f} {1 + (_SPARK_HEIGHT - 2) * (1 - each / most):.0f}"
        for at, each in enumerate(known)
    )
    return "M" + "L".join(places)


def matrix(variants: Sequence[Mapping[str, Any]], environments: Sequence[str]) -> Matrix:
    """All specs by all targets, in the order of the variants."""
    specs = list(dict.fromkeys(each["spec"] for each in variants))
    targets = list(dict.fromkeys(each["target"] for each in variants))
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for each in variants:
        groups.setdefault((each["spec"], each["target"]), []).append(each)
    return Matrix(
        targets=targets,
        rows=[
            (
                spec,
                [
                    _cell(spec, target, groups[spec, target], environments)
                    if (spec, target) in groups
                    else None
                    for target in targets
                ],
            )
            for spec in specs
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A row for each spec, with a cell for each target that it has."""

    targets: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell | None]]]


def _cell(
    spec: str, target: str, variants: Sequence[Mapping[str, Any]], environments: Sequence[str]
) -> Cell:
    statuses = [status(each) for each in variants]
    there = []
    for name in environments:
        served = [each["environments"][name] for each in variants if name in each["environments"]]
        outdated = sum(each["fresh"] is False for each in served)
        there.append((name, len(served), outdated))
    return Cell(
        spec=spec,
        target=target,
        statuses=statuses,
        good=statuses.count("up-to-date"),
        environments=there,
    )
