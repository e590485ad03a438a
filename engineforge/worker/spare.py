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
        self._lock = threading.Lock()

    def start(self, backend: str) -> None:
        """Let it load the backend's library; what that costs is lost if nothing is built."""
        with self._lock:
            if not self._used:
                self._used = True
                self._child = Child(self._folder / "spare.log", self._environment)
                self._child.tell({"op": "load", "backend": backend})

    def take(self) -> Child | None:
        """The child, once; None where there is none (any more)."""
        with self._lock:
            child, self._child, self._used = self._child, None, True
            return child

    def close(self) -> None:
        if child := self.take():
            child.kill("there was nothing to build")
            child.close()
