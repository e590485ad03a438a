"""Whether what was measured is good enough. Pure: no arrays, no files; what has no value fails."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engineforge.checks.figures import text_of, value_of


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    """A measure of an output, and which way it may not go."""

    measure: str
    most: bool
    missing: str

    def broken(self, value: float | None, limit: float) -> bool:
        """Not `>` and `<`: nothing compares with a NaN, and what compares with nothing fails."""
        if value is None:
            return True
        return not (value <= limit if self.most else value >= limit)


_NO_FLOATS = "no output holds floats"
_NO_CLASSES = "no output has more than one class along 'class_axis'"
_NO_LABELS = "the data has no labels that fit an output"
_LIMITS = {
    "max_relative_error": _Limit(measure="relative_error", most=True, missing=_NO_FLOATS),
    "max_absolute_error": _Limit(measure="max_absolute_error", most=True, missing=_NO_FLOATS),
    "min_cosine": _Limit(measure="cosine", most=False, missing=_NO_FLOATS),
    "min_sqnr_db": _Limit(measure="sqnr_db", most=False, missing=_NO_FLOATS),
    "min_top1_agreement": _Limit(measure="top1_agreement", most=False, missing=_NO_CLASSES),
    "min_top1": _Limit(measure="top1", most=False, missing=_NO_LABELS),
    "max_top1_drop": _Limit(measure="top1_drop", most=True, missing=_NO_LABELS),
}


def failures(measured: Mapping[str, object], thresholds: Mapping[str, float]) -> list[str]:
    """What keeps a measurement from passing, a line each; none if it passes.

    `measured` is what `accuracy.measure` gives. Every output is held to every threshold whose
    measure it has (see metrics.py), and a threshold whose measure no output has is not met. An
    output of integers is held to `min_top1_agreement`, and without that must be equal throughout.
    `max_top1_drop` is `source_top1 - top1`, a share. Whatever the thresholds are, an output whose
    error is as large as itself (0 dB) does not pass.
    """
    if not thresholds:
        return ["no thresholds are set, and without any nothing can pass"]
    outputs = _outputs(measured)
    if not outputs:
        return ["nothing was measured"]
    lines: list[str] = []
    for output, measures in outputs.items():
        sqnr = value_of(measures.get("sqnr_db", 1.0))
        if sqnr is not None and -math.inf < sqnr <= 0:
            lines.append(
                f"the error of '{output}' is as large as the output itself: SQNR {text_of(sqnr)} dB"
            )
    for name, limit in thresholds.items():
        rule = _LIMITS.get(name)
        if rule is None:
            lines.append(f"there is no threshold '{name}'")
            continue
        held = [(output, m) for output, m in outputs.items() if rule.measure in m]
        if not held:
            lines.append(f"{rule.measure}, asked for by '{name}', has no value: {rule.missing}")
        for output, measures in held:
            value = value_of(measures[rule.measure])
            if rule.broken(value, limit):
                lines.append(_line(rule, output, measures, limit))
    if "min_top1_agreement" not in thresholds:
        for output, measures in outputs.items():
            if "relative_error" not in measures and value_of(measures.get("top1_agreement")) != 1:
                share = text_of(measures.get("top1_agreement"))
                lines.append(
                    f"top1_agreement of '{output}' is {share}, and only 'min_top1_agreement', "
                    "which is not set, could allow that"
                )
    return lines


def order_failures(measured: Mapping[str, Any]) -> list[str]:
    """The outputs of an engine that are at another place than in its source, a line each; none
    where `measured` is of no engine."""
    order = measured.get("order", {"source": [], "engine": []})
    return [
        f"output {place} of the engine is '{found}', expected '{wanted}', as in the source"
        for place, (wanted, found) in enumerate(zip(order["source"], order["engine"], strict=True))
        if wanted != found
    ]


def _outputs(measured: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """The measures of each output, under the names that the limits know."""
    found = measured.get("outputs")
    outputs = {}
    for name, given in found.items() if isinstance(found, Mapping) else ():
        measures = dict(given)
        if "agreement" in measures:
            measures["top1_agreement"] = measures["agreement"]
        if "top1" in measures:
            before, after = value_of(measures.get("source_top1")), value_of(measures["top1"])
            measures["top1_drop"] = None if before is None or after is None else before - after
        outputs[str(name)] = measures
    return outputs


def _line(rule: _Limit, output: str, measures: Mapping[str, object], limit: float) -> str:
    line = (
        f"{rule.measure} of '{output}' is {text_of(measures[rule.measure])}, "
        f"expected at {'most' if rule.most else 'least'} {limit:.6g}"
    )
    if rule.measure == "top1_drop":
        line += f" ({text_of(measures['source_top1'])} fell to {text_of(measures['top1'])})"
    bad = measures.get("non_finite")
    return f"{line}: {bad} of {measures['count']} values are not finite" if bad else line
