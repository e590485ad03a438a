"""A project whose engines were built and promoted, `dev` → `staging`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from engineforge.digest import Digest
from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.project.promotion import Environments, Offers, Promoter
from engineforge.promotion.attest.keys import PrivateKey, generate, read_private_key
from engineforge.promotion.environment import Opened
from engineforge.promotion.oci.documents import (
    Descriptor,
)
from engineforge.promotion.oci.layout import Layout
from engineforge.promotion.oci.repository import Chunks
from engineforge.promotion.promoting import Judged, Who, judge
from engineforge.promotion.pulling import Pulled, Wanted, pull
from engineforge.promotion.selecting import Host
from engineforge.promotion.state import State
from engineforge.store.far.folder import Folder
from engineforge.target import Toolchain
from tests.conftest import SPEC, TARGETS, Forge, Result
from tests.gpus import L4, host_gpu
from tests.models import convnet
from tests.promotion.attacker import Attacker

NOW = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
"""After everything that the clock of this machine signs."""

ENVIRONMENTS = """\
dev:
  store: ../envs/dev
  signers: {ci: keys/ci.pub}
  gates: {freshness: {}, provenance: {}}
staging:
  store: ../envs/staging
  from: dev
  signers: {ci: keys/ci.pub, alice: keys/alice.pub}
  promoters: [ci]
  gates:
    provenance: {signed_by: [ci]}
    approval: {by: [alice]}
    freshness: {}
production:
  store: ../envs/production
  from: staging
  signers: {ci: keys/ci.pub, alice: keys/alice.pub}
  promoters: [ci]
  gates: {provenance: {signed_by: [ci]}, freshness: {}}
"""

HERE = Host(
    platform="linux-x86_64",
    gpus=[host_gpu(L4)],
    toolchains=[Toolchain(backend="tensorrt_rtx", version="1.7.1.116", cuda="13")],
)
"""A host for which the target `ada` is."""


def make_project(root: Path) -> None:
    """Two specs: `net` for two targets, and `other`; built, in `dev`, approved and in `staging`."""
    keys = root / "specs" / "keys"
    keys.mkdir(parents=True)
    for name in ("ci", "alice", "mallory"):
        private, public = generate("ecdsa-p256")
        handle = os.open(keys / f"{name}.key", os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(private)
        (keys / f"{name}.pub").write_bytes(public)
    for name, text in {
        "targets": TARGETS,
        "environments": ENVIRONMENTS,
        "net": SPEC.replace("targets: [ada]", "targets: [ada, ampere]"),
        "other": SPEC.replace("models/net.onnx", "models/other.onnx"),
    }.items():
        (root / "specs" / f"{name}.yaml").write_text(text)
    models = root / "specs" / "models"
    for folder in (models, root / "envs"):
        folder.mkdir()
    convnet(models / "other.onnx", seed=1)
    convnet(models / "net.onnx")
    to_staging(root)


def make_another(root: Path) -> None:
    """In such a project, `net` once more with other weights: number 2 in both environments."""
    convnet(root / "specs" / "models" / "net.onnx", seed=7)
    to_staging(root)


def to_staging(root: Path) -> None:
    key, alice = "specs/keys/ci.key", "specs/keys/alice.key"
    for words in (
        ("build", "specs"),
        ("promote", "specs", "--to", "dev", "--key", key),
        ("attest", "approve", "specs", "--to", "staging", "--key", alice),
        ("promote", "specs", "--to", "staging", "--key", key),
    ):
        command = [sys.executable, "-m", "engineforge", *words]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


class World(Forge):
    """That project, copied for one test."""

    def key(self, name: str) -> PrivateKey:
        data = (self.specs / "keys" / f"{name}.key").read_bytes()
        return read_private_key(data, called=name, password=None)

    def open(self, name: str = "staging", said: Callable[[str], None] = lambda _: None) -> Opened:
        return Environments(self.specs / "environments.yaml", {}, said).open(name)

    def state(self, name: str = "staging", spec: str = "net") -> State:
        state = self.open(name).state(spec)
        assert state is not None
        return state

    @property
    def output(self) -> Path:
        return self.root / "model.engine"

    def fetch(self, what: str = "staging/net", **more: Any) -> Pulled:  # noqa: ANN401 - of Wanted
        """Pulled by a host for which `ada` is, or for a target that is named."""
        name, _, spec = what.partition("/")
        host = None if "target" in more else HERE
        return pull(
            self.open(name), Wanted(spec=spec, output=self.output, host=host, **more), now=NOW
        )

    def pull(self, what: str = "staging/net", *more: str) -> Result:
        """The command, for the target `ada`."""
        return self.run("pull", what, "-o", self.output, "--target", "ada", *more)

    def promote(self, to: str = "staging", *more: str, spec: str = "net") -> Result:
        key = self.specs / "keys" / "ci.key"
        return self.run("promote", f"specs/{spec}.yaml", "--to", to, "--key", key, *more)

    def approve(self, to: str = "staging", *, spec: str = "net", by: str = "alice") -> Result:
        key = self.specs / "keys" / f"{by}.key"
        return self.run("attest", "approve", f"specs/{spec}.yaml", "--to", to, "--key", key)

    def verify(self, what: str = "staging/net") -> Result:
        return self.run("attest", "verify", what)

    def rollback(self, name: str = "staging", *more: str, spec: str = "net") -> Result:
        key = self.specs / "keys" / "ci.key"
        return self.run("rollback", spec, "--in", name, "--key", key, *more)

    def expires(self, name: str, signer: str, day: str) -> None:
        """Have the key of a signer count until a day, where the environment `name` is concerned."""
        file, key = self.specs / "environments.yaml", f"keys/{signer}.pub"
        before, found, after = file.read_text().partition(f"{name}:\n")
        until = f"{signer}: {{key: {key}, not_after: '{day}'}}"
        changed = after.replace(f"{signer}: {key}", until, 1)
        assert changed != after
        file.write_text(before + found + changed)

    def watched(self, before: Callable[[str, str], object], name: str = "staging") -> Opened:
        """An environment by way of a `Watched` layout."""
        opened = self.open(name)
        return Opened(opened.environment, Watched(self.root / "envs" / name, before), opened.keys)

    def offers(self, to: str = "production") -> Offers:
        """What of `net` may be promoted there."""
        known = Environments(self.specs / "environments.yaml", {}, lambda _: None)
        with Project(self.specs, self.cache, {}) as project:
            promoter = Promoter(
                project,
                [self.specs / "net.yaml"],
                Selection(),
                environments=known,
                key=self.key("ci"),
            )
            return promoter.offers("net", known.open(to).environment)

    def judge(self, destination: Opened, offers: Offers | None = None) -> Judged:
        """What the gates of an environment say of it now."""
        found = offers or self.offers(destination.environment.name)
        return judge(destination, "net", found.offered, keeps=found.keeps, overridden=(), now=NOW)

    def who(self, key: str = "ci", reason: str = "") -> Who:
        return Who(key=self.key(key), by=key, reason=reason, now=NOW)

    def attacker(self, name: str = "staging") -> Attacker:
        return Attacker(self.root / "envs" / name)


class Watched(Layout):
    """The layout of an environment; `before` is told each call that changes it, or asks what a tag
    stands for, and may raise."""

    def __init__(self, folder: Path, before: Callable[[str, str], object]) -> None:
        super().__init__(Folder(folder))
        self._before = before

    def resolve(self, tag: str) -> Digest | None:
        self._before("resolve", tag)
        return super().resolve(tag)

    def push(self, blob: Descriptor, chunks: Chunks) -> None:
        self._before("push", blob.digest)
        super().push(blob, chunks)

    def put_manifest(self, data: bytes) -> Digest:
        self._before("put_manifest", "")
        return super().put_manifest(data)

    def move(self, tag: str, to: Digest, expected: Digest | None) -> bool:
        self._before("move", tag)
        return super().move(tag, to, expected)

    def tag(self, tag: str, to: Digest) -> None:
        self._before("tag", tag)
        super().tag(tag, to)
