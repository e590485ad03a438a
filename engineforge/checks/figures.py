"""Measured numbers as JSON holds them: infinities are the texts "inf" and "-inf", and what has no
value is null; NaN does not occur."""

from __future__ import annotations

import math

Figure = float | str | None


def figure(value: float) -> Figure:
    """A number as JSON can hold it."""
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else "inf" if value > 0 else "-inf"


def value_of(found: object) -> float | None:
    """The number again; None where there is none."""
    if found in ("inf", "-inf"):
        return float(str(found))
    if isinstance(found, bool) or not isinstance(found, int | float) or math.isnan(found):
        return None
    return float(found)


def text_of(found: object) -> str:
    """For a message: as many digits as a reader wants."""
    value = value_of(found)
    return "without a value" if value is None else f"{value:.6g}"
