"""Model sources: where a model comes from, and how it becomes canonical ONNX."""

from __future__ import annotations

import logging
from pathlib import Path

from engineforge.errors import EngineForgeError

MODEL, WEIGHTS = "model.onnx", "model.onnx.data"
"""The files of a model that was made here: the graph, and its large tensors."""

LFS_POINTER = b"version https://git-lfs"
"""What a file begins with that Git LFS left in the place of another."""

CANONICAL_FORMAT = 1
"""Part of every `onnx` key: raised whenever `onnx.canonicalize` writes other bytes for a model."""


class SourceFailed(EngineForgeError):
    """A source of which no ONNX model could be made; the message says what of it."""

    exit_code = 2


def warn_of_code(called: str) -> None:
    """Say in the log that a file which the spec trusts is about to run what it likes."""
    logging.getLogger(__name__).warning(
        "'%s' is trusted: what code it holds runs now, with all rights of this process", called
    )


def beginning(path: Path, called: str) -> bytes:
    """The first bytes of a source's file; SourceFailed where it is a Git LFS pointer."""
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise SourceFailed(f"'{called}' is a Git LFS pointer, not the model", hint="git lfs pull")
    return start
