"""What only NVIDIA's own libraries can say of this host: asked in a child process, since they stay
loaded, hold memory of the GPU, and may crash."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engineforge.backends.gpu import HostGpu, read_gpus
from engineforge.errors import EngineForgeError, HostUnfit
from engineforge.worker.process import Child, Refused


def visible_gpus() -> list[HostGpu]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves; HostUnfit where an identity cannot be read."""
    return read_gpus(_ask({"op": "gpus"})["gpus"])


def visible_gpus_and_others() -> tuple[list[HostGpu], dict[str, list[dict[str, Any]] | None]]:
    """The same, and what computes on each, by UUID; None where that cannot be told."""
    answer = _ask({"op": "gpus", "busy": True})
    return read_gpus(answer["gpus"]), answer["others"]


def unknown_settings(backend: str) -> list[str]:
    """Settings of an installed library that no option stands for, so that no key has them."""
    try:
        return list(_ask({"op": "unknown-settings", "backend": backend})["names"])
    except HostUnfit as error:
        raise HostUnfit(f"{backend} is installed and does not load: {error}") from error


def _ask(request: Mapping[str, object]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        child = Child(Path(folder) / "libraries.log", os.environ)
        try:
            return child.ask(request)
        except Refused as error:
            raise HostUnfit(error.args[0], hint=error.hint) from error
        except EngineForgeError as error:
            said = "".join(f"\n  {line}" for line in child.log_tail())
            raise HostUnfit(f"asking NVIDIA's libraries: {error}{said}") from error
        finally:
            child.close()
