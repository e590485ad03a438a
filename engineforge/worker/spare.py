"""A build child started before there is anything to build: its interpreter and TensorRT load while
the parent still plans."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from engineforge.worker.process import Child


class Spare:
    """One child at most, for the first build; started, taken or closed from any thread."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self._child: Child | None = None
        self._used = False
        self._backend = ""
        self._lock = threading.Lock()

    def start(self, backend: str) -> None:
        """Let it load the backend's library; what that costs is lost if nothing is built."""
        with self._lock:
            if not self._used:
                self._used, self._backend = True, backend
                self._child = Child(self._folder / "spare.log", self._environment)
                request = {"op": "load", "module": "engineforge.worker.wire", "backend": backend}
                self._child.tell(request)

    def take(self, backend: str) -> Child | None:
        """The child, once; None where there is none (any more), or it has loaded another."""
        with self._lock:
            self._used = True
            if backend != self._backend:
                return None
            child, self._child = self._child, None
            return child

    def close(self) -> None:
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.kill("there was nothing to build")
            child.close()
