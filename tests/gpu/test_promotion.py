"""A real engine from its build to a server: every gate that asks for a GPU, promoted, pulled on
this host by its own GPU, loaded and run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import engineforge
from engineforge.errors import StoreCorrupt
from engineforge.runtime.engine import Engine
from tests.gpu.conftest import Bench, tell
from tests.gpu.test_checks import command
from tests.models import convnet

pytest.importorskip("onnxruntime", reason="needs: python -m pip install onnxruntime")
pytest.importorskip("cryptography", reason="needs: python -m pip install 'engineforge[promotion]'")
pytestmark = pytest.mark.gpu

_SPEC = """\
model: {source: {path: models/promoted.onnx}}
targets: [here]
builder: {tf32: false, tactic_sources: [edge_mask_convolutions, jit_convolutions]}
inputs: {image: {min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}}
checks:
  accuracy: {data: promoted.npz, max_relative_error: 0.0001}
  latency: {max_p99_ms: 1000}
variants: {fp32: {precision: fp32}}
"""
_ENVIRONMENTS = """\
dev:
  store: ../environments/dev
  signers: {ci: keys/ci.pub}
  gates:
    provenance: {}
    freshness: {}
    accuracy: {of: engine}
    latency: {max_p99_ms: 500, max_slower_percent: 400}
    load_test: {}
production:
  store: ../environments/production
  from: dev
  signers: {ci: keys/ci.pub}
  gates: {provenance: {}, latency: {max_p99_ms: 500}, load_test: {}}
"""
_KEY = ("--key", "specs/keys/ci.key")


@pytest.fixture(scope="module")
def promoted(bench: Bench) -> Path:
    """The folder of a project whose engine is in `production`; gates were asked before there was
    anything to show them."""
    specs = bench.root / "specs"
    random = np.random.default_rng(7)
    convnet(bench.model("promoted"), seed=11)  # which nothing else has measured
    images = random.standard_normal((16, 3, 16, 16), dtype=np.float32)
    np.savez(specs / "promoted.npz", image=images)
    (specs / "promoted.yaml").write_text(_SPEC)
    (specs / "environments.yaml").write_text(_ENVIRONMENTS)
    (specs / "keys").mkdir()
    (bench.root / "environments").mkdir()
    bench.run("attest", "key", "specs/keys/ci")
    bench.run("build", "specs/promoted.yaml")
    refused = command(bench, "promote", "specs/promoted.yaml", "--to", "dev", *_KEY)
    assert refused.code == 3, refused
    assert "check specs/promoted.yaml --latency" in refused.err.replace("\n", " ")
    bench.run("check", "specs/promoted.yaml", "--engine", "--latency")
    bench.run("promote", "specs/promoted.yaml", "--to", "dev", *_KEY)
    bench.run("promote", "specs/promoted.yaml", "--to", "production", *_KEY)
    return bench.root


def test_every_gate_passed_on_this_gpu(bench: Bench, promoted: Path) -> None:
    (engine,) = json.loads(bench.run("attest", "verify", "dev/promoted", "--json"))
    gates = engine["gates"]
    assert {name for name, each in gates.items() if each["passed"]} >= {
        *("accuracy", "freshness", "latency", "load_test", "provenance"),
    }
    tell("; ".join(f"{name}: {each['why']}" for name, each in gates.items()))


def test_it_is_pulled_for_this_gpu_loaded_and_run(promoted: Path, tmp_path: Path) -> None:
    pulled = engineforge.pull(
        "production/promoted",
        tmp_path / "served.engine",
        environments=promoted / "specs" / "environments.yaml",
        load=Engine.load,
    )
    tell(f"{pulled.name}: {pulled.why}")
    with pulled.loaded as engine:
        outputs = engine.run({"image": np.ones((2, 3, 16, 16), np.float32)})
    assert all(np.isfinite(each).all() for each in outputs.values())
    with Engine.load(tmp_path / "served.engine") as engine:
        again = engine.run({"image": np.ones((2, 3, 16, 16), np.float32)})
    assert all(np.array_equal(again[name], each) for name, each in outputs.items())


def test_a_damaged_engine_is_never_loaded(promoted: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.engine"
    environments = promoted / "specs" / "environments.yaml"
    found = engineforge.pull("production/promoted", output, environments=environments)
    blobs = promoted / "environments" / "production" / "blobs" / "sha256"
    blob = blobs / found.engine.removeprefix("sha256:")
    whole = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    loaded: list[Path] = []
    try:
        with pytest.raises(StoreCorrupt):
            engineforge.pull(
                "production/promoted",
                tmp_path / "other.engine",
                environments=environments,
                load=loaded.append,
            )
    finally:
        blob.write_bytes(whole)
    assert not loaded
    assert not (tmp_path / "other.engine").exists()
    assert output.read_bytes() == whole
