"""`engineforge build --prepare`: all that needs no GPU is done, for hosts that have one."""

from __future__ import annotations

import pytest

from engineforge.store.local import LocalStore
from engineforge.store.manifest import Manifest
from tests.conftest import CLASSIC, SPEC, TARGETS, Forge

pytest.importorskip("onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'")


@pytest.fixture
def classic(forge: Forge) -> Forge:
    """Two variants, one of which is converted, for a target that this host cannot build."""
    forge.spec("targets", TARGETS + CLASSIC)
    forge.spec("net", SPEC.replace("[ada]", "[h200]") + "  fp16: {precision: fp16}\n")
    return forge


@pytest.fixture
def prepared(classic: Forge) -> Forge:
    assert classic.build("--prepare").code == 0
    return classic


def _stages(forge: Forge) -> dict[str, list[str]]:
    """Which stages each variant has to run, planned afresh."""
    return {each["variant"]: each["stages"] for each in forge.plan()}


def test_variants_of_other_hosts_are_prepared_and_nothing_is_built(classic: Forge) -> None:
    result = classic.build("--prepare")
    assert result.code == 0, result.err
    assert result.outcomes() == {"fp32@h200": "prepared", "fp16@h200": "prepared"}
    assert LocalStore(classic.cache).stages() == ["onnx", "typed"]


def test_what_is_prepared_is_the_entry_that_is_named(classic: Forge) -> None:
    store = LocalStore(classic.cache)
    for each in classic.build("--prepare").json["variants"]:
        entries = {entry.manifest.key for entry in store.entries(each["stage"])}
        assert each["entry"] in entries
        assert each["stage"] == {"fp32": "onnx", "fp16": "typed"}[each["variant"]]


def test_before_it_every_stage_is_to_run(classic: Forge) -> None:
    assert _stages(classic) == {"fp32": ["onnx", "engine"], "fp16": ["onnx", "typed", "engine"]}


def test_after_it_only_the_engine_is_left(prepared: Forge) -> None:
    assert _stages(prepared) == {"fp32": ["engine"], "fp16": ["engine"]}


def test_preparing_again_makes_nothing_new(prepared: Forge) -> None:
    before = sorted(prepared.cache.glob("entries-v1/*/*/*"))
    assert prepared.build("--prepare").outcomes() == {
        "fp32@h200": "prepared",
        "fp16@h200": "prepared",
    }
    assert sorted(prepared.cache.glob("entries-v1/*/*/*")) == before


def test_without_it_such_variants_are_skipped(prepared: Forge) -> None:
    result = prepared.build()
    assert set(result.outcomes().values()) == {"skipped"}
    assert result.code == 5


def test_what_this_host_could_build_is_not_built_either(classic: Forge) -> None:
    classic.edit("net", "[h200]", "[ada, h200]")
    assert set(classic.build("--prepare").outcomes().values()) == {"prepared"}
    assert classic.engines() == []


def test_what_was_prepared_is_built_from_that(classic: Forge) -> None:
    classic.edit("net", "[h200]", "[ada]")
    classic.build("--prepare")
    prepared = sorted(classic.cache.glob("entries-v1/typed/*/*"))
    assert classic.build().outcomes() == {"fp32@ada": "built", "fp16@ada": "built"}
    assert sorted(classic.cache.glob("entries-v1/typed/*/*")) == prepared


def test_what_is_built_already_stays_up_to_date(built: Forge) -> None:
    assert built.build("--prepare").outcomes() == {"fp32@ada": "reused"}


def test_a_line_for_each_variant_says_what_is_there(classic: Forge) -> None:
    result = classic.run("build", "specs", "--prepare")
    assert result.code == 0
    entries = {each.stage: each for each in _entries(classic)}
    lines = result.out.splitlines()
    assert [line.split() for line in lines] == [
        ["net/fp32@h200", "prepared,", "onnx", entries["onnx"].key.short],
        ["net/fp16@h200", "prepared,", "typed", entries["typed"].key.short],
    ]


def _entries(forge: Forge) -> list[Manifest]:
    store = LocalStore(forge.cache)
    return [entry.manifest for stage in store.stages() for entry in store.entries(stage)]


def test_a_model_that_cannot_be_converted_fails_before_any_gpu_is_taken(classic: Forge) -> None:
    classic.edit("net", "precision: fp16", "precision: fp16, keep_fp32: [/none/*]")
    result = classic.build("--prepare")
    assert result.code == 2
    assert "'/none/*'" in result.err
