"""What a spec asks of a variant's latency, as values. Measuring it is not this room's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from engineforge.errors import Problem
from engineforge.spec.load import Place
from engineforge.spec.model import LatencyCheck, MaxSlower

_THRESHOLDS = ("max_p99_ms", "max_median_ms", "max_slower")


def parse_latency(
    variant: str,
    targets: Mapping[str, Collection[str]],
    *,
    shared: tuple[Any, Place] | None,
    own: tuple[Any, Place] | None,
    problems: list[Problem],
) -> LatencyCheck | None:
    """The latency check of a variant: the file's, with what the variant says for itself. `targets`
    are the names of those of each variant. The one that all are compared with is not compared."""
    merged: dict[str, tuple[Any, Place]] = {}
    at: Place | None = None
    for given in (shared, own):
        if given is not None and "latency" in given[0]:
            at = given[1].below("latency")
            merged.update({key: (value, at) for key, value in given[0]["latency"].items()})
    if at is None:
        return None
    raw = {key: value for key, (value, _) in merged.items()}
    if not any(key in raw for key in _THRESHOLDS):
        message = "a latency check without a threshold passes nothing"
        problems.append(at.problem(message, "such as max_p99_ms: 5"))
        return None
    slower = None
    if "max_slower" in raw:
        than = str(raw["max_slower"]["than"])
        place = merged["max_slower"][1].below("max_slower")
        said_for_itself = own is not None and "max_slower" in own[0].get("latency", {})
        if than != variant or said_for_itself:
            _check_than(variant, than, targets, place, problems)
            slower = MaxSlower(than=than, percent=float(raw["max_slower"]["percent"]))
    p99, median = (raw.get(key) for key in ("max_p99_ms", "max_median_ms"))
    if slower is None and p99 is None and median is None:
        return None
    return LatencyCheck(
        profile=raw.get("profile", "opt"),
        max_p99_ms=None if p99 is None else float(p99),
        max_median_ms=None if median is None else float(median),
        max_slower=slower,
    )


def _check_than(
    variant: str,
    than: str,
    targets: Mapping[str, Collection[str]],
    place: Place,
    problems: list[Problem],
) -> None:
    if than not in targets:
        names = ", ".join(f"'{name}'" for name in targets)
        message = f"expected a variant of this file, which has {names}, found '{than}'"
        problems.append(place.problem(message, None, "than"))
        return
    if than == variant:
        message = f"variant '{variant}' would be compared with itself"
        problems.append(place.problem(message, "name another one", "than"))
        return
    missing = [name for name in targets[variant] if name not in targets[than]]
    if missing:
        problems.append(
            place.problem(
                f"variant '{variant}' is compared with '{than}' target by target, and '{than}' "
                f"has no target '{missing[0]}'",
                f"give '{than}' that target as well, or write max_slower for single variants",
                "than",
            )
        )
