"""What a node of a cluster reads of its world, for an order that it carries out. Its cache is where
ENGINEFORGE_CACHE said when the node was started."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from engineforge.cli import where, world
from engineforge.worker.node import Here, carry_out, visible_gpus
from engineforge.worker.order import Answer, Order
from engineforge.worker.outcome import Event


def serve(order: Order, tell: Callable[[Event], None]) -> Answer:
    """Carry an order out on this host."""
    return carry_out(order, here(), tell)


def here() -> Here:
    environment = dict(os.environ)
    return Here(
        name=socket.gethostname(),
        cache=Path(where.cache_of_node(environment)),
        environment=environment,
        memory=world.available_memory(),
        now=world.now,
        gpus=partial(visible_gpus, environment),
    )
