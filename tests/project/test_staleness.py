"""What makes an engine stale, and what does not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx
import pytest

from tests.conftest import SPEC, TARGETS, Forge
from tests.models import convnet


def test_a_second_build_does_nothing(built: Forge) -> None:
    result = built.build()
    assert result.code == 0
    assert result.outcomes() == {"fp32@ada": "reused"}
    assert result.json["effort"] == {"files_hashed": 0, "bytes_hashed": 0, "specs_parsed": 0}


def _reformatted(forge: Forge) -> None:
    forge.spec(
        "net", "# a comment\n\n" + SPEC.replace("{precision: fp32}", "\n    precision: 'fp32'")
    )


def _renamed_spec(forge: Forge) -> None:
    (forge.specs / "net.yaml").rename(forge.specs / "other.yaml")


def _renamed_variant(forge: Forge) -> None:
    forge.edit("net", "  fp32: {", "  exact: {")


def _renamed_model(forge: Forge) -> None:
    forge.model.rename(forge.model.with_name("other.onnx"))
    forge.edit("net", "net.onnx", "other.onnx")


def _renamed_target(forge: Forge) -> None:
    forge.spec("targets", TARGETS.replace("ada:", "lovelace:"))
    forge.edit("net", "[ada]", "[lovelace]")


def _touched(forge: Forge) -> None:
    for path in forge.root.rglob("*.*"):
        os.utime(path, (1, 1))


def _thresholds(forge: Forge) -> None:
    forge.spec("net", SPEC + "checks: {latency: {max_p99_ms: 5.5}}\n")


def _described(forge: Forge) -> None:
    forge.spec("net", "description: what it is for\n" + SPEC)


def _default_written_out(forge: Forge) -> None:
    forge.spec("net", SPEC + "builder: {tf32: true, workspace: 64GiB}\n")


def _at_the_top_or_in_defaults(forge: Forge) -> None:
    forge.spec("net", SPEC.replace("targets: [ada]", "defaults: {targets: [ada]}"))


def _index_deleted(forge: Forge) -> None:
    (forge.cache / "index").unlink()


@pytest.mark.parametrize(
    "change",
    [
        _reformatted,
        _renamed_spec,
        _renamed_variant,
        _renamed_model,
        _renamed_target,
        _touched,
        _thresholds,
        _described,
        _default_written_out,
        _at_the_top_or_in_defaults,
        _index_deleted,
    ],
)
def test_what_changes_no_engine_rebuilds_none(built: Forge, change: object) -> None:
    assert callable(change)
    change(built)
    result = built.build()
    assert result.code == 0, result.err
    assert set(result.outcomes().values()) == {"reused"}


def test_moving_the_repository_rebuilds_nothing(
    built: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("specs", "cache"):
        shutil.copytree(tmp_path / name, moved / name)
    monkeypatch.chdir(moved)
    assert built.build("-j", "3").outcomes() == {"fp32@ada": "reused"}


def test_an_export_that_differs_in_documentation_only_rebuilds_no_engine(built: Forge) -> None:
    convnet(built.model, doc="exported on a Tuesday", producer="another exporter")
    assert built.changes() == {"fp32@ada": ["model 'net.onnx'"]}
    result = built.build()
    assert result.outcomes() == {"fp32@ada": "reused"}
    assert "nothing that it depends on has changed" in result.json["variants"][0]["why"]
    assert built.build().json["effort"]["files_hashed"] == 0


def test_one_weight_byte_makes_exactly_that_model_stale(built: Forge) -> None:
    convnet(built.specs / "models" / "second.onnx", seed=1)
    built.spec("second", SPEC.replace("net.onnx", "second.onnx"))
    built.build()
    data = bytearray(built.model.read_bytes())
    weights = onnx.load(built.model).graph.initializer[0].raw_data
    data[data.index(weights) + 5] ^= 1
    built.model.write_bytes(data)
    assert [v["spec"] for v in built.plan() if v["state"] == "stale"] == ["net"]
    result = built.build()
    assert [v["outcome"] for v in result.json["variants"]] == ["built", "reused"]


def test_one_external_data_byte_makes_it_stale_and_is_named(forge: Forge) -> None:
    convnet(forge.model, external="weights.bin")
    assert forge.build().outcomes() == {"fp32@ada": "built"}
    weights = forge.model.with_name("weights.bin")
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    assert forge.changes() == {"fp32@ada": ["external data 'weights.bin'"]}
    assert forge.build().outcomes() == {"fp32@ada": "built"}


def test_renaming_external_data_rebuilds_nothing(forge: Forge) -> None:
    convnet(forge.model, external="weights.bin")
    forge.build()
    convnet(forge.model, external="other.bin")
    assert forge.build().outcomes() == {"fp32@ada": "reused"}


@pytest.mark.parametrize(
    ("old", "new", "leaf"),
    [
        ("max: [8, 3", "max: [9, 3", "profiles[0].image.shape.max[0]"),
        ("opt: [4, 3", "opt: [5, 3", "profiles[0].image.shape.opt[0]"),
        ("targets: [ada]", "targets: [ada]\nbuilder: {tf32: false}", "builder.tf32"),
        ("targets: [ada]", "targets: [ada]\nbuilder: {workspace: 1GiB}", "builder.workspace"),
    ],
)
def test_one_number_makes_exactly_its_leaf_stale(
    built: Forge, old: str, new: str, leaf: str
) -> None:
    built.edit("net", old, new)
    assert built.changes() == {"fp32@ada": [leaf]}


def test_another_target_makes_only_the_variants_of_that_target_stale(forge: Forge) -> None:
    forge.edit("net", "[ada]", "[ada, ampere]")
    forge.build()
    forge.edit("targets", "[8.9]", "[12.0]")
    assert forge.changes() == {"fp32@ada": ["target.compute_capabilities[0]"]}


def test_a_plan_for_another_toolchain_names_it_and_how_long_it_takes(built: Forge) -> None:
    (planned,) = built.plan("--with", "tensorrt_rtx=1.9.0.1")
    (reason,) = planned["reasons"]
    assert [change["leaf"] for change in reason["changes"]] == ["toolchain.version"]
    assert planned["expected_seconds"] > 0
    assert built.build().outcomes() == {"fp32@ada": "reused"}


def test_two_models_of_one_structure_never_share_an_engine(forge: Forge) -> None:
    convnet(forge.specs / "models" / "second.onnx", seed=1)
    forge.spec("second", SPEC.replace("net.onnx", "second.onnx"))
    result = forge.build()
    assert len({v["engine"] for v in result.json["variants"]}) == 2
    digests = {path.read_bytes() for path in forge.engines()}
    assert len(digests) == 2


def test_equal_variants_of_one_run_are_built_once(forge: Forge) -> None:
    forge.edit("net", "  fp32: {precision: fp32}", "  a: {precision: fp32}\n  b: {}")
    result = forge.build()
    assert sorted(result.outcomes().values()) == ["built", "reused"]
    assert len(forge.engines()) == 1
