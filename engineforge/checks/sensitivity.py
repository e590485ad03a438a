"""What each layer costs, and which layers would have to stay FP32: measured, never guessed."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from engineforge.checks.accuracy import Measured, compared
from engineforge.checks.figures import Figure, figure, value_of
from engineforge.checks.pair import Expected, Pair
from engineforge.checks.thresholds import failures

_TRIES = 8
# Of several outputs, the one that a layer costs most stands for it.
_WORST_IS_MOST = ("relative_error", "max_absolute_error")
_WORST_IS_LEAST = ("cosine", "sqnr_db", "top1_agreement", "top1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """Layers that, kept in FP32, let the typed graph meet its thresholds. `measured` is what the
    graph with them kept was measured to be."""

    layers: tuple[str, ...]
    keep_fp32: tuple[str, ...]
    measured: Measured


def sensitivity(pair: Pair, expected: Expected, *, class_axis: int) -> Iterator[dict[str, Figure]]:
    """What each low layer alone costs, in graph order: the source graph with just that layer low,
    against the source.

    Each is `layer`, `type` (the operator), `sqnr_db` of its own tensors (see Pair.local_sqnr; None
    where they cannot be compared), and of the outputs, the worst of them: `relative_error`,
    `max_absolute_error`, `cosine`, `output_sqnr_db`, and where metrics.py has them,
    `top1_agreement` and `top1`. One session at a time; `ranked` sorts them.
    """
    local = pair.local_sqnr(sample for sample, _ in expected)
    for layer, type_ in pair.layers().items():
        measured = compared(expected, pair.with_low({layer}), class_axis=class_axis)
        worst = _worst(measured)
        worst["output_sqnr_db"] = worst.pop("sqnr_db", None)
        sqnr = figure(local[layer]) if layer in local else None
        yield {"layer": layer, "type": type_, "sqnr_db": sqnr, **worst}


def ranked(costs: Sequence[Mapping[str, Figure]]) -> list[Mapping[str, Figure]]:
    """The costs, the highest first."""

    def error(cost: Mapping[str, Figure]) -> float:
        value = value_of(cost.get("relative_error"))
        return math.inf if value is None else value

    return sorted(costs, key=error, reverse=True)


def suggest(
    pair: Pair,
    expected: Expected,
    local: Mapping[str, float],
    *,
    thresholds: Mapping[str, float],
    class_axis: int,
    tries: int = _TRIES,
) -> Suggestion | None:
    """The fewest layers of 1, 2, 4, 8 …, those with the worst SQNR in `local` first, that let the
    typed graph meet `thresholds` when they stay FP32, as measured on the whole data set.

    At most half of the low layers, and at most `tries` measurements; None if that does not do.
    """
    layers = pair.layers()
    worst = hurting(layers, local)
    for kept in (2**i for i in range(tries)):
        if kept > len(layers) / 2:
            return None
        keep = set(worst[:kept])
        low = layers.keys() - keep
        measured = compared(expected, pair.with_low(low), class_axis=class_axis)
        if not failures(measured, thresholds):
            names = tuple(pair.graft.joined(keep))
            patterns = tuple(map(pattern, names))
            return Suggestion(layers=names, keep_fp32=patterns, measured=measured)
    return None


def hurting(layers: Mapping[str, str], local: Mapping[str, float]) -> list[str]:
    """The layers by their SQNR, the worst first; of equal ones the first in the graph."""
    return sorted(layers, key=lambda layer: local.get(layer, math.inf))


def pattern(name: str) -> str:
    """The `keep_fp32` pattern that is this node's name and no other's."""
    escaped = glob.escape(name)
    return f"[t]{escaped[1:]}" if escaped.startswith("type:") else escaped


def _worst(measured: Measured) -> dict[str, Figure]:
    outputs = measured["outputs"].values()
    found: dict[str, Figure] = {}
    for name in (*_WORST_IS_MOST, *_WORST_IS_LEAST):
        held = [value_of(each[name]) for each in outputs if name in each]
        values = [each for each in held if each is not None]
        if held:
            worst = max if name in _WORST_IS_MOST else min
            found[name] = figure(worst(values)) if len(values) == len(held) else None
    return found
