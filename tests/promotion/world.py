"""A project whose engines were built and promoted, `dev` → `staging`, and somebody who may write
whatever they like into its environments, and has no key that counts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from engineforge.backends.gpu import HostGpu
from engineforge.digest import Digest
from engineforge.project.promotion import Environments
from engineforge.promotion.attest.attestation import sign_attestation
from engineforge.promotion.attest.bundle import MEDIA_TYPE as BUNDLE
from engineforge.promotion.attest.keys import PrivateKey, generate, read_private_key
from engineforge.promotion.attest.statement import Statement
from engineforge.promotion.environment import Opened
from engineforge.promotion.ledger import Event, statement_of
from engineforge.promotion.oci.documents import (
    EMPTY_BYTES,
    EMPTY_CONFIG,
    MANIFEST,
    REF_NAME,
    Descriptor,
    ImageIndex,
    ImageManifest,
)
from engineforge.promotion.pulling import Pulled, Wanted, pull
from engineforge.promotion.selecting import Host
from engineforge.promotion.state import LEDGER, STATE, State
from engineforge.target import Gpu, Toolchain
from tests.conftest import SPEC, TARGETS, Forge, Result
from tests.models import convnet

NOW = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)
"""After everything that the clock of this machine signs."""

ANOTHER = 7
"""The seed of the other weights that `net` may have."""

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

ADA = Gpu(
    name="NVIDIA L4",
    compute_capability="8.9",
    sm_count=58,
    memory=24 << 30,
    memory_bus_width=192,
    l2_cache=48 << 20,
    shared_memory_per_block=99 << 10,
    shared_memory_per_sm=100 << 10,
    ecc=True,
    mig_profile=None,
)
HERE = Host(
    platform="linux-x86_64",
    gpus=[HostGpu(index=0, uuid="GPU-0", gpu=ADA, driver="580.95.05", cuda="13.0")],
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
    for folder in ("specs/models", "envs"):
        (root / folder).mkdir()
    models = root / "specs" / "models"
    convnet(models / "other.onnx", seed=1)
    convnet(models / "net.onnx", seed=ANOTHER)
    _run(root, "build", "specs")  # for `another`, from the cache
    convnet(models / "net.onnx")
    key, alice = "specs/keys/ci.key", "specs/keys/alice.key"
    for words in (
        ("build", "specs"),
        ("promote", "specs", "--to", "dev", "--key", key),
        ("attest", "approve", "specs", "--to", "staging", "--key", alice),
        ("promote", "specs", "--to", "staging", "--key", key),
    ):
        _run(root, *words)


def _run(root: Path, *words: str) -> None:
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

    def another(self, *, staging: bool = True) -> None:
        """`net` with other weights: built, in `dev`, and in `staging`."""
        convnet(self.model, seed=ANOTHER)
        assert self.build().code == 0
        assert self.promote("dev").code == 0
        if staging:
            assert self.approve().code == 0
            assert self.promote("staging").code == 0

    def attacker(self, name: str = "staging") -> Attacker:
        return Attacker(self.root / "envs" / name)


class Attacker:
    """Writes past everything that would check it: into the folder of an environment itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def blob(self, digest: str) -> Path:
        return self.folder / "blobs" / "sha256" / digest.partition(":")[2]

    def json(self, digest: Digest) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.blob(digest).read_bytes())
        return found

    def put(self, data: bytes, media_type: str = BUNDLE, **more: Any) -> Descriptor:  # noqa: ANN401
        made = Descriptor.of(data, media_type, **more)
        self.blob(made.digest).write_bytes(data)
        return made

    def put_json(self, raw: Mapping[str, Any], media_type: str = MANIFEST) -> Descriptor:
        return self.put(json.dumps(raw).encode(), media_type)

    def flip(self, digest: Digest, at: int = -1) -> None:
        """One bit of a blob."""
        data = bytearray(self.blob(digest).read_bytes())
        data[at] ^= 1
        self.blob(digest).write_bytes(data)

    def cut(self, digest: Digest) -> None:
        self.blob(digest).write_bytes(self.blob(digest).read_bytes()[:-1])

    def lose(self, digest: Digest) -> None:
        self.blob(digest).unlink()

    def tags(self) -> dict[str, Digest]:
        return {
            each["annotations"][REF_NAME]: Digest(each["digest"])
            for each in self._index()["manifests"]
        }

    def point(self, tag: str, to: Digest | None) -> None:
        """Have a tag stand for something, or for nothing."""
        raw = self._index()
        raw["manifests"] = [e for e in raw["manifests"] if e["annotations"][REF_NAME] != tag]
        if to is not None:
            size = self.blob(to).stat().st_size
            kind = json.loads(self.blob(to).read_bytes())["mediaType"]
            about = {"annotations": {REF_NAME: tag}}
            raw["manifests"].append({"mediaType": kind, "digest": to, "size": size, **about})
        (self.folder / "index.json").write_text(json.dumps(raw))

    def _index(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "index.json").read_bytes())
        return found

    def referrers(self, subject: Digest) -> list[Descriptor]:
        tag = self.tags().get(f"sha256-{subject.hex}")
        return [] if tag is None else list(self.index(tag).manifests)

    def refer(self, subject: Digest, to: Iterable[Descriptor]) -> None:
        """Have just these refer to a manifest, as the list of them has it."""
        made = self.put(ImageIndex(manifests=tuple(to)).to_bytes())
        self.point(f"sha256-{subject.hex}", made.digest)

    def attach(self, subject: Digest, bundle: bytes) -> Descriptor:
        """An attestation, attached to a manifest beside those that are."""
        self.put(EMPTY_BYTES)
        made = ImageManifest(
            artifact_type=BUNDLE,
            config=EMPTY_CONFIG,
            layers=(self.put(bundle),),
            subject=Descriptor(
                media_type=MANIFEST, digest=subject, size=self.blob(subject).stat().st_size
            ),
        )
        added = self.put(made.to_bytes(), MANIFEST, artifact_type=BUNDLE)
        self.refer(subject, [*self.referrers(subject), added])
        return added

    def index(self, digest: Digest) -> ImageIndex:
        return ImageIndex.from_bytes(self.blob(digest).read_bytes())

    def manifest(self, digest: Digest) -> ImageManifest:
        return ImageManifest.from_bytes(self.blob(digest).read_bytes())

    def take_from(self, other: Attacker) -> None:
        """Have all blobs that another environment has."""
        shutil.copytree(other.folder / "blobs", self.folder / "blobs", dirs_exist_ok=True)

    def show(
        self,
        spec: str,
        ledger: Iterable[Descriptor],
        engines: Iterable[Descriptor],
        *,
        ledgers: int = 1,
        tag: str | None = None,
    ) -> Digest:
        """Have the tag of a spec stand for these engines and this ledger."""
        self.put(EMPTY_BYTES)
        written = ImageManifest(
            artifact_type=LEDGER, config=EMPTY_CONFIG, layers=tuple(ledger)
        ).to_bytes()
        listed = self.put(written, MANIFEST, artifact_type=LEDGER)
        again = [replace(listed, annotations={"copy": str(i)}) for i in range(1, ledgers)]
        index = ImageIndex(
            artifact_type=STATE,
            manifests=(*engines, *([listed] if ledgers else []), *again),
            annotations={"dev.engineforge.spec": spec},
        )
        digest = self.put(index.to_bytes()).digest
        self.point(tag or spec, digest)
        return digest

    def add(self, state: State, key: PrivateKey, **changes: Any) -> Digest:  # noqa: ANN401
        """One more event, like the last one but for these changes, signed by a key."""
        event = next_of(state, **changes)
        line = self.put(signed(statement_of(event), key))
        engines = [state.described[each.manifest] for each in event.engines]
        return self.show(state.spec, [*state.ledger.layers, line], engines)


def next_of(state: State, **changes: Any) -> Event:  # noqa: ANN401 - fields of an event
    after = {
        "number": state.number + 1,
        "previous": state.events[-1],
        "time": state.event.time + timedelta(seconds=1),
    }
    return replace(state.event, **{**after, **changes})


def signed(statement: Statement, key: PrivateKey) -> bytes:
    return sign_attestation(statement, key)


def engine_of(state: State, target: str = "ada") -> Digest:
    found = state.engine("fp32", target)
    assert found is not None
    return found.manifest


def nothing_pulled(world: World) -> bool:
    """Neither an engine nor a part of one lies where one was to be."""
    return not [each for each in world.root.iterdir() if each.name.startswith("model.engine")]
