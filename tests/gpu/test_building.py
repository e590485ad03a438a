"""Engines of classic TensorRT built on this host's GPU: types held, timing caches, leases."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engineforge.digest import digest_bytes
from engineforge.runtime.cuda import device_count
from tests.gpu.conftest import Bench, tell
from tests.models import convnet, save

pytestmark = pytest.mark.gpu

_SPEC = """\
model: {{source: {{path: models/{name}.onnx}}}}
targets: [here]
inputs: {{image: {{min: [1, 3, 16, 16], opt: [4, 3, 16, 16], max: [8, 3, 16, 16]}}}}
builder: {{tf32: false, tactic_sources: [edge_mask_convolutions, jit_convolutions]}}
variants:
"""
_DETAILED = "builder: {profiling_verbosity: detailed}"


def write(bench: Bench, name: str, variants: dict[str, str]) -> None:
    lines = "".join(f"  {each}: {{{text}}}\n" for each, text in variants.items())
    (bench.root / "specs" / f"{name}.yaml").write_text(_SPEC.format(name=name) + lines)


def build(
    bench: Bench, name: str, variants: dict[str, str], *options: str, cache: str = "cache"
) -> dict[str, dict[str, Any]]:
    """Write a spec with these variants and build it: what became of each."""
    write(bench, name, variants)
    words = ["build", f"specs/{name}.yaml", "--json", "--keep-going", "--cache", cache, *options]
    done = engineforge(bench, *words)
    return {each["variant"]: each for each in json.loads(done.stdout)["variants"]}


def engineforge(bench: Bench, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engineforge", *words],
        cwd=bench.root,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )


def environment() -> dict[str, str]:
    here = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)])}


def record(outcome: dict[str, Any], bench: Bench) -> dict[str, Any]:
    path = bench.root / outcome["path"]
    found: dict[str, Any] = json.loads((path.parent / "manifest.json").read_text())["record"]
    return found


def half(path: Path) -> Path:
    """The convolutional network in FP16, but for its inputs and outputs."""
    model = onnx.load(convnet(path))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes = [helper.make_node("Cast", ["image"], ["low"], name="/in", to=TensorProto.FLOAT16)]
    for node in model.graph.node:
        node.input[:] = ["low" if name == "image" else name for name in node.input]
        node.output[:] = ["high" if name == "logits" else name for name in node.output]
        nodes.append(node)
    nodes.append(helper.make_node("Cast", ["high"], ["logits"], name="/out", to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes, "half", model.graph.input, model.graph.output, model.graph.initializer
    )
    return save(graph, path)


def test_an_engine_is_built_loaded_and_kept_with_what_made_it(bench: Bench) -> None:
    convnet(bench.model("kept"))
    built = build(bench, "kept", {"fp32": f"precision: fp32, {_DETAILED}"})["fp32"]
    assert built["outcome"] == "built", built
    made = record(built, bench)
    assert made["load_test"]["loaded"]
    assert [run["profile"] for run in made["load_test"]["runs"]] == [0]
    assert made["gpu"]["uuid"].startswith("GPU-")
    assert [
        each for each in made["gpu_at_start"]["others"] or [] if each["pid"] != os.getpid()
    ] == []
    assert made["timing_cache"]["state"] in ("cold", "from the shared one")
    assert made["timing_cache"]["bytes_kept"] > 0
    assert made["peak_memory"] > 1 << 28
    names = {path.name for path in (bench.root / built["path"]).parent.iterdir()}
    assert {"model.engine", "timing.cache", "layers.json", "build.log", "manifest.json"} == names
    tell(f"timing cache of a build: {made['timing_cache']}")


def test_layers_compute_in_the_types_of_the_graph(bench: Bench) -> None:
    half(bench.model("half"))
    built = build(bench, "half", {"source": _DETAILED})["source"]
    assert built["outcome"] == "built", built
    made = record(built, bench)
    tell(f"types: {made['typing']}")
    layers = json.loads(((bench.root / built["path"]).parent / "layers.json").read_text())["layers"]
    convolutions = [each for each in layers if "conv" in each["name"].lower()]
    assert convolutions
    assert all(each["weights_type"] == "float16" for each in convolutions), convolutions
    assert all("float16" in each["output_types"] for each in convolutions), convolutions


def test_a_second_build_begins_with_what_the_first_one_timed(bench: Bench) -> None:
    convnet(bench.model("warm"), channels=64)
    variants = {"a": "precision: fp32", "b": "precision: fp32, builder: {avg_timing_iterations: 2}"}
    first = record(build(bench, "warm", {"a": variants["a"]}, cache="warm")["a"], bench)
    second = record(build(bench, "warm", variants, cache="warm")["b"], bench)
    assert first["timing_cache"]["state"] == "cold"
    assert second["timing_cache"]["state"] == "from the shared one"
    assert second["timing_cache"]["bytes_read"] == first["timing_cache"]["bytes_kept"]
    assert (first["timing_cache"]["shared"], second["timing_cache"]["shared"]) == ("merged",) * 2
    cold = record(build(bench, "warm", variants, "--cold", cache="warm-cold")["a"], bench)
    assert cold["timing_cache"]["state"] == "cold"
    assert not (bench.root / "warm-cold" / "timing-v1").exists()
    timed = [each["timing_cache"]["tactics_timed"] for each in (first, second, cold)]
    tell(f"tactics timed: {timed}, seconds {[each['seconds'] for each in (first, second, cold)]}")


def _with_shared(bench: Bench, cache: str, blob: bytes, *, sealed: bool) -> dict[str, Any]:
    """Build with these bytes as the shared timing cache; the record of that."""
    convnet(bench.model(cache))
    build(bench, cache, {"a": "precision: fp32"}, cache=cache)
    (shared,) = (bench.root / cache / "timing-v1").iterdir()
    line = f"engineforge timing cache 1 {digest_bytes(blob)}\n".encode() if sealed else b""
    shared.write_bytes(line + blob)
    both = {"a": "precision: fp32", "b": "precision: fp32, builder: {max_aux_streams: 0}"}
    built = build(bench, cache, both, cache=cache)["b"]
    assert built["outcome"] == "built", built
    return record(built, bench)


def test_a_corrupt_shared_cache_is_set_aside_and_does_no_harm(bench: Bench) -> None:
    made = _with_shared(bench, "corrupt", b"not a timing cache", sealed=False)
    assert made["timing_cache"]["state"] == "cold"
    assert "does not begin as one" in made["timing_cache"]["set_aside"]
    assert made["timing_cache"]["shared"].startswith("the one there was set aside")
    assert list((bench.root / "corrupt" / "quarantine").iterdir())


def test_a_cache_that_tensorrt_rejects_is_set_aside_and_does_no_harm(bench: Bench) -> None:
    made = _with_shared(bench, "garbage", os.urandom(4096), sealed=True)
    tell(f"garbage: {made['timing_cache']}")
    assert made["timing_cache"]["state"] == "cold"
    assert made["timing_cache"]["rejected"]
    assert list((bench.root / "garbage" / "quarantine").iterdir())


def test_a_small_network_is_rebuilt_to_the_last_bit(bench: Bench) -> None:
    convnet(bench.model("again"))
    build(bench, "again", {"a": f"precision: fp32, {_DETAILED}"})
    done = engineforge(bench, "verify", "--rebuild", "specs/again.yaml", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(done.stdout)["variants"]
    tell(f"rebuilt: {found['level']}: {found['said']}")
    assert found["level"] == "bytes"


_OPTIONS = {
    "refit": "{refit: true}",
    "sparse": "{sparse_weights: true}",
    "level": "{optimization_level: 1}",
    "streams": "{max_aux_streams: 0}",
    "workspace": "{workspace: 1GiB}",
    "compatible": "{hardware_compatibility: ampere_plus, workspace: 1GiB}",
    "preview": "{preview_features: {profile_sharing_0806: true}}",
    "formats": "{io_formats: {image: {dtype: half, formats: [linear]}}}",
    "precisions": "{layer_precisions: {'*': float}, obey_precision_constraints: true}",
    "direct": "{direct_io: true}",
    "avg": "{avg_timing_iterations: 2, min_timing_iterations: 2}",
    "heuristic": "{enable_tactic_heuristic: true}",
    "debug": "{debug: true}",
    "uncached": "{disable_timing_cache: true}",
}


@pytest.mark.parametrize("name", _OPTIONS)
def test_an_option_is_set_and_read_back(bench: Bench, name: str) -> None:
    convnet(bench.model("options"))
    variants = {name: f"precision: fp32, builder: {_OPTIONS[name]}"}
    found = build(bench, "options", variants)[name]
    assert found["outcome"] == "built", found


def test_an_operator_without_a_plugin_is_told_by_its_name(bench: Bench) -> None:
    graph = helper.make_graph(
        [helper.make_node("FooBar", ["image"], ["y"], name="/odd/FooBar")],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 16, 16])],
    )
    save(graph, bench.model("odd"))
    failed = build(bench, "odd", {"a": "precision: source"})["a"]
    assert failed["outcome"] == "failed"
    assert "FooBar" in failed["error"]
    assert "plugin" in failed["error"]


def test_a_library_that_is_no_plugin_is_refused_by_its_name(bench: Bench) -> None:
    convnet(bench.model("plugin"))
    (bench.root / "specs" / "plugin.so").write_bytes(b"no library")
    failed = build(bench, "plugin", {"a": "builder: {plugins: [plugin.so]}"})["a"]
    assert failed["outcome"] == "failed"
    assert "plugin.so' does not load" in failed["error"]


def test_a_killed_build_leaves_the_gpu_and_the_next_run_completes(bench: Bench) -> None:
    convnet(bench.model("killed"), channels=128)
    write(bench, "killed", {"a": "precision: fp32"})
    words = [sys.executable, "-m", "engineforge", "build", "specs/killed.yaml"]
    process = subprocess.Popen(
        words, cwd=bench.root, env=environment(), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "building" in line:
            break
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = engineforge(bench, "build", "specs/killed.yaml", "--json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_two_builds_have_one_gpu_at_once(bench: Bench) -> None:
    variants = {
        f"v{i}": f"precision: fp32, builder: {{avg_timing_iterations: {i + 1}}}" for i in range(6)
    }
    convnet(bench.model("leases"))
    found = build(bench, "leases", variants, "-j", "4", cache="leases")
    assert {each["outcome"] for each in found.values()} == {"built"}, found
    leases: dict[str, list[list[str]]] = {}
    for each in found.values():
        gpu = record(each, bench)["gpu"]
        leases.setdefault(gpu["uuid"], []).append(gpu["leased"])
    for spans in leases.values():
        spans.sort()
        assert all(one[1] <= other[0] for one, other in pairwise(spans)), spans
    tell(f"leases: { {uuid: len(spans) for uuid, spans in leases.items()} }")
    assert len(leases) == min(device_count(), len(variants)), "GPUs were left idle"


def test_a_killed_build_on_one_gpu_leaves_the_other_unharmed(bench: Bench) -> None:
    if device_count() < 2:
        pytest.skip("needs two GPUs")
    convnet(bench.model("two"), channels=128)
    variants = {name: f"precision: fp32, builder: {{{text}}}" for name, text in _TWO.items()}
    write(bench, "two", variants)
    words = ["build", "specs/two.yaml", "--json", "--keep-going", "--gpus", "0,1", "--cache", "two"]
    process = subprocess.Popen(
        [sys.executable, "-m", "engineforge", *words],
        cwd=bench.root,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    children = _children_on_gpus(process)
    time.sleep(3)
    killed = sorted(children)[0]
    os.kill(children[killed], signal.SIGKILL)
    out, _ = process.communicate()
    first = {each["variant"]: each for each in json.loads(out)["variants"]}
    assert sorted(each["outcome"] for each in first.values()) == ["built", "failed"], first
    (failed,) = [each for each in first.values() if each["outcome"] == "failed"]
    assert "SIGKILL" in failed["error"]
    (unharmed,) = [each for each in first.values() if each["outcome"] == "built"]
    assert record(unharmed, bench)["gpu"]["uuid"] != killed
    again = build(bench, "two", variants, cache="two")
    assert sorted(each["outcome"] for each in again.values()) == ["built", "reused"], again


_TWO = {"a": "avg_timing_iterations: 4", "b": "avg_timing_iterations: 5"}


def _children_on_gpus(process: subprocess.Popen[str]) -> dict[str, int]:
    """The builds of a run by the UUIDs of their GPUs, once there is one on each of two."""
    for _ in range(600):
        found: dict[str, int] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if stat.read_text().rpartition(")")[2].split()[1] == str(process.pid):
                    seen = (stat.parent / "environ").read_bytes().split(b"\0")
                    own = dict(each.decode().partition("=")[::2] for each in seen)
                    if own.get("CUDA_VISIBLE_DEVICES", "").startswith("GPU-"):
                        found[own["CUDA_VISIBLE_DEVICES"]] = int(stat.parent.name)
        if len(found) == 2:
            return found
        time.sleep(0.1)
    raise AssertionError("two GPUs were never in use at once")
