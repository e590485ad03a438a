"""What of many measured numbers is shown: the worst output's, and which way is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from engineforge.checks.figures import value_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """How an accuracy is drawn: as an error, which is better the lower it is. `title` says what,
    `short` what the number itself is called."""

    name: str
    title: str
    short: str
    is_share: bool

    def error(self, value: float) -> float:
        """The same as an error: of an agreement, how far it is from all."""
        return max(1 - value, 0.0) if self.is_share else value

    def text(self, value: float) -> str:
        """The value as it was measured, in words."""
        if self.is_share:
            return f"{self.short} {100 * value:.2f} %"
        return f"{self.short} {value:.3g}"


# The first that all variants of a model have is the one that they are compared by.
MEASURES = (
    Measure(name="top1", title="top-1 error", short="top-1", is_share=True),
    Measure(name="relative_error", title="relative error", short="error", is_share=False),
    Measure(name="top1_agreement", title="top-1 agreement error", short="agrees", is_share=True),
    Measure(name="agreement", title="equality error", short="equal", is_share=True),
)


def worst(outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """By measure its value in the output where it is worst; without those that have none."""
    found = {}
    for measure in MEASURES:
        values = [value_of(each[measure.name]) for each in outputs.values() if measure.name in each]
        known = [value for value in values if value is not None]
        if known:
            found[measure.name] = min(known) if measure.is_share else max(known)
    return found


def accuracy_of(variant: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """`engine` or `model`, and what that came to: the engine itself counts before its model."""
    for of in ("engine", "model"):
        if (found := variant["accuracy"][of]) is not None:
            return of, found
    return None


def common_measure(found: Iterable[Mapping[str, float]]) -> Measure | None:
    """By what all of these can be compared."""
    all_of_them = list(found)
    return next((m for m in MEASURES if all(m.name in each for each in all_of_them)), None)


def ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Round numbers from `low` to `high`, three to seven of them."""
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [
                step * 10.0**power
                for power in range(first, last + 1)
                for step in steps
                if low <= step * 10.0**power <= high
            ]
            if len(found) <= 7:  # noqa: PLR2004 - more do not fit
                return found
        return found[:: math.ceil(len(found) / 6)]
    step = 10 ** math.floor(math.log10((high - low) / 3))
    while (high - low) / step > 6:  # noqa: PLR2004
        step *= 2 if (high - low) / step <= 12 else 2.5 if (high - low) / step <= 15 else 5  # noqa: PLR2004
    first = math.ceil(low / step)
    return [step * at for at in range(first, math.floor(high / step + 1e-9) + 1)]
