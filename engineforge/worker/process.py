"""A child process seen from its parent: asked, timed, killed, and its end put into words."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engineforge.errors import EngineForgeError

# What of this process's environment a build may see. Variables that change what TensorRT builds
# (NVIDIA_TF32_OVERRIDE does, unseen) are not among them, so none is part of a key.
_ALLOWED = frozenset(
    [
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",
        "CUDA_MODULE_LOADING",
        "HOME",
        "LANG",
        "LC_ALL",
        "LC_CTYPE",
        "LD_LIBRARY_PATH",
        "PATH",
        "PYTHONHOME",
        "PYTHONPATH",
        "SYSTEMROOT",
        "TEMP",
        "TMP",
        "TMPDIR",
        "USER",
        "VIRTUAL_ENV",
    ]
)
_LOG_LINES = 20


class Crashed(EngineForgeError):
    """The child ended without an answer; the message says by what, and what it last said."""


class Refused(EngineForgeError):
    """The child answered that it cannot: a bad model, an option, TensorRT's own error. Its exit
    code is that of the error which the child met."""

    def __init__(self, message: str, *, hint: str | None = None, exit_code: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class Child:
    """A running `engineforge.worker.child`. Its stderr goes to `log`; of `environment` it sees what
    is harmless, and all of `more`."""

    def __init__(
        self, log: Path, environment: Mapping[str, str], more: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._killed_for: str | None = None
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engineforge.worker.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=log.parent,
                env={
                    **{name: value for name, value in environment.items() if name in _ALLOWED},
                    **(more or {}),
                },
                start_new_session=True,  # Ctrl-C is this process's to handle
            )

    def ask(self, request: Mapping[str, object], timeout: float | None = None) -> dict[str, Any]:
        """The answer to one request; Refused or Crashed. One request at a time."""
        timer = None
        if timeout is not None:
            timer = threading.Timer(timeout, self.kill, [f"it took more than {timeout:g} s"])
            timer.start()
        try:
            with self._lock:
                line = self._exchange(json.dumps(request, default=_absolute).encode() + b"\n")
        finally:
            if timer is not None:
                timer.cancel()
        try:
            answer = json.loads(line)
        except ValueError:
            raise self._crash() from None
        if "error" in answer:
            code = answer.get("exit_code", EngineForgeError.exit_code)
            raise Refused(answer["error"], hint=answer["hint"], exit_code=code)
        return dict(answer["ok"])

    def _exchange(self, request: bytes) -> bytes:
        process = self._process
        assert process.stdin is not None  # noqa: S101 - both are pipes, asked for above
        assert process.stdout is not None  # noqa: S101
        try:
            process.stdin.write(request)
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return b""
        return process.stdout.readline()

    def _crash(self) -> Crashed:
        code = self._process.wait()
        if self._killed_for is not None:
            how = f"was killed: {self._killed_for}"
        elif code < 0:
            how = f"was ended by {_signal_name(-code)}"
            if -code == signal.SIGKILL:
                how += ", as the kernel does where memory runs out"
        else:
            how = f"ended with exit code {code}, without an answer"
        return Crashed(f"the process {how}", hint=None)

    def log_tail(self, *more: Path) -> tuple[str, ...]:
        """The last lines that the child and its libraries wrote, to `more` logs too."""
        lines: dict[Path, list[str]] = {}
        for log in (self._log, *more):
            with contextlib.suppress(OSError):
                lines[log] = log.read_text(encoding="utf-8", errors="replace").splitlines()
        return tuple([line for each in lines.values() for line in each][-_LOG_LINES:])

    def kill(self, why: str) -> None:
        """End it now: TensorRT's own cancel waits for the end of a step, which may be all."""
        self._killed_for = self._killed_for or why
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what it started goes with it

    def tell(self, request: Mapping[str, object]) -> None:
        """A request that has no answer; a child that is gone is noticed by the next `ask`."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe, asked for above
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def release(self) -> None:
        """Let it end by itself; `close` collects it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def close(self) -> None:
        """End it and collect it. It writes nothing but for what it is asked, and what it has
        answered is written: by itself it would first end what it loads, and take it all down."""
        self.release()
        self._process.kill()
        self._process.wait()


def _absolute(value: object) -> str:
    # The child works in a folder of its own.
    if isinstance(value, Path):
        return str(value.absolute())
    raise TypeError(f"{type(value).__name__} cannot be sent to a child")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
