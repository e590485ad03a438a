"""A Ray cluster in a process of its own, whose parent says on stdin which nodes it has; it and its
nodes end with its stdin. Ray's own helper for this leaves files and processes to be collected."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import sys
import tempfile
import warnings
from typing import Any


def _free_port() -> int:
    """One that stays free until it is listened at: none of those that the system gives to whoever
    connects, and none that Ray gives to its servers for clients (23000 and up)."""
    for port in random.sample(range(20000, 23000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Short, since it is part of the paths of sockets; and nothing of it is left when this ends. Nor
    # is what `--on ray` finds on this host another cluster for it.
    folder = tempfile.mkdtemp(prefix="ray-")
    os.environ["RAY_TMPDIR"] = folder
    # Ray starts a server for each client by a fork, which gRPC's own threads break now and then.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    from ray.cluster_utils import Cluster

    client_port = _free_port()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "ray_client_server_port": client_port,
            "num_cpus": 0,
            "include_dashboard": False,
            "labels": {"pool": "head"},
            "object_store_memory": 80 << 20,
        },
    )
    nodes: dict[int, Any] = {}

    def say(found: object) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    say([cluster.address, client_port])
    for line in sys.stdin:
        request = json.loads(line)
        if "kill" in request:
            node = nodes.pop(request["kill"])
            cluster.remove_node(node, allow_graceful=request["graceful"])
            say(None)
        else:
            number = len(nodes) and max(nodes) + 1
            nodes[number] = cluster.add_node(object_store_memory=80 << 20, **request)
            say(number)
    cluster.shutdown()  # type: ignore[no-untyped-call]
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
