"""The child process that reads models: inspects them, and makes them ready for a build."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engineforge.worker.process import Child, Crashed


class Importer:
    """The child that reads models: one for all of them, started when first asked."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._child: Child | None = None
        self._lock = threading.Lock()
        self._ending: list[Child] = []

    def ask(
        self, request: Mapping[str, object], *, doing: str = "reading the model"
    ) -> dict[str, Any]:
        with self._lock:
            child = self._started()
            try:
                return child.ask(request)
            except Crashed as error:
                self._release()
                said = "".join(f"\n  {line}" for line in child.log_tail())
                raise Crashed(f"{doing}: {error.args[0]}{said}") from error

    def start(self) -> None:
        """Let the process load ONNX while the caller does other work."""
        with self._lock:
            self._started().tell({"op": "load", "module": "engineforge.stages.sources.onnx"})

    def kill(self, why: str) -> None:
        """End it now, also while a thread waits for its answer."""
        child = self._child
        if child is not None:
            child.kill(why)

    def release(self) -> None:
        """Let the process end, without waiting for it: it holds some 50 MB, and builds want them.

        It is started again if it is asked again.
        """
        with self._lock:
            self._release()

    def close(self) -> None:
        """End the process, and collect it."""
        with self._lock:
            self._release()
            for child in self._ending:
                child.close()

    def _started(self) -> Child:
        if self._child is None:
            self._child = Child(self._folder / "import.log", self._environment)
        return self._child

    def _release(self) -> None:
        if self._child is not None:
            self._child.release()
            self._ending.append(self._child)
            self._child = None
