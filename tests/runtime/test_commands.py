"""`engineforge run` and `bench`: what they refuse before any GPU is asked, and what they print."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engineforge.cli import bench, run
from engineforge.errors import EngineForgeError, UsageError
from tests.conftest import Forge
from tests.runtime.test_engine_file import has_gpu


def arguments(what: object = "specs", **more: object) -> argparse.Namespace:
    usual: dict[str, object] = {
        "what": str(what),
        "variant": [],
        "target": [],
        "cache": None,
        "json": False,
        "sha256": None,
        "gpu": "0",
        "plugin": [],
        "profile": None,
        "input": [],
        "output": [],
        "shapes": [],
        "at": "opt",
        "warm_up": 200.0,
        "duration": 3.0,
        "iterations": 10,
        "streams": 1,
        "cuda_graph": False,
        "no_transfers": False,
        "layers": False,
    }
    return argparse.Namespace(**{**usual, **more})


def test_a_spec_finds_its_one_engine(built: Forge) -> None:
    (engine,) = built.engines()
    found = run.find(arguments("specs/net.yaml"))
    assert found.resolve() == engine.parent.resolve()


def test_an_entry_and_a_file_find_themselves(built: Forge) -> None:
    (engine,) = built.engines()
    assert run.find(arguments(engine.parent)) == engine.parent
    assert run.find(arguments(engine)) == engine


def test_several_variants_are_to_be_chosen_from(built: Forge) -> None:
    built.edit("net", "targets: [ada]", "targets: [ada, ampere]")
    with pytest.raises(UsageError, match="found 2: net/fp32@ada, net/fp32@ampere") as error:
        run.find(arguments())
    assert "--target" in (error.value.hint or "")


def test_what_is_not_built_is_told(forge: Forge) -> None:
    with pytest.raises(EngineForgeError, match="net/fp32@ada is not built, or not up to date"):
        run.find(arguments("specs/net.yaml"))


def test_a_path_to_nothing_is_a_usage_error(forge: Forge) -> None:
    with pytest.raises(UsageError, match="no spec, no folder of an entry, and no engine file"):
        run.find(arguments("nothing.engine"))


@pytest.mark.skipif(has_gpu(), reason="claims what is said where there is no GPU")
@pytest.mark.parametrize("command", [run.run, bench.run])
def test_a_host_without_gpu_ends_with_exit_code_5(
    built: Forge, command: Callable[[argparse.Namespace], int]
) -> None:
    with pytest.raises(EngineForgeError, match="this host has no NVIDIA") as error:
        command(arguments("specs/net.yaml"))
    assert error.value.exit_code == 5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("x=nothing.npy", "there is no file 'nothing.npy'"),
        ("lone.npy", "expected NAME=FILE.npy or FILE.npz"),
    ],
)
def test_inputs_are_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("lone.npy", np.zeros(1))
    with pytest.raises(UsageError, match=said):
        run.run(arguments(input=[given]))


def test_outputs_are_files_or_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="there is no folder 'no'"):
        run.run(arguments(output=["y=no/out.npy"]))
    with pytest.raises(UsageError, match=r"expected NAME=FILE\.npy, or a folder"):
        run.run(arguments(output=["out.npz"]))


@pytest.mark.parametrize("text", ["8x3", "x=8xx3", "x=8,3", "x=a"])
def test_shapes_are_names_and_numbers(text: str) -> None:
    with pytest.raises(UsageError, match="expected NAME=8x3x224x224"):
        bench.run(arguments(shapes=[text]))


def test_a_measurement_prints_as_a_table() -> None:
    times = dict.fromkeys(("min", "mean", "median", "p90", "p95", "p99", "max"), 0.5)
    found: dict[str, Any] = {
        "engine": "sha256:abc",
        "backend": "tensorrt",
        "gpu": {"name": "NVIDIA H200", "uuid": "GPU-1", "end": {"throttled_by": []}},
        "shapes": {"x": [8, 3]},
        "profile": 0,
        "streams": 2,
        "cuda_graph": True,
        "transfers": True,
        "queries": 1000,
        "seconds": 2.0,
        "throughput_qps": 500.0,
        "layers": [{"name": "conv", "ms": 0.4, "share": 0.8}],
        **{f"{part}_ms": times for part in ("latency", "h2d", "compute", "d2h", "enqueue")},
    }
    lines = list(bench.lines(found))
    assert "how         profile 0, 2 streams, CUDA graph" in lines
    assert "throughput  500.0 queries/s" in lines
    assert any(line.startswith("compute") and line.count("0.5000") == 7 for line in lines)
    assert "    0.4000   80.0%  conv" in lines
    assert "throttled_by nothing" in next(line for line in lines if line.startswith("gpu end"))
