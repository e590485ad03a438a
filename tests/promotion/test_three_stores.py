"""Engines on their way through three kinds of store, as people send them there: `dev` and `canary`
in a registry, `staging` in a folder, `production` in a bucket."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engineforge.digest import digest_file, document
from tests.conftest import TARGETS
from tests.gpus import L4
from tests.models import convnet
from tests.promotion.oci.cutting_proxy import CuttingProxy, cutting_proxy
from tests.store.remote_servers import environment, s3_server

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")
pytest.importorskip("urllib3", reason="python -m pip install 'engineforge[promotion]'")
pytest.importorskip("obstore", reason="python -m pip install 'engineforge[remote]'")
pytest.importorskip("moto", reason="python -m pip install 'engineforge[test]'")
pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")

from engineforge.project.promotion import Environments
from engineforge.promotion.attest.attestation import sign_attestation
from engineforge.promotion.attest.keys import read_private_key
from engineforge.promotion.attest.results import TEST_RESULT, Latency, LoadTest, OnGpu
from engineforge.promotion.attest.statement import of_engine
from tests.promotion.oci.registries import docker_registry

pytestmark = pytest.mark.slow

SPEC = """\
model:
  source: {path: models/net.onnx}
inputs:
  image: {min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}
targets: [ada, ampere]
checks:
  accuracy: {data: holdout.npz, max_relative_error: 0.1}
variants:
  fp32: {precision: fp32}
"""
ENVIRONMENTS = """\
dev:
  store: oci://HOST/engines/dev
  signers: {ci: keys/ci.pub}
  gates: {freshness: {}, provenance: {}, accuracy: {of: model}}
canary:
  store: oci://HOST/engines/canary
  from: dev
  signers: {ci: keys/ci.pub}
  gates: {freshness: {}, provenance: {signed_by: [ci]}}
staging:
  store: ../staging
  from: dev
  signers:
    ci: keys/ci.pub
    alice: {key: keys/alice.pub, not_after: '2099-06-30'}
    bench: keys/bench.pub
  promoters: [ci]
  gates:
    freshness: {}
    provenance: {signed_by: [ci]}
    accuracy: {of: model, signed_by: [ci]}
    approval: {by: [alice]}
    latency: {max_p99_ms: 5, max_slower_percent: 5, signed_by: [bench]}
    load_test: {signed_by: [bench]}
production:
  store: BUCKET/production
  from: staging
  signers: {ci: keys/ci.pub, alice: keys/alice.pub}
  promoters: [ci]
  gates: {provenance: {signed_by: [ci]}, approval: {by: [alice]}, age: {least: 1s}}
  retention: {keep: 3, days: 1}
"""


@dataclass(frozen=True)
class Ended:
    """A command that has."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401
        return json.loads(self.out)


@dataclass
class Project:
    """A project, where its environments are, and all that was asked of the registry."""

    root: Path
    proxy: CuttingProxy
    host: str
    environ: Mapping[str, str]
    said: dict[str, Ended] = field(default_factory=dict)

    def run(self, *words: str | Path, key: str = "") -> Ended:
        more = ("--key", f"specs/keys/{key}.key") if key else ()
        done = subprocess.run(
            [sys.executable, "-m", "engineforge", *map(str, words), *more],
            cwd=self.root,
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def done(self, *words: str | Path, key: str = "") -> Ended:
        ended = self.run(*words, key=key)
        assert ended.code == 0, ended.out + ended.err
        return ended

    def promote(self, to: str, *, approved: bool = False) -> Ended:
        if approved:
            self.done("attest", "approve", "specs", "--to", to, key="alice")
        return self.done("promote", "specs", "--to", to, "--json", key="ci")

    def measured(self, median_ms: float) -> None:
        """What a machine with such GPUs attaches, in `dev`."""
        opened = Environments(
            self.root / "specs" / "environments.yaml", self.environ, lambda _: None
        ).open("dev")
        data = (self.root / "specs" / "keys" / "bench.key").read_bytes()
        key = read_private_key(data, called="bench", password=None)
        state = opened.state("net")
        assert state is not None
        for engine in state.engines:
            capability = {"ada": "8.9", "ampere": "8.6"}[engine.target]
            gpu = {**document(L4), "compute_capability": capability}
            on, time = OnGpu(gpu=gpu, driver="580.159.04"), datetime.now(timezone.utc)
            latency = Latency(
                time=time,
                median_ms=median_ms,
                p99_ms=median_ms * 1.5,
                point={"profile": 0, "at": "opt"},
                settings={"iterations": 10},
                on=on,
            )
            for result in (latency, LoadTest(time=time, passed=True, on=on)):
                statement = of_engine(
                    TEST_RESULT,
                    result.to_predicate(),
                    label=engine.name,
                    manifest=engine.manifest,
                    engine=engine.engine,
                )
                opened.attach(opened.describe("net", engine), sign_attestation(statement, key))

    def another(self) -> None:
        """With other weights, as far as `staging`."""
        convnet(self.root / "specs" / "models" / "net.onnx", seed=7)
        self.done("build", "specs")
        self.done("check", "specs", "--accuracy")
        self.promote("dev")


def made(root: Path, proxy: CuttingProxy, host: str, bucket: str, url: str) -> Project:
    """Built, and promoted to all four."""
    project = Project(root, proxy, host, environment(url))
    for folder in ("specs/models", "specs/keys"):
        (root / folder).mkdir(parents=True)
    told = ENVIRONMENTS.replace("HOST", proxy.host).replace("BUCKET", bucket)
    for name, text in {"targets": TARGETS, "environments": told, "net": SPEC}.items():
        (root / "specs" / f"{name}.yaml").write_text(text)
    convnet(root / "specs" / "models" / "net.onnx")
    images = np.random.default_rng(3).standard_normal((32, 3, 16, 16)).astype(np.float32)
    np.savez(root / "specs" / "holdout.npz", image=images)
    for name, kind in {"ci": "ecdsa-p256", "alice": "ed25519", "bench": "ecdsa-p256"}.items():
        project.done("attest", "key", f"specs/keys/{name}", "--kind", kind)
    project.done("build", "specs")
    project.said["unchecked"] = project.run("promote", "specs", "--to", "dev", key="ci")
    project.done("check", "specs", "--accuracy")
    project.promote("dev")
    proxy.heal()
    project.promote("canary")
    project.said["canary"] = Ended(0, "\n".join(proxy.requests), "")
    project.said["unmeasured"] = project.run("promote", "specs", "--to", "staging", key="ci")
    project.measured(1.0)
    project.promote("staging", approved=True)
    project.promote("production", approved=True)
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    if shutil.which("skopeo") is None:
        pytest.skip("apt-get install skopeo")
    folder = tmp_path_factory.mktemp("three")
    (folder / "project").mkdir()
    with ExitStack() as stack:
        registry = stack.enter_context(docker_registry(folder / "registry"))
        proxy = stack.enter_context(cutting_proxy(registry.host))
        server = stack.enter_context(s3_server())
        bucket = server.bucket("engines")
        yield made(folder / "project", proxy, registry.host, bucket, server.url)


def engines(project: Project) -> dict[str, str]:
    """The digest of the engine in the cache, by target."""
    cells = project.done("status", "--json").json["cells"]
    return {each["target"]: each["engine"]["engine"] for each in cells if each["engine"]}


def test_what_no_check_has_passed_yet_is_refused_with_what_to_do(project: Project) -> None:
    ended = project.said["unchecked"]
    assert ended.code == 3
    assert "REFUSED    accuracy" in ended.err
    assert "engineforge check specs/net.yaml --accuracy" in ended.err


def test_what_was_measured_on_no_gpu_is_refused_with_what_to_do(project: Project) -> None:
    ended = project.said["unmeasured"]
    assert ended.code == 3
    for gate in ("approval", "latency", "load_test"):
        assert f"REFUSED    {gate:10}" in ended.err
    assert "engineforge attest approve specs/net.yaml --to staging" in ended.err
    assert "engineforge check specs/net.yaml --latency" in ended.err


def test_all_environments_have_the_same_engines(project: Project) -> None:
    cells = project.done("status", "--json").json["cells"]
    for target in ("ada", "ampere"):
        of_target = [each for each in cells if each["target"] == target]
        assert [each["environment"] for each in of_target] == [
            "dev",
            "canary",
            "staging",
            "production",
        ]
        assert len({each["engine"]["manifest"] for each in of_target}) == 1
        assert all(each["fresh"] for each in of_target)


@pytest.mark.parametrize("name", ["dev", "canary", "staging", "production"])
def test_what_is_pulled_is_what_was_built(name: str, project: Project) -> None:
    built = {
        digest_file(path) for path in project.root.glob("cache/entries-v1/engine/*/*/*.engine")
    }
    for target in ("ada", "ampere"):
        output = project.root / f"{name}-{target}.engine"
        project.done("pull", f"{name}/net", "-o", output, "--target", target)
        assert digest_file(output) in built


@pytest.mark.parametrize("name", ["dev", "canary", "staging", "production"])
def test_where_it_comes_from_is_told_everywhere(name: str, project: Project) -> None:
    found = project.done("attest", "verify", f"{name}/net", "--json").json
    assert [each["target"] for each in found] == ["ada", "ampere"]
    model = digest_file(project.root / "specs" / "models" / "net.onnx")
    for each in found:
        assert each["lacking"] == []
        assert each["provenance"][0]["signed_by"] == ["ci"]
        assert model.removeprefix("sha256:") in json.dumps(each["provenance"][0])


def test_what_counted_on_the_way_is_still_attached_at_its_end(project: Project) -> None:
    found = project.done("attest", "verify", "production/net", "--json").json
    kinds = [each["kind"] for each in found[0]["attestations"] if each["signed_by"] == ["alice"]]
    assert kinds == ["approval", "approval"]
    # Accuracy; those of `bench` do not count there, since `production` does not list that key.
    assert [each["kind"] for each in found[0]["attestations"]].count("test result") == 1
    summaries = [each for each in found[0]["attestations"] if each["kind"] == "promotion"]
    assert len(summaries) == 3


def test_a_file_is_found_in_each_environment(project: Project) -> None:
    output = project.root / "any.engine"
    project.done("pull", "production/net", "-o", output, "--target", "ada")
    found = project.done("attest", "verify", output, "--json").json
    assert [each["environment"] for each in found] == ["dev", "canary", "staging", "production"]


def test_the_ledger_tells_where_it_came_from(project: Project) -> None:
    (spec,) = project.done("history", "--in", "production", "--json").json["specs"]
    (event,) = spec["events"]
    assert event["source"] == {"environment": "staging", "number": 1}
    assert (event["action"], event["signed_by"]) == ("promote", ["ci"])
    assert {gate for each in event["engines"] for gate in each["gates"]} == {
        "source",
        "provenance",
        "approval",
        "age",
    }


def test_inside_a_registry_no_bytes_of_an_engine_move(project: Project) -> None:
    requests = project.said["canary"].out.splitlines()
    engine_blobs = {each.partition(":")[2] for each in engines(project).values()}
    mounted = [each for each in requests if each.startswith("POST") and "mount=" in each]
    assert {each for each in engine_blobs if any(each in request for request in mounted)} == (
        engine_blobs
    )
    assert not [
        each
        for each in requests
        if each.startswith(("GET", "PATCH"))
        and "/blobs/" in each
        and any(digest in each for digest in engine_blobs)
    ]
    # What is uploaded is signed there: one summary for each engine, and the event.
    assert len([each for each in requests if each.startswith("PUT") and "/uploads/" in each]) == 3


def skopeo(*words: str) -> str:
    done = subprocess.run(["skopeo", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_skopeo_shows_what_the_tag_of_a_spec_stands_for(project: Project) -> None:
    for reference in (
        f"docker://{project.host}/engines/dev:net",
        f"oci:{project.root / 'staging'}:net",
    ):
        tls = ["--tls-verify=false"] if reference.startswith("docker:") else []
        index = json.loads(skopeo("inspect", "--raw", *tls, reference))
        assert index["artifactType"] == "application/vnd.engineforge.spec.v1"
        said = [each.get("annotations", {}) for each in index["manifests"]]
        assert [each.get("dev.engineforge.target") for each in said] == ["ada", "ampere", None]


def test_skopeo_copies_all_that_the_tag_of_a_spec_stands_for(
    project: Project, tmp_path: Path
) -> None:
    reference = f"docker://{project.host}/engines/dev:net"
    to = tmp_path / "mirror"
    skopeo("copy", "--all", "--src-tls-verify=false", reference, f"oci:{to}:net")
    there = {path.name for path in (to / "blobs" / "sha256").iterdir()}
    assert {each.partition(":")[2] for each in engines(project).values()} <= there


def test_skopeo_copies_an_engine_out_of_a_registry(project: Project, tmp_path: Path) -> None:
    digest = manifest_of(project, "ada")
    reference = f"docker://{project.host}/engines/dev@{digest}"
    skopeo("copy", "--src-tls-verify=false", "--preserve-digests", reference, f"dir:{tmp_path}")
    copied_whole(project, tmp_path)


def test_skopeo_copies_an_engine_out_of_a_folder(project: Project, tmp_path: Path) -> None:
    """By a tag: skopeo knows no digests in a layout, so one is made as `oras tag` would."""
    layout = tmp_path / "layout"
    shutil.copytree(project.root / "staging", layout)
    index = json.loads((layout / "index.json").read_text())
    digest = manifest_of(project, "ada")
    size = (layout / "blobs" / "sha256" / digest.partition(":")[2]).stat().st_size
    index["manifests"].append(
        {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": size,
            "annotations": {"org.opencontainers.image.ref.name": "ada"},
        }
    )
    (layout / "index.json").write_text(json.dumps(index))
    (tmp_path / "out").mkdir()
    skopeo("copy", "--preserve-digests", f"oci:{layout}:ada", f"dir:{tmp_path / 'out'}")
    copied_whole(project, tmp_path / "out")


def manifest_of(project: Project, target: str) -> str:
    (found,) = [
        each["engine"]["manifest"]
        for each in project.done("status", "--json").json["cells"]
        if (each["target"], each["environment"]) == (target, "staging")
    ]
    return str(found)


def copied_whole(project: Project, folder: Path) -> None:
    """The engine's bytes, as they are in the cache, under their digest."""
    hexadecimal = engines(project)["ada"].partition(":")[2]
    assert digest_file(folder / hexadecimal).hex == hexadecimal


def test_a_server_gets_both_targets_as_one_model(project: Project, tmp_path: Path) -> None:
    project.done(
        "export", "triton", "production/net", tmp_path / "models", "--backend", "engineforge"
    )
    files = sorted(path.name for path in (tmp_path / "models" / "net" / "1").iterdir())
    assert len([each for each in files if each.endswith((".plan", ".engine"))]) == 2
    assert 'backend: "engineforge"' in (tmp_path / "models" / "net" / "config.pbtxt").read_text()


def test_promoting_once_more_does_nothing(project: Project) -> None:
    for name in ("dev", "canary", "staging", "production"):
        project.proxy.heal()
        (told,) = project.promote(name).json["specs"]
        assert (told["changed"], told["number"], told["refused"]) == (False, 1, False)
        assert not [each for each in project.proxy.requests if each.startswith(("PUT", "POST"))]


def test_a_slower_engine_stays_out_and_a_rollback_brings_the_one_before_back(
    project: Project,
) -> None:
    """At the end of this module: from here on there are two engines."""
    before = engines(project)
    project.another()
    project.measured(1.2)
    project.done("attest", "approve", "specs", "--to", "staging", key="alice")
    refused = project.run("promote", "specs", "--to", "staging", key="ci")
    assert refused.code == 3
    assert "20 % slower" in refused.err or "20.0 %" in refused.err, refused.err
    words = ("--override", "latency", "--reason", "the other one is wrong")
    project.done("promote", "specs", "--to", "staging", *words, key="ci")
    assert "OVERRIDDEN: latency" in project.done("history", "net", "--in", "staging").out
    project.promote("production", approved=True)
    output = project.root / "after.engine"
    project.done("pull", "production/net", "-o", output, "--target", "ada")
    assert digest_file(output) != before["ada"]

    project.done("rollback", "net", "--in", "production", "--reason", "wrong", key="ci")
    project.done("pull", "production/net", "-o", output, "--target", "ada")
    assert digest_file(output) == before["ada"]
    (spec,) = project.done("history", "net", "--in", "production", "--json").json["specs"]
    assert [each["action"] for each in spec["events"]] == ["promote", "promote", "rollback"]
    assert spec["events"][2]["source"] == {"environment": "production", "number": 1}
    assert "stale" in project.done("status").out
