"""What a child is asked: arrays from files and into files, on a pretended GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engineforge.errors import EngineForgeError, UsageError
from engineforge.runtime.engine import Engine
from engineforge.runtime.operations import OPERATIONS
from tests.runtime.pretend import PretendCuda, PretendLoaded, pretend_engine
from tests.runtime.test_engine import cuda, interface, x, y

__all__ = ["cuda"]  # a fixture

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(
    cuda: PretendCuda,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Ask:
    def load(path: Path, **_: object) -> Engine:
        return pretend_engine(PretendLoaded(cuda, interface(2, 8)))

    monkeypatch.setattr(Engine, "load", load)

    def asked(op: str, **more: object) -> dict[str, Any]:
        return OPERATIONS[op]({"engine": "e", "log": str(tmp_path / "log"), **more})

    return asked


def test_run_reads_and_writes_files(ask: Ask, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x(3))
    told = ask(
        "run",
        inputs={"x": str(tmp_path / "x.npy")},
        outputs={"y": str(tmp_path / "out")},
        folder=str(tmp_path),
    )
    assert np.array_equal(np.load(tmp_path / "out"), y(x(3)))
    assert np.array_equal(np.load(tmp_path / "y.npy"), y(x(3)))
    assert told["outputs"]["y"]["shape"] == [3, 4]
    assert told["outputs"]["y"]["max"] == y(x(3)).max()


def test_run_reads_archives(ask: Ask, tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", x=x(3))
    assert ask("run", archives=[str(tmp_path / "all.npz")])["outputs"]["y"]["finite"]


def test_an_output_that_is_not_there_is_told_before_it_runs(
    ask: Ask,
    cuda: PretendCuda,
    tmp_path: Path,
) -> None:
    np.save(tmp_path / "x.npy", x(3))
    with pytest.raises(UsageError, match="the engine has no output 'z'"):
        ask("run", inputs={"x": str(tmp_path / "x.npy")}, outputs={"z": "out.npy"})
    assert cuda.launches == 0


def test_files_that_are_no_arrays_are_told(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"not an array")
    with pytest.raises(EngineForgeError, match=r"x\.npy' cannot be read as NumPy wrote it"):
        ask("run", inputs={"x": str(tmp_path / "x.npy")})
    np.savez(tmp_path / "all.npz", x=x(3))
    with pytest.raises(UsageError, match="is an archive: give it without 'x='"):
        ask("run", inputs={"x": str(tmp_path / "all.npz")})


def test_a_load_test_runs_every_profile_once(ask: Ask, cuda: PretendCuda) -> None:
    told = ask("load-test")
    assert [run["outputs"]["y"]["shape"] for run in told["runs"]] == [[2, 4], [8, 4]]
    assert cuda.launches == 2


def test_bench_tells_engine_gpu_and_times(ask: Ask) -> None:
    asked = {"shapes": {"x": [5, 4]}, "duration_s": 0.01, "warm_up_ms": 1, "profile": None}
    told = ask("bench", measure=asked)
    assert told["profile"] == 1
    assert told["gpu"]["name"] == "Pretend"
    assert told["compute_ms"]["median"] == 0.25
    assert "unread" in told["gpu"]["end"]  # no such GPU here
