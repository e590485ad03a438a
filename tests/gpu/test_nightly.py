"""A night on a host with a GPU: what is built is checked and timed on it, and promoted by that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gpu.conftest import Bench, tell
from tests.gpu.test_checks import Done, command
from tests.models import convnet

pytest.importorskip("onnxruntime", reason="needs: python -m pip install onnxruntime")
pytest.importorskip("jinja2", reason="needs: python -m pip install 'engineforge[report]'")
pytest.importorskip("cryptography", reason="needs: python -m pip install 'engineforge[promotion]'")
pytestmark = pytest.mark.gpu

_SPEC = """\
model: {{source: {{path: models/night.onnx}}}}
targets: [here]
builder: {{tf32: false, tactic_sources: [edge_mask_convolutions, jit_convolutions]}}
inputs: {{image: {{min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}}}}
checks:
  accuracy: {{data: night.npz, max_relative_error: 0.0001}}
  latency: {{max_p99_ms: {most}}}
variants: {{fp32: {{precision: fp32}}}}
"""
_ENVIRONMENTS = """\
dev:
  store: ../environments/dev
  signers: {ci: keys/ci.pub}
  gates: {provenance: {}, freshness: {}, accuracy: {of: engine}, latency: {max_p99_ms: 500}}
"""


@pytest.fixture(scope="module")
def night(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Path]:
    """A night of two specs, of which one is as fast as it promises, and its folder."""
    project = Bench(tmp_path_factory.mktemp("night"))
    specs = project.root / "specs"
    (specs / "models").mkdir(parents=True)
    (specs / "keys").mkdir()
    (project.root / "environments").mkdir()
    (specs / "targets.yaml").write_text((bench.root / "specs" / "targets.yaml").read_text())
    convnet(project.model("night"))
    images = np.random.default_rng(3).standard_normal((8, 3, 16, 16), dtype=np.float32)
    np.savez(specs / "night.npz", image=images)
    (specs / "fine.yaml").write_text(_SPEC.format(most="1000"))
    (specs / "slow.yaml").write_text(_SPEC.format(most="0.000001"))
    (specs / "environments.yaml").write_text(_ENVIRONMENTS)
    project.run("attest", "key", "specs/keys/ci")
    done = command(project, "nightly", "specs", "-o", "nights", "--key", "specs/keys/ci.key")
    tell(f"{done.out}\n{done.err}")
    return done, project.root / "nights" / "latest"


def test_only_what_kept_its_promises_on_the_gpu_is_promoted(night: tuple[Done, Path]) -> None:
    done, folder = night
    assert done.code == 1
    cases = _cases(folder)
    for spec in ("fine", "slow"):
        for step in ("build", "engine"):
            assert cases[step, spec]["verdict"] == "passed", cases[step, spec]
    assert cases["latency", "fine"]["verdict"] == "passed"
    assert cases["latency", "slow"]["verdict"] == "failed"
    assert "1e-06 ms" in cases["latency", "slow"]["said"]
    assert cases["promotion", "fine"]["verdict"] == "passed"
    assert cases["promotion", "slow"]["verdict"] != "passed"


def test_the_report_has_what_was_measured_and_what_is_served(night: tuple[Done, Path]) -> None:
    report = json.loads((night[1] / "report.json").read_text())
    variants = {each["spec"]: each for each in report["variants"]}
    assert all(each["latency"]["median_ms"] > 0 for each in variants.values())
    assert set(variants["fine"]["environments"]) == {"dev"}
    assert not variants["slow"]["environments"]


def _cases(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    events = [json.loads(each) for each in lines]
    return {
        (each["step"], each["spec"]): each
        for each in events
        if each["event"] == "case" and "spec" in each
    }
