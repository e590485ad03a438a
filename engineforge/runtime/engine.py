"""An engine: verified, loaded, and run by any number of threads."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from engineforge.digest import Digest
from engineforge.errors import EngineForgeError
from engineforge.runtime.context import Context, Outputs, ProfileTaken
from engineforge.runtime.cuda import Device, Event, Stream
from engineforge.runtime.dlpack import Borrowed
from engineforge.runtime.engine_file import EngineFile, read_engine
from engineforge.runtime.inputs import Given, given, request_of
from engineforge.runtime.interface import Interface
from engineforge.runtime.loaded import Loaded

_CONTEXTS = 4


class Engine:
    """A loaded engine; a context manager, whose end gives all back in the order that TensorRT
    needs. `interface` says what it takes and gives."""

    def __init__(self, loaded: Loaded, file: EngineFile, contexts: int) -> None:
        self.path, self.sha256, self.backend = file.path, file.sha256, file.backend
        self.interface: Interface = loaded.interface
        self.loaded = loaded
        self._most = contexts
        self._arrivals = Stream()
        self._lock = threading.RLock()  # a handler of a signal may close the engine
        self._change = threading.Condition(self._lock)
        self._waiting = 0
        self._idle: list[Context] = []
        self._made: list[Context] = []
        self._given: list[Context] = []
        self._alone: set[int] = set()
        self._closed = False

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        sha256: Digest | None = None,
        backend: str | None = None,
        recipe: Mapping[str, Any] | None = None,
        plugins: Sequence[Path] = (),
        log: TextIO | None = None,
        device: int | str = 0,
        contexts: int = _CONTEXTS,
        weight_streaming_budget: int | None = None,
    ) -> Engine:
        """Verify and load the engine of an entry's folder, a file with its manifest beside it, or
        any file by `sha256` (and by the `recipe` that it was built by); on the GPU of that index or
        UUID.

        `contexts` are the most runs at once, each with memory of its own; TensorRT's words go to
        `log`; `weight_streaming_budget` are the bytes of weights kept on the GPU (10 and later).
        StoreCorrupt and EngineRefused where it must not be deserialized, HostUnfit where this host
        cannot: all before TensorRT sees a byte.
        """
        file = read_engine(Path(path), sha256=sha256, backend=backend, recipe=recipe)
        loaded = Loaded(
            file,
            device=Device(device),
            plugins=plugins,
            log=log,
            weight_streaming_budget=weight_streaming_budget,
        )
        try:
            with loaded.device:
                return cls(loaded, file, contexts)
        except BaseException:
            loaded.close()
            raise

    def run(
        self, inputs: Mapping[str, Any], profile: int | None = None, *, device: bool = False
    ) -> Outputs:
        """The outputs by name for inputs by name, as `Context.run`; in the profile that fits, or in
        the one that is asked for. Any thread may call it."""
        for each in inputs.values():
            if type(each) is not np.ndarray:
                break
        else:
            return self._run(inputs, profile, device)
        with self._lock:
            self._open()
        with contextlib.ExitStack() as borrowed:
            arrays = given(inputs, self._arrivals, borrowed)
            some = any(isinstance(each, Borrowed) for each in arrays.values())
            return self._run(arrays, profile, device, arrive=some)

    def _run(
        self, arrays: Given, profile: int | None, device: bool, *, arrive: bool = False
    ) -> Outputs:
        """`arrive`: with inputs that are ready in the stream of arrivals. Where nothing changes
        from run to run it says as little as it can: Python's part of a run is some percent of it,
        since the GPU was waited for and nothing here is in a cache of the CPU any more."""
        held = self._bound_already(arrays, profile)
        bound = held is not None
        if held is None:
            self.interface.check(arrays)
            index = self.interface.profile_for(request_of(self.interface, arrays), profile)
            held = self._obtain(index)
        try:
            if arrive:
                with self.loaded.device, Event() as arrived:
                    arrived.record(self._arrivals)
                    held.stream.wait(arrived)
            return held.run_given(arrays, device=device, bound=bound)
        finally:
            with self._lock:
                self._idle.append(held)
                if self._waiting:
                    self._change.notify_all()

    def context(self, profile: int = 0, *, cuda_graph: bool = False) -> Context:
        """A context of one's own, for one profile; with `cuda_graph`, runs replay a CUDA graph that
        is made at the first run of each shape. It ends with the engine, or when it is closed."""
        with self._lock:
            self._open()
            try:
                made = Context(self.loaded, profile, cuda_graph=cuda_graph)
            except ProfileTaken:
                self._close_idle(profile)
                made = Context(self.loaded, profile, cuda_graph=cuda_graph)
            self._given.append(made)
            return made

    def _bound_already(self, arrays: Given, profile: int | None) -> Context | None:
        with self._lock:
            self._open()
            for at, each in enumerate(self._idle):
                if profile in (None, each.profile) and each.takes(arrays):
                    return self._idle.pop(at)
        return None

    def _obtain(self, profile: int) -> Context:
        with self._lock:
            while True:
                self._open()
                for at, each in enumerate(self._idle):
                    if each.profile == profile:
                        return self._idle.pop(at)
                ours = any(each.profile == profile for each in self._made)
                if len(self._made) >= self._most and self._idle:
                    self._close_idle(self._idle[0].profile)
                elif len(self._made) >= self._most or (ours and profile in self._alone):
                    self._wait()
                    continue
                try:
                    made = Context(self.loaded, profile)
                except ProfileTaken:
                    if ours:
                        self._alone.add(profile)
                        continue
                    self._change.notify_all()  # what woke this thread may serve another
                    raise
                except BaseException:
                    self._change.notify_all()
                    raise
                self._made.append(made)
                return made

    def _wait(self) -> None:
        """With the lock held: until a context is given back, or the engine is closed."""
        self._waiting += 1
        try:
            self._change.wait()
        finally:
            self._waiting -= 1

    def _close_idle(self, profile: int) -> None:
        """With the lock held: end the idle contexts of a profile."""
        for each in [each for each in self._idle if each.profile == profile]:
            self._idle.remove(each)
            self._made.remove(each)
            each.close()

    def _open(self) -> None:
        if self._closed:
            raise EngineForgeError(f"the engine '{self.path}' is closed")

    def close(self) -> None:
        """Wait for runs under way, then end contexts, engine and runtime, in that order."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._change.notify_all()
            while len(self._idle) < len(self._made):
                self._wait()
            for each in [*self._made, *self._given]:
                each.close()
            self._made, self._idle, self._given = [], [], []
        self._arrivals.close()
        self.loaded.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
