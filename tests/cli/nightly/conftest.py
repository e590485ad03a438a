"""Projects for nights: real models, real keys and a folder that is an environment."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.cli.nightly.nights import ENVIRONMENTS, Kept, Posts, spec
from tests.conftest import Forge
from tests.models import convnet


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("once")


@pytest.fixture
def project(forge: Forge, once: Path, monkeypatch: pytest.MonkeyPatch) -> Forge:
    """A spec that was built and is stale, one that fails its accuracy check, one that is broken,
    one that is fine, and an environment for them."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "ENGINEFORGE_WEBHOOK"):
        monkeypatch.delenv(name, raising=False)
    if (once / "specs").exists():
        shutil.rmtree(forge.root / "specs")
        shutil.copytree(once, forge.root, dirs_exist_ok=True)
        return forge
    (forge.specs / "net.yaml").unlink()
    forge.model.unlink()
    random = np.random.default_rng(3)
    images = random.standard_normal((8, 3, 16, 16), dtype=np.float32)
    np.savez(forge.specs / "seen.npz", image=images)
    for seed, name in enumerate(("fine", "stale", "failing")):
        convnet(forge.specs / "models" / f"{name}.onnx", seed=seed)
    (forge.specs / "models" / "broken.onnx").write_bytes(b"no model")
    forge.spec("fine", spec("fine", accuracy="0.1"))
    forge.spec("failing", spec("failing", accuracy="1.0e-9"))
    forge.spec("stale", spec("stale"))
    forge.spec("environments", ENVIRONMENTS)
    (forge.specs / "keys").mkdir()
    (forge.root / "envs").mkdir()
    assert forge.run("attest", "key", "specs/keys/ci").code == 0
    assert forge.build().code == 0
    forge.edit("stale", "max: [8,", "max: [9,")
    forge.spec("broken", spec("broken"))
    # It is copied, and what it was copied from needs nothing of it.
    shutil.rmtree(forge.cache / "projects")
    shutil.copytree(forge.root, once, dirs_exist_ok=True)
    return forge


@pytest.fixture
def sound(project: Forge) -> Forge:
    """The same without what fails."""
    for name in ("broken", "failing"):
        (project.specs / f"{name}.yaml").unlink()
    return project


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def posts() -> Iterator[Posts]:
    """What a webhook is told."""
    got = Posts()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        got.url = f"http://127.0.0.1:{server.server_port}/s3cr3t"
        yield got
        server.shutdown()
        thread.join()
