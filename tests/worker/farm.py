"""A Ray cluster of fake nodes on this host, each with labels and a cache of its own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engineforge.backends.gpu import HostGpu
from engineforge.cli.node import here
from engineforge.worker.labels import labels_of
from engineforge.worker.node import carry_out
from engineforge.worker.order import Answer, Order
from engineforge.worker.outcome import Event
from tests.conftest import Forge
from tests.gpus import H200, L4, host_gpu
from tests.worker.conftest import builders, until

RTX = {"platform": "linux-x86_64", "tensorrt-rtx": "1.7.1.116", "tensorrt-rtx.cuda": "13"}
_ROOT = Path(__file__).parents[2]
_PRETENDED = "PRETENDED_GPU"
_KINDS = {"h200": H200, "l4": L4}


def pretended(name: str) -> HostGpu:
    return replace(host_gpu(_KINDS[name]), uuid=f"GPU-{name}")


def serve(order: Order, tell: Callable[[Event], None]) -> Answer:
    """What `engineforge` has nodes do, on a node whose GPU is pretended."""
    found = [pretended(name) for name in [os.environ.get(_PRETENDED)] if name]
    return carry_out(order, replace(here(), gpus=lambda: found), tell)


@dataclass(eq=False)
class FakeNode:
    number: int
    cache: Path

    def builds(self) -> bool:
        return bool(builders(self.cache))


class Head:
    """The node of a cluster that builds nothing, and where it is reached."""

    def __init__(self, log: Path) -> None:
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.worker.cluster"],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._log = log
        self.address, self.client_port = self._answer()
        until(self._serves_clients, 120)  # which Ray does not wait for

    def _serves_clients(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.client_port)) == 0

    def ask(self, request: dict[str, Any]) -> Any:  # noqa: ANN401 - as the request has it
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:  # noqa: ANN401
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._log.read_text()
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate()


@dataclass
class Farm:
    """What a test has of a cluster: its nodes and commands are gone when the test is over."""

    head: Head
    root: Path
    nodes: list[FakeNode] = field(default_factory=list)
    commands: list[subprocess.Popen[str]] = field(default_factory=list)

    def node(
        self,
        *,
        labels: dict[str, str] | None = None,
        gpu: str | None = None,
        path: Sequence[Path] = (),
    ) -> FakeNode:
        """One for one build at a time; with a GPU that it pretends to have it has its labels, but
        for those in `labels`. Children find modules on `path` first."""
        cache = self.root / f"node-{len(self.nodes)}"
        environment = {"ENGINEFORGE_CACHE": str(cache)}
        found = dict(RTX)
        if gpu is not None:
            found |= labels_of("linux-x86_64", [], [pretended(gpu)])
            environment[_PRETENDED] = gpu
        if path:
            before = os.environ.get("PYTHONPATH")
            parts = [*map(str, path), *([before] if before else [])]
            environment["PYTHONPATH"] = os.pathsep.join(parts)
        number = self.head.ask(
            {
                "num_cpus": 1,
                "num_gpus": 0 if gpu is None else 1,
                "labels": {**found, **(labels or {})},
                "env_vars": environment,
            }
        )
        self.nodes.append(FakeNode(number, cache))
        return self.nodes[-1]

    def kill(self, node: FakeNode) -> None:
        """As a power cut does, but for its processes, which take a moment."""
        self._end(node, graceful=False)

    def _end(self, node: FakeNode, *, graceful: bool) -> None:
        self.nodes.remove(node)
        self.head.ask({"kill": node.number, "graceful": graceful})

    def start(self, forge: Forge, *args: str) -> subprocess.Popen[str]:
        """`engineforge build` on this cluster."""
        on = () if "--on" in args else ("--on", "ray")
        words = ("build", "specs", *on, "--remote", "far", "--json")
        self.commands.append(forge.process(*words, *args))
        return self.commands[-1]

    def close(self) -> None:
        for command in self.commands:
            command.kill()
            with contextlib.suppress(ValueError):  # a test has read all of it
                command.communicate()
        for node in list(self.nodes):
            self._end(node, graceful=True)
