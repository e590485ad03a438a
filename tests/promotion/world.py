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
from engineforge.project.plans import Selection
from engineforge.project.project import Project
from engineforge.project.promotion import Environments, Offers, Promoter
from engineforge.promotion.attest.attestation import sign_attestation
from engineforge.promotion.attest.bundle import MEDIA_TYPE as BUNDLE
from engineforge.promotion.attest.keys import PrivateKey, generate, read_private_key
from engineforge.promotion.attest.statement import Statement
from engineforge.promotion.environment import Opened
from engineforge.promotion.ledger import Event, statement_of
from engineforge.promotion.oci.documents import (
    EMPTY_BYTES,
    EMPTY_CONFIG,
    INDEX,
    MANIFEST,
    REF_NAME,
    Descriptor,
    ImageIndex,
    ImageManifest,
)
from engineforge.promotion.oci.layout import Layout
from engineforge.promotion.oci.repository import Chunks
from engineforge.promotion.promoting import Judged, Who, judge
from engineforge.promotion.pulling import Pulled, Wanted, pull
from engineforge.promotion.selecting import Host
from engineforge.promotion.state import LEDGER, STATE, State
from engineforge.store.far.folder import Folder
from engineforge.target import Gpu, Toolchain
from tests.conftest import SPEC, TARGETS, Forge, Result
from tests.models import convnet

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
                now=NOW,
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
            about = {"annotations": {REF_NAME: tag}}
            raw["manifests"].append({"mediaType": INDEX, "digest": to, "size": size, **about})
        (self.folder / "index.json").write_text(json.dumps(raw))

    def _index(self) -> dict[str, Any]:
        if not (self.folder / "index.json").exists():
            return {"schemaVersion": 2, "manifests": []}
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
    ) -> Digest:
        """Have the tag of a spec, and that of its number, stand for these engines and this
        ledger."""
        self.put(EMPTY_BYTES)
        layers = tuple(ledger)
        written = ImageManifest(artifact_type=LEDGER, config=EMPTY_CONFIG, layers=layers).to_bytes()
        listed = self.put(written, MANIFEST, artifact_type=LEDGER)
        again = [replace(listed, annotations={"copy": str(i)}) for i in range(1, ledgers)]
        index = ImageIndex(
            artifact_type=STATE,
            manifests=(*engines, *([listed] if ledgers else []), *again),
            annotations={"dev.engineforge.spec": spec},
        )
        digest = self.put(index.to_bytes()).digest
        self.point(spec, digest)
        self.point(f"{spec}--{len(layers)}", digest)
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
