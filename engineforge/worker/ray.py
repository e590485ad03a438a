"""A Ray cluster, as `dispatching` wants one: the only file that knows Ray. Orders and answers go
through it, and what is told on the way; engines and models do not."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engineforge.errors import HostUnfit, UsageError
from engineforge.worker.labels import Node
from engineforge.worker.order import Answer, Lost, Order, Refused
from engineforge.worker.outcome import Event, Failed

RUNNING = "ray"
"""In place of an address: the cluster that runs on this host."""

Serve = Callable[[Order, Callable[[Event], None]], Answer]
"""What a node does with an order; it must be importable there."""

_CLIENT = "ray://"
_CLIENT_PORT, _PORT = 10001, 6379
_CONNECT_SECONDS = 5.0
_NODE_ID = "ray.io/node-id"
_NO_SERVER = "Starting Ray client server failed"
_LOG_LINES = 20
_TELL_SECONDS = 5.0
_INSTALL = "python -m pip install 'engineforge[ray]'"


def is_address(on: str) -> bool:
    """Whether this can stand for a cluster."""
    try:
        found = urlsplit(on if on.startswith(_CLIENT) else f"//{on}")
        return on == RUNNING or bool(found.hostname and (found.port or on.startswith(_CLIENT)))
    except ValueError:  # no port
        return False


class RayCluster:
    """A context manager, to be opened in the main thread. `on` is RUNNING, ray://HOST:PORT from
    anywhere, or HOST:PORT from a node. `environment` is that of this process, as Ray sees it."""

    def __init__(self, on: str, serve: Serve, environment: Mapping[str, str]) -> None:
        if not is_address(on):
            raise UsageError(
                f"'{on}' is no cluster",
                hint=f"expected '{RUNNING}', for the one that runs here, or "
                f"{_CLIENT}HOST:{_CLIENT_PORT}",
            )
        self._on, self._serve, self._environment = on, serve, environment
        self._mail: Any = None
        self._exit = contextlib.ExitStack()

    @property
    def where(self) -> str:
        return "the Ray cluster" if self._on == RUNNING else f"the Ray cluster at '{self._on}'"

    def __enter__(self) -> RayCluster:
        try:
            import ray
        except ImportError as error:
            message = f"'--on {self._on}' needs Ray, which is not installed here: {error}"
            raise HostUnfit(message, hint=_INSTALL) from error
        self._must_listen()
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        given = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
        address = "auto" if self._on == RUNNING else self._on
        with contextlib.ExitStack() as until_open:
            # It says at length, and on stdout, what is said here in a word.
            nowhere = until_open.enter_context(Path(os.devnull).open("w"))
            until_open.enter_context(contextlib.redirect_stdout(nowhere))
            try:
                ray.init(address, configure_logging=False, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError, ImportError) as error:
                raise self._unusable(error) from error
            finally:
                if threading.current_thread() is threading.main_thread():
                    for each, handler in given.items():
                        signal.signal(each, handler)  # it puts its own in their place
            # Only now: whoever is refused a cluster has its stdout back.
            self._exit = until_open.pop_all()
        self._ray: Any = ray  # its types are of some use to its functions, and none to its actors
        self._run = self._ray.remote(max_calls=1, max_retries=0)(_carry_out)
        return self

    def __exit__(self, *error: object) -> None:
        self._ray.shutdown()
        self._exit.close()

    def _must_listen(self) -> None:
        """HostUnfit at once where nobody does: Ray itself tries for minutes."""
        address = self._on
        if address == RUNNING:
            with contextlib.suppress(OSError):
                address = _current(self._environment).read_text().strip()
        if address == RUNNING:
            return  # Ray knows at once that none runs
        client = address.startswith(_CLIENT)
        found = urlsplit(address if client else f"//{address}")
        port = found.port or (_CLIENT_PORT if client else _PORT)
        try:
            socket.create_connection((str(found.hostname), port), _CONNECT_SECONDS).close()
        except (OSError, UnicodeError) as error:  # UnicodeError: it can be no name of a host
            said = error.strerror if isinstance(error, OSError) else None
            raise HostUnfit(
                f"no Ray cluster listens at '{address}': {said or error}",
                hint=f"`ray start --head --ray-client-server-port {port}` does, on its head node"
                if client
                else "`ray start --head` starts one here; RAY_ADDRESS, or --on "
                f"{_CLIENT}HOST:{_CLIENT_PORT}, names another",
            ) from error

    def _unusable(self, error: Exception) -> HostUnfit:
        if self._on == RUNNING and isinstance(error, ConnectionError):
            return HostUnfit(
                "no Ray cluster runs on this host",
                hint="`ray start --head` starts one; RAY_ADDRESS, or --on "
                f"{_CLIENT}HOST:{_CLIENT_PORT}, names another",
            )
        lines = [each.strip() for each in str(error).splitlines() if each.strip()]
        said = ": ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or type(error).__name__
        if _NO_SERVER in str(error):
            return HostUnfit(
                f"{self.where} could not start its server for this client",
                hint="try once more; with GRPC_ENABLE_FORK_SUPPORT=0 in its head's environment, "
                "that is far rarer",
            )
        return HostUnfit(
            f"{self.where} cannot be used: {said}",
            hint="this host and all nodes need the same versions of Python and Ray; "
            f"{_INSTALL} what a client needs",
        )

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """HostUnfit where the cluster is there no more; Ray's client says ValueError of a channel
        that is closed."""
        try:
            yield
        except (ConnectionError, ValueError) as error:
            raise HostUnfit(
                f"{self.where} cannot be reached any more: {_first_sentence(error)}",
                hint="the same command goes on from here, when it can",
            ) from error

    def nodes(self) -> Sequence[Node]:
        with self._reaching():
            found = self._ray.nodes()
        return [
            Node(
                id=each["NodeID"],
                name=each.get("NodeName") or each["NodeManagerAddress"],
                labels=each["Labels"],
                cpus=int(each["Resources"].get("CPU", 0)),
                gpus=int(each["Resources"].get("GPU", 0)),
            )
            for each in found
            if each["Alive"]
        ]

    def start(self, order: Order, *, besides: Sequence[str]) -> object:
        selector = {name: _one_of(values) for name, values in order.need.labels.items()}
        if besides:
            selector[_NODE_ID] = f"!in({','.join(besides)})"
        placed = self._run.options(
            name=f"engineforge {order.label}",
            num_cpus=1,
            num_gpus=1 if order.need.gpu else 0,  # never a part of one: tactics are timed on it
            label_selector=selector,
        )
        with self._reaching():
            if self._mail is None:  # not before: it is a process
                here = self._ray.get_runtime_context().get_node_id()
                mailbox = self._ray.remote(num_cpus=0, max_restarts=-1)(_Mailbox)
                self._mail = mailbox.options(label_selector={_NODE_ID: here}).remote()
            return placed.remote(self._serve, order, self._mail)

    def events(self) -> Sequence[Event]:
        if self._mail is None:
            return ()
        # What is told of how it goes may be lost; what is built is not.
        with self._reaching(), contextlib.suppress(self._ray.exceptions.RayError):
            found: Sequence[Event] = self._ray.get(self._mail.take.remote(), timeout=5)
            return found
        return ()

    def ended(self, tickets: Sequence[object], seconds: float) -> Mapping[object, Answer | Lost]:
        refs = list(tickets)
        with self._reaching():
            done, _ = self._ray.wait(
                refs, num_returns=len(refs), timeout=seconds, fetch_local=False
            )
            return {each: self._answer(each) for each in done}

    def _answer(self, ref: Any) -> Answer | Lost:  # noqa: ANN401 - Ray's, or that of its client
        errors = self._ray.exceptions
        try:
            node, answer = self._ray.get(ref)
        except errors.TaskCancelledError:
            return Lost("it was cancelled")
        except errors.RayTaskError as error:
            if isinstance(error.cause, errors.TaskCancelledError | KeyboardInterrupt):
                return Lost("it was cancelled")
            lines = str(error).strip().splitlines()
            said = f"the node could not carry it out: {lines[-1] if lines else error!r}"
            return Failed(stage="engine", error=said, log=tuple(lines[-_LOG_LINES:]))
        except errors.RayError as error:
            return Lost(f"its node was lost ({_first_sentence(error)})")
        return replace(answer, node=node) if isinstance(answer, Refused) else answer

    def cancel(self, ticket: object, *, force: bool) -> None:
        with self._reaching():
            self._ray.cancel(ticket, force=force)


class _Mailbox:
    """Takes what nodes tell, until it is asked for it."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def tell(self, event: Event) -> None:
        self._events.append(event)

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events


def _carry_out(serve: Serve, order: Order, mail: Any) -> tuple[str, Answer]:  # noqa: ANN401
    """Runs on a node, in a process of its own."""
    import ray

    told: list[Any] = []

    def tell(event: Event) -> None:
        told[:] = [mail.tell.remote(event)]

    answer = serve(order, tell)
    if told:  # this process ends with its answer, which is not to come before what it has told
        ray.wait(told, timeout=_TELL_SECONDS)
    return ray.get_runtime_context().get_node_id(), answer


def _current(environment: Mapping[str, str]) -> Path:
    """Where Ray says which cluster runs on this host: `address` in
    https://docs.ray.io/en/latest/ray-core/api/doc/ray.init.html."""
    folder = environment.get("RAY_TMPDIR", environment.get("TMPDIR", "/tmp"))  # noqa: S108
    return Path(folder, "ray", "ray_current_cluster")


def _one_of(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"in({','.join(values)})"


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).partition(". ")[0].rstrip(".")
