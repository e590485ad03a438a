"""The engine that a build gives, written to its file and hashed on the way, fsynced."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from engineforge.backends import BuildError
from engineforge.backends.library import api
from engineforge.backends.words import Words

_PIECE = 16 << 20


def serialize(
    engine: Path,
    *,
    trt: ModuleType,
    builder: Any,  # noqa: ANN401 - TensorRT has no types
    network: Any,  # noqa: ANN401
    config: Any,  # noqa: ANN401
    words: Words,
) -> tuple[str, int]:
    """Build, and write the engine: its sha256, and its size in bytes."""
    with engine.open("xb") as file, ThreadPoolExecutor(1) as beside:
        if api(trt).streams_engines:
            writer = _writer(trt, file, beside)
            done = builder.build_serialized_network_to_stream(network, config, writer)
        else:
            writer = _Pieces(file, beside)
            memory = builder.build_serialized_network(network, config)
            done = memory is not None and writer.write_all(memoryview(memory))
        if writer.error is not None:
            # TensorRT reports success for a writer that failed.
            why = writer.error.strerror
            raise BuildError(f"the engine could not be written to '{engine.parent}': {why}")
        if not done:
            raise BuildError(f"TensorRT built no engine:{words.said()}", hint=words.hint())
        words.no_errors("while it built")
        file.flush()
        os.fsync(file.fileno())
    size = engine.stat().st_size
    if size == 0 or size != writer.size:
        raise BuildError(f"the engine has {size} bytes, and TensorRT wrote {writer.size}")
    return "sha256:" + writer.sha.hexdigest(), size


class _Pieces:
    """Hashes each piece while it is written; keeps the first error."""

    def __init__(self, file: Any, beside: ThreadPoolExecutor) -> None:  # noqa: ANN401
        self._file, self._beside = file, beside
        self.sha = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        if self.error is not None:
            return 0
        hashed = self._beside.submit(self.sha.update, data)
        try:
            self._file.write(data)
            self.size += len(data)
        except OSError as error:
            self.error = error
            return 0
        finally:
            hashed.result()
        return len(data)

    def write_all(self, data: memoryview) -> bool:
        flat = data.cast("B")
        return all(self.write(flat[i : i + _PIECE]) for i in range(0, len(flat), _PIECE))


def _writer(trt: ModuleType, file: Any, beside: ThreadPoolExecutor) -> Any:  # noqa: ANN401
    class Writer(_Pieces, trt.IStreamWriter):  # type: ignore[misc, name-defined]
        """Told by TensorRT, which drops what a writer raises."""

        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            _Pieces.__init__(self, file, beside)

    return Writer()
