"""What is told of engines whose figures were measured on this host's GPU: their layers, how two of
them differ, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gpu.conftest import Bench, tell
from tests.models import convnet

pytest.importorskip("onnxruntime", reason="needs: python -m pip install onnxruntime")
pytest.importorskip("jinja2", reason="needs: python -m pip install 'engineforge[report]'")
pytestmark = pytest.mark.gpu

_SPEC = """\
model: {source: {path: models/told.onnx}}
targets: [here]
builder: {tf32: false, tactic_sources: [edge_mask_convolutions, jit_convolutions]}
inputs: {image: {min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}}
checks:
  accuracy: {data: told.npz, max_relative_error: 0.0001}
  latency: {max_p99_ms: 1000}
variants:
  fp32: {precision: fp32}
  quick: {precision: fp32, builder: {optimization_level: 0}}
"""


@pytest.fixture(scope="module")
def told(bench: Bench) -> str:
    """A spec whose two engines are built, checked, and timed layer by layer."""
    specs = bench.root / "specs"
    # Another engine than that of other tests, of which nothing was measured yet.
    convnet(bench.model("told"), seed=9)
    images = np.random.default_rng(3).standard_normal((8, 3, 16, 16), dtype=np.float32)
    np.savez(specs / "told.npz", image=images)
    (specs / "told.yaml").write_text(_SPEC)
    bench.run("build", "specs/told.yaml")
    bench.run("check", "specs/told.yaml", "--engine", "--latency")
    for variant in ("fp32", "quick"):
        bench.run("bench", "specs/told.yaml", "--variant", variant, "--layers")
    return "specs/told.yaml"


def test_every_layer_has_its_time(bench: Bench, told: str) -> None:
    shown: list[dict[str, Any]] = json.loads(bench.run("show", told, "--layers", "--json"))
    assert len(shown) == 2
    for engine in shown:
        assert engine["profiled"]
        assert engine["layers"]
        assert all(each["ms"] >= 0 for each in engine["layers"] if "ms" in each)
        assert sum(each.get("share", 0) for each in engine["layers"]) == pytest.approx(1, abs=0.05)
    tell(bench.run("show", told, "--layers"))


def test_two_engines_differ_by_what_was_asked_and_what_was_measured(
    bench: Bench, told: str
) -> None:
    pair = ("told:fp32@here", "told:quick@here")
    found = json.loads(bench.run("diff", *pair, "--json"))
    assert {each["leaf"] for each in found["key"]} == {"builder.optimization_level"}
    for each in ("before", "after"):
        assert found["latency"][each]["median_ms"] > 0
        assert found["accuracy"][each] is not None
    assert found["latency"]["slower_percent"] is not None
    assert found["layers"]["compared"]
    tell(bench.run("diff", *pair))


def test_the_page_draws_accuracy_against_latency(bench: Bench, told: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    report = json.loads(bench.run("report", told, "-o", str(page), "--json"))
    for variant in report["variants"]:
        assert variant["latency"]["passed"]
        assert variant["latency"]["p99_ms"] >= variant["latency"]["median_ms"] > 0
        assert variant["accuracy"]["engine"]["passed"]
    text = page.read_text(encoding="utf-8")
    assert 'id="pareto"' in text
    assert "against median latency of 2 variants" in text
