"""Latency and accuracy of real engines, checked from the command line on this host's GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.gpu.conftest import Bench, tell
from tests.models import convnet, save

pytest.importorskip("onnxruntime", reason="needs: python -m pip install onnxruntime")
pytestmark = pytest.mark.gpu

_ROOT = Path(__file__).parents[2]
_HEAD = """\
model: {{source: {{path: models/{name}.onnx}}}}
targets: [here]
builder: {{tf32: false, tactic_sources: [edge_mask_convolutions, jit_convolutions]}}
"""
_NET = """\
inputs: {image: {min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}}
checks:
  accuracy: {data: checked.npz, max_relative_error: 0.0001}
  latency: {max_p99_ms: 1000, max_median_ms: 500, max_slower: {than: fp32, percent: 900}}
variants:
  fp32: {precision: fp32}
  other: {precision: fp32, builder: {profiling_verbosity: none}}
"""
_IDS = """\
inputs: {ids: {min: [1, 4], opt: [2, 4], max: [8, 4]}}
checks:
  accuracy: {data: ids.npz, max_relative_error: 0.000001}
variants: {fp32: {precision: fp32}}
"""


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    def variants(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Of `check --json`, by variant and kind of check."""
        found = json.loads(self.out)["variants"]
        return {(each["variant"], each["check"]): each for each in found}


def command(bench: Bench, *arguments: str) -> Done:
    """As `Bench.run`, whatever the exit code is."""
    done = subprocess.run(
        [sys.executable, "-m", "engineforge", *arguments],
        cwd=bench.root,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, sys.path)])},
    )
    return Done(done.returncode, done.stdout, done.stderr)


def write(bench: Bench, name: str, text: str) -> str:
    (bench.root / "specs" / f"{name}.yaml").write_text(_HEAD.format(name=name) + text)
    return f"specs/{name}.yaml"


@pytest.fixture(scope="module")
def spec(bench: Bench) -> str:
    """A small network in two variants, built."""
    convnet(bench.model("checked"))
    images = np.random.default_rng(0).standard_normal((16, 3, 16, 16)).astype(np.float32)
    np.savez(bench.root / "specs" / "checked.npz", image=images)
    made = write(bench, "checked", _NET)
    bench.run("build", made)
    return made


@pytest.fixture(scope="module")
def checked(bench: Bench, spec: str) -> Mapping[tuple[str, str], dict[str, Any]]:
    """What the first check of all came to."""
    done = command(bench, "check", spec, "--engine", "--latency", "--json")
    assert done.code == 0, done.out + done.err
    return done.variants()


def test_engines_are_as_accurate_as_fp32_is(
    checked: Mapping[tuple[str, str], dict[str, Any]],
) -> None:
    for variant in ("fp32", "other"):
        found = checked[variant, "engine"]
        assert found["outcome"] == "passed"
        error = found["measured"]["outputs"]["logits"]["relative_error"]
        tell(f"relative error of {variant} against ONNX Runtime: {error:.2e}")
        assert 0 <= error < 1e-5
        assert found["measured"]["samples"] == 16
        assert found["measured"]["order"] == {"source": ["logits"], "engine": ["logits"]}


def test_latency_passes_by_its_thresholds(
    checked: Mapping[tuple[str, str], dict[str, Any]],
) -> None:
    for variant in ("fp32", "other"):
        found = checked[variant, "latency"]
        assert found["outcome"] == "passed"
        times = found["measured"]["latency_ms"]
        tell(f"{variant}: median {times['median']:.4f} ms, p99 {times['p99']:.4f} ms")
        assert 0 < times["median"] <= times["p99"] < 1000
        assert found["measured"]["shapes"] == {"image": [4, 3, 16, 16]}


def test_the_other_variant_is_measured_beside(
    checked: Mapping[tuple[str, str], dict[str, Any]],
) -> None:
    assert checked["fp32", "latency"]["than"] is None
    assert not checked["other", "latency"]["kept"]
    than = checked["other", "latency"]["than"]
    assert than["engine"] == checked["fp32", "latency"]["measured"]["engine"]
    assert 0 < than["latency_ms"]["median"] < 1000


@pytest.mark.usefixtures("checked")
def test_what_was_measured_is_kept_and_used_again(bench: Bench, spec: str) -> None:
    done = command(bench, "check", spec, "--engine", "--latency", "--json")
    assert done.code == 0, done.out + done.err
    assert "measuring" not in done.err
    found = done.variants()
    assert found["fp32", "latency"]["kept"]
    assert found["other", "latency"]["kept"]


@pytest.mark.usefixtures("checked")
def test_a_threshold_that_is_missed_fails_without_measuring_again(bench: Bench, spec: str) -> None:
    text = _NET.replace("max_p99_ms: 1000", "max_p99_ms: 0.000001")
    assert text != _NET
    write(bench, "checked", text)
    try:
        done = command(bench, "check", spec, "--latency")
    finally:
        write(bench, "checked", _NET)
    assert done.code == 1
    assert done.out.startswith("FAILED   checked/fp32@here   p99 ")
    assert "expected at most 1e-06 ms" in done.err
    assert "measuring" not in done.err


@pytest.mark.usefixtures("checked")
def test_again_measures_anew_under_a_lease(bench: Bench, spec: str) -> None:
    before = _latencies(bench)
    done = command(bench, "check", spec, "--latency", "--variant", "fp32", "--again", "--json")
    assert done.code == 0, done.out + done.err
    assert not done.variants()["fp32", "latency"]["kept"]
    (new,) = _latencies(bench).keys() - before.keys()
    manifest = _latencies(bench)[new]
    assert manifest["key_document"]["number"] >= 1
    gpu = manifest["record"]["gpu"]
    assert gpu["uuid"].startswith(("GPU-", "MIG-"))
    assert gpu["leased"][0] < gpu["leased"][1]
    assert "uuid" not in manifest["key_document"]["gpu"]


@pytest.mark.usefixtures("checked")
def test_bench_is_kept_and_serves_the_next_check(bench: Bench, spec: str) -> None:
    done = command(bench, "bench", spec, "--variant", "fp32", "--json")
    assert done.code == 0, done.err
    measured = json.loads(done.out)
    check = command(bench, "check", spec, "--latency", "--variant", "fp32", "--json")
    found = check.variants()["fp32", "latency"]
    assert found["kept"]
    assert found["entry"] == measured["kept"]["key"]
    assert found["measured"]["latency_ms"] == measured["latency_ms"]


@pytest.mark.usefixtures("checked")
def test_show_tells_what_they_came_to(bench: Bench, spec: str) -> None:
    shown = json.loads(bench.run("show", spec, "--json"))
    for each in shown:
        assert each["engine_checks"].startswith("passed: accuracy (")
        assert each["latency"].startswith("passed: p99 ")


def test_inputs_of_64_bits_are_fed_as_the_engine_takes_them(bench: Bench) -> None:
    table = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"], name="gather", axis=0),
            helper.make_node("Relu", ["rows"], ["y"], name="relu"),
        ],
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 8])],
        [numpy_helper.from_array(table, "table")],
    )
    save(graph, bench.model("ids"))
    ids = np.random.default_rng(1).integers(0, 16, (12, 4))
    np.savez(bench.root / "specs" / "ids.npz", ids=ids)
    made = write(bench, "ids", _IDS)
    bench.run("build", made)
    done = command(bench, "check", made, "--engine", "--json")
    assert done.code == 0, done.out + done.err
    assert done.variants()["fp32", "engine"]["measured"]["outputs"]["y"]["relative_error"] < 1e-6


def _latencies(bench: Bench) -> dict[str, dict[str, Any]]:
    """The manifests of all measurements in the cache, by their keys."""
    found = bench.root.glob("cache/entries-v1/latency/*/*/manifest.json")
    return {path.parent.name: json.loads(path.read_text()) for path in found}
