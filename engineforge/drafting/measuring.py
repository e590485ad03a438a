"""How trtexec would have measured, as arguments of `engineforge bench`."""

from __future__ import annotations

from engineforge.drafting.draft import Findings
from engineforge.drafting.profiles import Given
from engineforge.drafting.values import items, shapes

_VALUES = {
    "duration": "--duration",
    "iterations": "--iterations",
    "warmUp": "--warm-up",
    "infStreams": "--streams",
    "streams": "--streams",
    "device": "--gpu",
    "useProfile": "--profile",
}
_SWITCHES = {
    "useCudaGraph": "--cuda-graph",
    "noDataTransfers": "--no-transfers",
    "dumpProfile": "--layers",
    "exportProfile": "--layers",
}
_PLUGINS = ("plugins", "staticPlugins", "dynamicPlugins")


def measuring(given: Given, found: Findings) -> list[str]:
    """The arguments after `engineforge bench WHAT`; empty where the defaults are meant."""
    made: list[str] = []
    for flag, value in given:
        if flag in _VALUES and value:
            made += [_VALUES[flag], value]
        elif flag in _SWITCHES and _SWITCHES[flag] not in made:
            made.append(_SWITCHES[flag])
        elif flag == "shapes":
            made += _shapes(value or "", found)
    return made


def _shapes(value: str, found: Findings) -> list[str]:
    try:
        at = shapes(value)
    except ValueError as error:
        if not found.refused:
            found.refuse("shapes", str(error))
        return []
    return [
        word
        for name, dims in at.items()
        if dims
        for word in ("--shapes", f"{name}={'x'.join(map(str, dims))}")
    ]


def loading(given: Given, found: Findings) -> list[str]:
    """The same for a command that loads an engine: WHAT is its file, and plugins are named."""
    engine = next(value for flag, value in given if flag == "loadEngine")
    plugins = [
        word
        for flag, value in given
        if flag in _PLUGINS
        for path in items(value or "")
        for word in ("--plugin", path)
    ]
    return [engine or "ENGINE", *plugins, *measuring(given, found)]
