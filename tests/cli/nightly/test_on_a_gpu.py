"""Nights where there is a GPU: on a pretended H200, as in tests/runtime/installed.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")

from tests.cli.nightly.nights import cases
from tests.conftest import Forge
from tests.runtime import installed

_SPEC = """\
model:
  source: {path: models/net.onnx}
inputs:
  x: {min: [1, 4], opt: [2, 4], max: [8, 4]}
targets: [h200]
checks:
  accuracy: {data: holdout.npz, max_relative_error: 0.01}
  latency: {max_p99_ms: 0.000001}
variants:
  good: {precision: fp32}
  bad:
    precision: fp32
    builder: {tf32: false}
    checks: {latency: {max_p99_ms: 1000}}
"""


def _night(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> tuple[int, dict[tuple[str, str], str]]:
    """One, in which one of two engines is 10 % off, and the other too slow: its exit code, and its
    cases."""
    installed.project(forge, monkeypatch.setenv, _SPEC)
    process = forge.process("nightly", "specs", "-o", "nights")
    out, err = process.communicate(timeout=120)
    assert process.returncode in (0, 1), out + err
    return process.returncode, cases(forge)


def _finished(forge: Forge) -> list[dict[str, Any]]:
    text = (forge.root / "nights" / "latest" / "events.jsonl").read_text()
    return [each for each in map(json.loads, text.splitlines()) if each["event"] == "finished"]


@pytest.mark.slow
def test_engines_are_checked_and_measured_and_what_is_wrong_or_slow_fails(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, found = _night(forge, monkeypatch)
    assert code == 1
    assert found["engine", "net/good@h200"] == "Passed"
    assert found["engine", "net/bad@h200"] == "Failure"
    assert found["latency", "net/good@h200"] == "Failure"
    assert found["latency", "net/bad@h200"] == "Passed"
    checks = {(each["label"], each.get("check")): each["outcome"] for each in _finished(forge)}
    assert checks["net/bad@h200", "engine"] == "failed"
    assert checks["net/good@h200", "latency"] == "failed"
