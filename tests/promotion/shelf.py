"""An environment in a folder, with its file and keys, whose ledger tests write as promotions do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from engineforge.digest import Digest, digest_bytes, document
from engineforge.promotion.artifact import Artifact, of_entry
from engineforge.promotion.attest.attestation import sign_attestation
from engineforge.promotion.attest.keys import PrivateKey, generate, read_private_key
from engineforge.promotion.attest.provenance import BUILDER, PROVENANCE, Provenance, Resource
from engineforge.promotion.attest.statement import of_engine
from engineforge.promotion.environment import Opened, open_environment
from engineforge.promotion.ledger import Action, Event, Listed, Verdict
from engineforge.promotion.oci.copying import push_artifact
from engineforge.promotion.oci.documents import Descriptor
from engineforge.promotion.policy import policy
from engineforge.promotion.pulling import Wanted
from engineforge.promotion.selecting import Host
from engineforge.promotion.state import State
from engineforge.spec.environments import read_environments
from engineforge.store.local import LocalStore
from engineforge.target import Toolchain
from tests.gpus import H200, host_gpu
from tests.promotion.engines import PLAN, engine_entry

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=timezone.utc)
HERE = Host(
    platform="linux-x86_64",
    gpus=[host_gpu()],
    toolchains=[Toolchain(backend="tensorrt", version="10.9.0.34", cuda="12")],
)
TARGET: Mapping[str, Any] = {"platform": "linux-x86_64", "gpu": document(H200)}
GATES = "freshness: {}, provenance: {signed_by: [ci]}"
PASSED = {"freshness": "it is what the specs ask for", "provenance": "'ci' says how"}


class Shelf:
    """The environment `staging` under `root`: `specs/environments.yaml` says where it is."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / "specs" / "environments.yaml"
        self.store = LocalStore(root / "cache")
        self.folder = root / "staging"
        (root / "specs" / "keys").mkdir(parents=True)
        self.keys: dict[str, PrivateKey] = {}
        for name in ("ci", "eve"):
            private, public = generate("ecdsa-p256")
            self.keys[name] = read_private_key(private, called=name, password=None)
            (root / "specs" / "keys" / f"{name}.pub").write_bytes(public)
        self.write()
        self.time = NOW - timedelta(days=10)

    def write(self, gates: str = GATES, *, not_after: date | None = None) -> None:
        """environments.yaml with these gates."""
        until = "" if not_after is None else f", not_after: '{not_after}'"
        self.file.write_text(
            f"staging:\n  store: ../staging\n  signers: {{ci: {{key: keys/ci.pub{until}}}, eve: "
            f"keys/eve.pub}}\n  promoters: [ci]\n  gates: {{{gates}}}\n"
        )

    def open(self, said: list[str] | None = None) -> Opened:
        environment = read_environments(self.file)["staging"]
        told = (lambda _: None) if said is None else said.append
        return open_environment(environment, root=self.file.parent, environ={}, said=told)

    def artifact(
        self,
        data: bytes,
        name: str = "fp16@h200",
        spec: str = "ocr",
        target: Mapping[str, Any] = TARGET,
    ) -> Artifact:
        variant, _, where = name.partition("@")
        entry = engine_entry(
            self.store, {"model.engine": data}, model=name.encode() + data, target=target
        )
        return of_entry(entry, plan=PLAN, spec=spec, variant=variant, target=where)

    def promote(
        self,
        *artifacts: Artifact,
        spec: str = "ocr",
        key: str = "ci",
        by: str = "ci",
        attested: bool = True,
        overridden: Mapping[str, str] | None = None,
        action: Action = "promote",
        previous: State | None = None,
    ) -> State:
        """Push engines with their provenance by the key `by`, and sign one more event."""
        opened = self.open()
        listed = []
        for artifact in artifacts:
            push_artifact(artifact, opened.repository)
            found = self._listed(opened, artifact.descriptor, artifact, overridden or {})
            listed.append(found)
            if attested and not opened.attestations(found):
                self.attest(opened, artifact.descriptor, found, by=by)
        described = {each.descriptor.digest: each.descriptor for each in artifacts}
        before = previous or opened.state(spec)
        return opened.advance(
            before, self.event(before, listed, spec, action), described, self.keys[key]
        )

    def event(
        self, before: State | None, engines: Sequence[Listed], spec: str, action: Action
    ) -> Event:
        self.time += timedelta(minutes=1)
        return Event(
            number=before.number + 1 if before else 1,
            previous=before.events[-1] if before else None,
            action=action,
            environment="staging",
            spec=spec,
            time=self.time,
            by="ci",
            reason="a test",
            source=None,
            engines=tuple(engines),
        )

    def _listed(
        self,
        opened: Opened,
        descriptor: Descriptor,
        artifact: Artifact,
        overridden: Mapping[str, str],
    ) -> Listed:
        engine = next(blob for blob, path in artifact.blobs if path.name == "model.engine")
        said = descriptor.annotations
        return Listed(
            variant=said["dev.engineforge.variant"],
            target=said["dev.engineforge.target"],
            manifest=descriptor.digest,
            engine=engine.digest,
            plan=PLAN,
            key=Digest(said["dev.engineforge.key"]),
            since=self.time,
            policy=policy(opened.environment),
            gates={
                name: Verdict(
                    passed=name not in overridden,
                    overridden=name in overridden,
                    why=overridden.get(name, PASSED.get(name, "passed")),
                )
                for name in opened.environment.gates
            },
        )

    def attest(
        self, opened: Opened, descriptor: Descriptor, listed: Listed, *, by: str = "ci"
    ) -> None:
        """Have somebody say how an engine was built."""
        said = Provenance(
            spec="ocr",
            variant=listed.variant,
            target=listed.target,
            internal={"key": str(listed.key)},
            dependencies=(Resource.of("model.onnx", digest_bytes(b"onnx")),),
            builder=BUILDER,
            versions={"engineforge": "0"},
            invocation="1",
            started=NOW - timedelta(days=12),
            finished=NOW - timedelta(days=11),
            byproducts=(),
        )
        statement = of_engine(
            PROVENANCE,
            said.to_predicate(),
            label=listed.name,
            manifest=listed.manifest,
            engine=listed.engine,
        )
        opened.attach(descriptor, sign_attestation(statement, self.keys[by]))

    def wanted(self, output: Path, **more: Any) -> Wanted:  # noqa: ANN401 - fields of Wanted
        return replace(Wanted(spec="ocr", output=output, host=HERE), **more)

    def blob(self, digest: Digest) -> Path:
        return self.folder / "blobs" / "sha256" / digest.hex
