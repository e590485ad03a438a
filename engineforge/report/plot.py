"""What layers cost, as a drawing: a bar for each layer, the one that costs most on top."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engineforge.errors import HostUnfit, UsageError

_MOST = 40
_FORMATS = (".pdf", ".png", ".svg")


def can_be_plotted(path: Path) -> None:
    """UsageError where no drawing can be written there; better said before it is measured."""
    if path.suffix not in _FORMATS:
        raise UsageError(f"'{path}' is no {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"the folder of '{path}' does not exist")


def plot_sensitivity(measured: Mapping[str, Any], title: str, path: Path) -> None:
    """Write the drawing to `path`, in the format that its suffix names.

    HostUnfit where Matplotlib is not installed, UsageError for another format.
    """
    can_be_plotted(path)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise HostUnfit(
            "drawing needs Matplotlib, which is not installed here",
            hint="python -m pip install 'engineforge[plot]'",
        ) from error
    layers = [*measured["layers"]][:_MOST]
    costs = [each["relative_error"] for each in layers]
    # What overflows costs more than can be drawn: to the end of the axis, and marked.
    finite = [cost for cost in costs if isinstance(cost, int | float)]
    end = 2 * max(finite, default=1.0) or 1.0
    figure = Figure(figsize=(9, 1.5 + 0.25 * len(layers)), layout="constrained")
    axes = figure.subplots()
    lengths = [cost if isinstance(cost, int | float) else end for cost in costs]
    colors = ["tab:blue" if isinstance(cost, int | float) else "tab:red" for cost in costs]
    names = [f"{each['layer']} ({each['type']})" for each in layers]
    axes.barh(range(len(layers)), lengths, color=colors)
    axes.set_yticks(range(len(layers)), names, fontsize=7)
    axes.invert_yaxis()
    smallest = min((cost for cost in finite if cost > 0), default=0.0)
    if smallest and math.log10(end / smallest) > 2:  # noqa: PLR2004 - two decades
        axes.set_xscale("log")
    axes.set_xlabel("relative error of the outputs with this layer alone lowered (red: overflows)")
    more = len(measured["layers"]) - len(layers)
    axes.set_title(title + (f", without the {more} that cost least" if more else ""))
    figure.savefig(path)
