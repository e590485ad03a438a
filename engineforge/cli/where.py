"""Where the cache of a folder of specs is, by the options and the environment."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_CACHE_VARIABLE = "ENGINEFORGE_CACHE"


def cache(option: str | None, environment: Mapping[str, str], root: str) -> str:
    """As it is written: relative to where one is, if the folder of specs or the option is."""
    chosen = option or environment.get(_CACHE_VARIABLE)
    if chosen:
        return os.path.normpath(chosen) if ".." not in chosen else chosen
    return os.path.normpath(os.path.join(root, os.pardir, "cache"))  # noqa: PTH118
