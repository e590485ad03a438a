"""Where caches are: of a folder of specs, and of a node of a cluster."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_CACHE_VARIABLE = "ENGINEFORGE_CACHE"


def cache(option: str | None, environment: Mapping[str, str], root: str) -> str:
    """Of a folder of specs, as it is written: relative to where one is, if that is."""
    chosen = option or environment.get(_CACHE_VARIABLE)
    if chosen:
        return os.path.normpath(chosen) if ".." not in chosen else chosen
    return os.path.normpath(os.path.join(root, os.pardir, "cache"))  # noqa: PTH118


def cache_of_node(environment: Mapping[str, str]) -> str:
    """Where a node of a cluster keeps its entries: it belongs to no project."""
    return environment.get(_CACHE_VARIABLE) or os.path.expanduser("~/.cache/engineforge")  # noqa: PTH111
