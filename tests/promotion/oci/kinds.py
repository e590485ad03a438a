"""Repositories of every kind, to try the same on all of them."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from engineforge.promotion.oci.opening import open_repository
from engineforge.promotion.oci.repository import Repository
from tests.store.remote_servers import environment, s3_server

COMPARING = ("folder", "s3")
"""Where a change is made only if nobody else made one. Registries have nothing of that kind."""
KINDS = (*COMPARING, "registry")


@dataclass(frozen=True)
class Kind:
    """Where repositories can be while its server runs."""

    store: Callable[[], str]
    """The URL or path of one that is not there yet; all are in one registry or bucket."""
    environment: Mapping[str, str]

    def open(self, store: str) -> Repository:
        return open_repository(store, root=Path("/"), environment=self.environment)

    def new(self) -> Repository:
        return self.open(self.store())


@contextlib.contextmanager
def running(kind: str, folder: Path) -> Iterator[Kind]:
    """Skips where such repositories cannot be."""
    match kind:
        case "folder":
            yield Kind(lambda: str(folder / secrets.token_hex(6)), {})
        case "s3":
            pytest.importorskip("obstore", reason="python -m pip install 'engineforge[remote]'")
            pytest.importorskip("moto", reason="python -m pip install 'engineforge[test]'")
            with s3_server() as server:
                bucket = server.bucket("environments")
                yield Kind(lambda: f"{bucket}/{secrets.token_hex(6)}", environment(server.url))
        case _:
            pytest.importorskip("urllib3", reason="python -m pip install 'engineforge[promotion]'")
            from tests.promotion.oci.registries import docker_registry

            with docker_registry(folder) as registry:
                yield Kind(lambda: registry.url(secrets.token_hex(6)), {})
