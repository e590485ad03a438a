"""`check --engine` and `--latency`, and `bench` of engines in a cache: what is refused here, and on
a pretended H200 what is measured, kept, and used again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CLASSIC, SPEC, TARGETS, Forge, Result
from tests.runtime import installed
from tests.runtime.test_engine_file import has_gpu

pytest.importorskip("onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'")

_PRETENDED = """\
model:
  source: {path: models/net.onnx}
inputs:
  x: {min: [1, 4], opt: [2, 4], max: [8, 4]}
targets: [h200]
checks:
  accuracy: {data: holdout.npz, max_relative_error: 0.01}
  latency: {max_p99_ms: 1}
variants:
  good: {precision: fp32}
  bad: {precision: fp32, builder: {tf32: false}}
"""
no_gpu = pytest.mark.skipif(has_gpu(), reason="claims what is said where there is no GPU")


@pytest.fixture
def project(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> Forge:
    """Engines of two variants: one that is right, and one that is 10 % off."""
    installed.project(forge, monkeypatch.setenv, _PRETENDED)
    return forge


def command(project: Forge, *args: str | Path) -> Result:
    """In a process of its own, which finds what is pretended."""
    process = project.process(*map(str, args))
    out, err = process.communicate(timeout=120)
    return Result(process.returncode, out, err)


def numbers(project: Forge) -> list[int]:
    """Of all measurements in the cache."""
    found = project.cache.glob("entries-v1/latency/*/*/manifest.json")
    return sorted(json.loads(path.read_text())["key_document"]["number"] for path in found)


def entry_of(project: Forge, variant: str) -> Path:
    found = command(project, "show", "specs", "--variant", variant, "--json")
    path: str = found.json[0]["path"]
    return project.root / path


@no_gpu
def test_a_host_without_the_gpu_checks_no_engine(built: Forge) -> None:
    built.spec("net", SPEC + "checks: {latency: {max_p99_ms: 5}}\n")
    result = built.run("check", "specs", "--latency")
    assert result.code == 5
    assert result.out == (
        "skipped  net/fp32@ada  the target is for compute capability 8.9, and no GPU of this host "
        "has that\n"
    )


@no_gpu
def test_a_target_of_another_host_is_said_to_be(forge: Forge) -> None:
    forge.spec("targets", TARGETS + CLASSIC)
    forge.spec("net", SPEC.replace("[ada]", "[h200]") + "checks: {latency: {max_p99_ms: 5}}\n")
    result = forge.run("check", "specs", "--latency", "--json")
    assert result.code == 5
    (variant,) = result.json["variants"]
    assert (variant["check"], variant["outcome"], variant["unfit"]) == ("latency", "skipped", True)
    assert "classic TensorRT" in variant["why"]


def test_without_a_check_in_the_spec_there_is_nothing_to_do(built: Forge) -> None:
    result = built.run("check", "specs", "--latency", "--engine")
    assert result.code == 0
    assert [line.split("  ")[-1].strip() for line in result.out.splitlines()] == [
        "its spec has no accuracy check",
        "there is no latency check for it",
    ]


def test_measuring_again_is_for_latency(forge: Forge) -> None:
    result = forge.run("check", "specs", "--engine", "--again")
    assert result.code == 2
    assert "give --latency as well" in result.err


def test_show_says_that_latency_was_not_measured(built: Forge) -> None:
    built.spec("net", SPEC + "checks: {latency: {max_p99_ms: 5}}\n")
    result = built.run("show", "specs")
    assert "  latency    not measured: engineforge check --latency\n" in result.out
    assert built.run("show", "specs", "--json").json[0]["engine_checks"] is None


def test_engines_are_compared_with_their_sources_once(project: Forge) -> None:
    first = command(project, "check", "specs", "--engine")
    assert first.code == 1
    good, bad = first.out.splitlines()
    assert good.startswith("passed   net/good@h200  ")
    assert "relative error 0, SQNR inf dB; 8 samples" in good
    assert bad.startswith("FAILED   net/bad@h200   ")
    assert "  relative_error of 'y' is 0.1, expected at most 0.01\n" in first.err
    assert first.err.count(": measuring") == 2
    again = command(project, "check", "specs", "--engine")
    assert (again.code, again.out) == (1, first.out)
    assert "measuring" not in again.err
    shown = command(project, "show", "specs", "--json").json
    assert [each["engine_checks"].partition(":")[0] for each in shown] == ["passed", "FAILED"]


def test_what_was_measured_is_held_to_what_is_asked_today(project: Forge) -> None:
    assert command(project, "check", "specs", "--engine").code == 1
    project.edit("net", "max_relative_error: 0.01", "max_relative_error: 0.2")
    result = command(project, "check", "specs", "--engine")
    assert result.code == 0
    assert "measuring" not in result.err


def test_an_engine_that_is_not_built_fails_its_check(project: Forge) -> None:
    shutil.rmtree(entry_of(project, "good"))
    result = command(project, "check", "specs", "--engine", "--variant", "good")
    assert result.code == 1
    assert result.out.startswith("FAILED   net/good@h200  in stage engine")
    assert "it is not built, or not up to date: `engineforge build` builds it" in result.err


@pytest.mark.slow
def test_latency_is_measured_once_and_again_when_asked(project: Forge) -> None:
    check = ("check", "specs", "--latency", "--variant", "good")
    first = command(project, *check)
    assert first.code == 0
    assert first.out == (
        "passed   net/good@h200  p99 0.75 ms (max 1), median 0.75 ms; at opt, x 2x4; NVIDIA H200\n"
    )
    kept = command(project, *check)
    assert kept.out == first.out[:-1] + ", measured before\n"
    assert numbers(project) == [0]
    project.edit("net", "max_p99_ms: 1", "max_p99_ms: 0.5")
    failed = command(project, *check)
    assert failed.code == 1
    assert "  p99 is 0.75 ms, expected at most 0.5 ms\n" in failed.err
    assert "measuring" not in failed.err
    again = command(project, *check, "--again")
    assert again.code == 1
    assert "measured before" not in again.out
    assert numbers(project) == [0, 1]
    assert command(project, "show", "specs", "--variant", "good", "--json").json[0]["latency"] == (
        "FAILED: p99 is 0.75 ms, expected at most 0.5 ms"
    )


@pytest.mark.slow
def test_a_comparison_measures_the_other_variant_too(project: Forge) -> None:
    project.edit("net", "{max_p99_ms: 1}", "{max_slower: {than: good, percent: 10}}")
    result = command(project, "check", "specs", "--latency", "--variant", "bad", "--json")
    assert result.code == 0
    (bad,) = result.json["variants"]
    assert bad["outcome"] == "passed"
    assert bad["than"]["engine"] != bad["measured"]["engine"]
    assert result.err.splitlines() == ["net/bad@h200: measuring", "net/good@h200: measuring"]
    manifests = project.cache.glob("entries-v1/latency/*/*/manifest.json")
    leased = {json.loads(path.read_text())["record"]["gpu"]["leased"][0] for path in manifests}
    assert len(leased) == 1
    again = command(project, "check", "specs", "--latency")
    assert again.out.splitlines()[0].startswith("skipped  net/good@h200  there is no latency check")
    assert "+0.0 % against 'good' (max +10 %)" in again.out.splitlines()[1]
    assert "measuring" not in again.err


def test_a_comparison_with_what_is_not_built_fails(project: Forge) -> None:
    project.edit("net", "{max_p99_ms: 1}", "{max_slower: {than: bad, percent: 10}}")
    shutil.rmtree(entry_of(project, "bad"))
    result = command(project, "check", "specs", "--latency", "--variant", "good")
    assert result.code == 1
    assert "'bad', which it is compared with, cannot be measured: it is not built" in result.err


def bench(project: Forge, *args: str | Path) -> Result:
    return command(project, "bench", *args, "--duration", "0.1", "--warm-up", "10")


def test_bench_keeps_every_measurement_of_an_engine_in_a_cache(project: Forge) -> None:
    first = bench(project, "specs", "--variant", "good", "--json")
    assert first.code == 0, first.err
    assert first.json["kept"]["number"] == 0
    second = bench(project, entry_of(project, "good"))
    assert second.code == 0, second.err
    assert "number 1 of this engine on such a GPU\n" in second.out
    assert bench(project, entry_of(project, "good") / "model.engine", "--json").json["kept"]
    assert numbers(project) == [0, 1, 2]
    kept = Path(first.json["kept"]["path"]) / "measured.json"
    told: dict[str, Any] = json.loads((project.root / kept).read_text())
    assert {**told, "kept": first.json["kept"]} == first.json


def test_bench_of_a_loose_file_keeps_nothing_and_says_so(project: Forge) -> None:
    loose = project.root / "loose.engine"
    shutil.copy(entry_of(project, "good") / "model.engine", loose)
    digest = command(project, "show", loose, "--json").json[0]["files"]["model.engine"]["sha256"]
    result = bench(project, loose, "--sha256", digest)
    assert result.code == 0, result.err
    assert "note: this engine is in no cache: nothing was kept" in result.err
    assert "kept  " not in result.out
    assert numbers(project) == []


def test_bench_of_a_gpu_that_is_not_there_is_refused(project: Forge) -> None:
    result = bench(project, "specs", "--variant", "good", "--gpu", "7")
    assert result.code == 5
    assert "there is no GPU '7': this host shows 0 (GPU-11111111-" in result.err


def test_bench_of_another_engine_than_was_asked_for_is_refused(project: Forge) -> None:
    digest = "sha256:" + 64 * "0"
    result = bench(project, "specs", "--variant", "good", "--sha256", digest)
    assert result.code == 1
    assert f"and {digest} was asked for" in result.err
    assert numbers(project) == []
