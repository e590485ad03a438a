"""EngineForge: a declarative build system for NVIDIA TensorRT engines.

`pull`, `follow` and `fall_back` are for servers: engines of environments, verified
(`cli/serving.py`).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.1.0"

_FOR_SERVERS = ("fall_back", "follow", "pull")


def __getattr__(name: str) -> Any:  # noqa: ANN401 - of any of them
    # Imported when it is used: whoever reads the version is not to wait for the rest.
    if name not in _FOR_SERVERS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module("engineforge.cli.serving"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_FOR_SERVERS])
