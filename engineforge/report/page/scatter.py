"""Accuracy against latency: for each model where its variants lie, and which of them no other
one of their target beats in both. Pure geometry; the template draws it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engineforge.report.page.figures import (
    Measure,
    accuracy_of,
    common_measure,
    ticks,
    worst,
)

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 40
SERIES = 6
"""How many targets can be told apart by colour and shape; more of them begin anew."""

_LOG_FROM = 12
_MOST_NAMED = 14
_LINE = 11
_LETTER = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One variant: where it is drawn, in units of the drawing, and what is said of it. `front`
    says that no other of its target is both faster and closer; `of_model` that it is the accuracy
    of the converted model, not of the engine."""

    label: str
    name: str
    series: int
    x: float
    y: float
    front: bool
    of_model: bool
    says: str
    named: tuple[float, float, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """The drawing of one model; `fronts` are the points of a line for each target, by series;
    `left_out` are the variants without one of the two numbers."""

    spec: str
    title: str
    targets: Sequence[str]
    points: Sequence[Point]
    fronts: Sequence[tuple[int, str]]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    left_out: int


@dataclass(frozen=True, slots=True)
class _Seen:
    variant: Mapping[str, Any]
    of: str
    ms: float
    value: float
    error: float


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to places; what is infinite or no logarithm has lies at the end."""

    low: float
    high: float
    begin: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        share = (
            math.log(value / self.low) / math.log(self.high / self.low)
            if self.log
            else (value - self.low) / (self.high - self.low)
        )
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self) -> list[Tick]:
        return [
            Tick(at=self.at(value), text=_short(value))
            for value in ticks(self.low, self.high, log=self.log)
        ]


def _short(value: float) -> str:
    if 0 < value < 1e-3:  # noqa: PLR2004 - as many digits as there is room for
        digits, _, power = f"{value:.0e}".partition("e")
        return f"{digits}e{int(power)}"
    return f"{value:.3g}"


def plots(variants: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """A plot for each model of which a variant has both numbers, in the order of the variants."""
    by_spec: dict[str, list[Mapping[str, Any]]] = {}
    for each in variants:
        by_spec.setdefault(each["spec"], []).append(each)
    made = (_plot(spec, those) for spec, those in by_spec.items())
    return [each for each in made if each is not None]


def _plot(spec: str, variants: Sequence[Mapping[str, Any]]) -> Plot | None:
    candidates = []
    for each in variants:
        accuracy, latency = accuracy_of(each), each["latency"]
        if accuracy is not None and latency is not None and (ms := latency["median_ms"]):
            candidates.append((each, accuracy[0], float(ms), worst(accuracy[1]["outputs"])))
    measure = common_measure(values for *_, values in candidates) if candidates else None
    if measure is None:
        return None
    seen = [
        _Seen(each, of, ms, values[measure.name], measure.error(values[measure.name]))
        for each, of, ms, values in candidates
    ]
    targets = list(dict.fromkeys(each.variant["target"] for each in seen))
    x = _axis([each.ms for each in seen], LEFT, WIDTH - RIGHT)
    y = _axis([each.error for each in seen], HEIGHT - BOTTOM, TOP)
    fronts = {
        target: _front([s for s in seen if s.variant["target"] == target]) for target in targets
    }
    points = [_point(each, targets, fronts, (x, y), measure) for each in seen]
    return Plot(
        spec=spec,
        title=measure.title,
        targets=targets,
        points=_named(points),
        fronts=[
            (at % SERIES, " ".join(f"{x.at(s.ms)},{y.at(s.error)}" for s in fronts[target]))
            for at, target in enumerate(targets)
            if len(fronts[target]) > 1
        ],
        x_ticks=x.ticks(),
        y_ticks=y.ticks(),
        left_out=len(variants) - len(seen),
    )


def _point(
    seen: _Seen,
    targets: Sequence[str],
    fronts: Mapping[str, Sequence[_Seen]],
    axes: tuple[_Axis, _Axis],
    measure: Measure,
) -> Point:
    variant = seen.variant
    whose = "the converted model" if seen.of == "model" else "the engine"
    return Point(
        label=variant["label"],
        name=variant["variant"],
        series=targets.index(variant["target"]) % SERIES,
        x=axes[0].at(seen.ms),
        y=axes[1].at(seen.error),
        front=seen in fronts[variant["target"]],
        of_model=seen.of == "model",
        says=f"{variant['label']}: {seen.ms:.4g} ms, {measure.text(seen.value)} of {whose}",
    )


def _front(seen: Sequence[_Seen]) -> list[_Seen]:
    """Those that no other one beats in both, the fastest first."""
    best, found = math.inf, list[_Seen]()
    for each in sorted(seen, key=lambda one: (one.ms, one.error)):
        if each.error < best or not found:
            found.append(each)
            best = each.error
    return found


def _axis(values: Sequence[float], begin: float, end: float) -> _Axis:
    finite = [each for each in values if math.isfinite(each)]
    above = [each for each in finite if each > 0]
    most = max(above, default=1.0)
    least = min(above, default=most)
    if most / least > _LOG_FROM:
        # What is 0 lies at the very beginning, apart from what is not.
        return _Axis(least / (3 if 0 in values else 1.5), most * 1.6, begin, end, log=True)
    return _Axis(0.0, most * 1.15, begin, end, log=False)


def _named(points: Sequence[Point]) -> list[Point]:
    """With names beside those on a front, where there is room for them."""
    if len(points) > _MOST_NAMED and sum(each.front for each in points) > _MOST_NAMED:
        return list(points)
    # From, to, at which height: what a name must not lie on, points first.
    taken = [(each.x - 6, each.x + 6, each.y + 4) for each in points]
    made = []
    for each in points:
        if not each.front and len(points) > _MOST_NAMED:
            made.append(each)
            continue
        width = _LETTER * len(each.name)
        places = (
            (each.x + 8 if right else each.x - 8 - width, each.y + down, right)
            for down in (4, -5, 13)
            for right in (True, False)
        )
        free = next((at for at in places if _is_free(*at[:2], width, taken)), None)
        if free is None:
            made.append(each)
            continue
        start, height, right = free
        taken.append((start, start + width, height))
        named = (start, height, "start") if right else (start + width, height, "end")
        made.append(replace(each, named=named))
    return made


def _is_free(
    start: float, height: float, width: float, taken: Sequence[tuple[float, float, float]]
) -> bool:
    """Whether a name has room there, inside the drawing and apart from all else."""
    inside = start > LEFT and start + width < WIDTH and TOP - 4 < height < HEIGHT - BOTTOM + 4
    return inside and not any(
        start < to and start + width > since and abs(height - other) < _LINE
        for since, to, other in taken
    )
