"""Build time by day, as bars. Pure geometry; the template draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from engineforge.report.text import counted, duration

WIDTH, HEIGHT = 720, 100
_MOST = 90
"""Days that are drawn, the last ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A day: `first` and `again` are the heights of what was built for the first time, and of
    rebuilds, in units of the drawing."""

    x: float
    width: float
    again_y: float
    again: float
    first_y: float
    first: float
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Daily:
    bars: Sequence[Bar]
    since: str
    until: str
    most: str


def daily(builds: Sequence[Mapping[str, Any]]) -> Daily | None:
    """The last days on which something was built, and those between them; None without any."""
    days: dict[date, list[Mapping[str, Any]]] = {}
    for each in builds:
        if (day := _day(each["finished"])) is not None and each["seconds"] is not None:
            days.setdefault(day, []).append(each)
    if not days:
        return None
    until = max(days)
    since = max(min(days), until - timedelta(days=_MOST - 1))
    shown = [since + timedelta(days=at) for at in range((until - since).days + 1)]
    most = max(_seconds(days.get(day, ())) for day in shown) or 1.0
    # A week at least, or a single day would be a wall.
    step = WIDTH / max(len(shown), 7)
    bars = []
    for at, day in enumerate(shown):
        those = days.get(day, ())
        if not those:
            continue
        first = _seconds([each for each in those if each["first"]])
        again = _seconds(those) - first
        heights = [HEIGHT * each / most for each in (again, first)]
        bars.append(
            Bar(
                x=round(at * step + step * 0.1, 1),
                width=round(step * 0.8, 1),
                again_y=round(HEIGHT - heights[0], 1),
                again=round(heights[0], 1),
                first_y=round(HEIGHT - heights[0] - heights[1], 1),
                first=round(heights[1], 1),
                says=f"{day.isoformat()}: {counted(len(those), 'build')}, "
                f"{duration(first + again)}, of it {duration(again)} rebuilding",
            )
        )
    return Daily(bars=bars, since=since.isoformat(), until=until.isoformat(), most=duration(most))


def _day(text: str | None) -> date | None:
    try:
        return date.fromisoformat((text or "")[:10])
    except ValueError:
        return None


def _seconds(builds: Sequence[Mapping[str, Any]]) -> float:
    return float(sum(each["seconds"] for each in builds))
