"""Debian's docker-registry as a process of its own, in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from engineforge.digest import Digest
from engineforge.promotion.oci.registry import Registry
from tests.store.remote_servers import free_port

USER, PASSWORD = "alice", "correct horse"
# bcrypt, the only kind that it takes, at the least cost.
_HTPASSWD = "alice:$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e\n"
_START_SECONDS = 30


@dataclass(frozen=True)
class RunningRegistry:
    """`host` with its port; no request is written to any other place than `folder`."""

    host: str
    folder: Path

    def url(self, name: str) -> str:
        return f"oci://{self.host}/{name}"

    def open(
        self,
        name: str,
        environment: Mapping[str, str] | None = None,
        *,
        said: Callable[[str], None] = lambda _: None,
        wait: Callable[[float], None] = time.sleep,
    ) -> Registry:
        return Registry.open(self.url(name), environment=environment or {}, said=said, wait=wait)

    def blob_file(self, digest: Digest) -> Path:
        """Where it keeps the bytes of a blob or manifest."""
        blobs = self.folder / "docker" / "registry" / "v2" / "blobs" / "sha256"
        return blobs / digest.hex[:2] / digest.hex / "data"


@contextlib.contextmanager
def docker_registry(
    folder: Path, *, htpasswd: bool = False, token: Mapping[str, str] | None = None
) -> Iterator[RunningRegistry]:
    """Running, in an empty folder. `htpasswd` lets in USER with PASSWORD only; `token` is what its
    configuration says of a token server: realm, service, issuer, rootcertbundle."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("apt-get install docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "data")},
            "delete": {"enabled": True},
        },
        "http": {"addr": host, "secret": "of the tests"},
    }
    if htpasswd:
        (folder / "htpasswd").write_text(_HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    if token is not None:
        config["auth"] = {"token": dict(token)}
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")],
            env={**os.environ, "GOGC": "400"},  # a quarter of its time is the collection of garbage
            stdout=log,
            stderr=log,
        )
        try:
            _wait_for(host, process)
            yield RunningRegistry(host, folder / "data")
        finally:
            process.kill()
            process.wait()


def _wait_for(host: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            urlopen(f"http://{host}/v2/", timeout=5).close()
            return
        except HTTPError as error:
            error.close()
            return
        except OSError:
            assert process.poll() is None, "docker-registry ended"
            assert time.monotonic() < end, "docker-registry does not start"
            time.sleep(0.02)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """One for all tests: each takes a repository of its own name."""
    pytest.importorskip("urllib3", reason="python -m pip install 'engineforge[promotion]'")
    with docker_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found
