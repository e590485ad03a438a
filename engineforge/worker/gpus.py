"""One build at a time on each GPU, whoever runs it: timing tactics must not share a GPU."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from engineforge.backends.gpu import HostGpu
from engineforge.digest import document
from engineforge.store.local import Session


@dataclass(slots=True)
class Lease:
    """A GPU that no other build uses from `since` until the lease ends."""

    gpu: HostGpu
    since: datetime

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """The same for a child that is to see this GPU and no other, and loads a kernel when it
        is first used: TensorRT has thousands, and before CUDA 12.2 all were loaded at once."""
        return {**given, "CUDA_VISIBLE_DEVICES": self.gpu.uuid, "CUDA_MODULE_LOADING": "LAZY"}

    def record(self, until: datetime) -> dict[str, object]:
        """What a manifest says of it, so that no two can be shown to overlap unseen."""
        return {
            "uuid": self.gpu.uuid,
            "driver": self.gpu.driver,
            **document(self.gpu.gpu),
            "leased": [each.isoformat() for each in (self.since, until)],
        }


class Gpus:
    """The leases of one run; the locks are in the cache, so they hold for all that share it."""

    def __init__(self, session: Session, now: Callable[[], datetime]) -> None:
        self._session, self._now = session, now

    @contextlib.contextmanager
    def lease(
        self, candidates: Sequence[HostGpu], waiting: Callable[[str], None]
    ) -> Iterator[Lease]:
        """Any one of these, when it is free; `waiting` is told who holds the first of them, again
        and again, and what it raises ends the wait."""
        since = self._now().isoformat(timespec="seconds")
        holder = f"PID {os.getpid()} on {socket.gethostname()} since {since}"
        names = [each.uuid for each in candidates]
        with self._session.leasing(names, holder, waiting) as index:
            yield Lease(candidates[index], self._now())
