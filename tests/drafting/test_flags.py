"""Every flag of every trtexec has a place, or says why it has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engineforge.backends.options import BY_NAME
from engineforge.drafting.draft import Findings, Untranslated
from engineforge.drafting.flags import FLAGS, OPTION_FLAGS, TAKES_VALUE
from engineforge.drafting.measuring import measuring
from engineforge.drafting.shell import Command
from engineforge.drafting.trtexec import translate

VERSIONS = json.loads((Path(__file__).parent / "trtexec_flags.json").read_text())
# TensorRT's API has these, and no trtexec sets them.
_NO_FLAG = {
    "debug",
    "editable_timing_cache",
    "refit_identical",
    "refit_individual",
    "reject_empty_algorithms",
    "require_user_allocation",
    "strict_nans",
    "tactic_dram",
}
_OLDER = {"strictTypes"}  # of 8.2, and still written
_VALUES = {
    "minShapes": "x:1",
    "optShapes": "x:1",
    "maxShapes": "x:1",
    "shapes": "x:1",
    "memPoolSize": "workspace:1",
    "workspace": "1",
    "sparsity": "enable",
    "precisionConstraints": "obey",
    "layerPrecisions": "a:fp32",
    "layerOutputTypes": "a:fp32",
    "layerDeviceTypes": "a:GPU",
    "tacticSources": "-CUDNN",
    "preview": "+aliasedPluginIO1003",
    "profilingVerbosity": "detailed",
    "nvtxMode": "verbose",
    "hardwareCompatibilityLevel": "none",
    "runtimePlatform": "SameAsBuild",
    "inputIOFormats": "fp32:chw",
    "outputIOFormats": "fp32:chw",
}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_flag_of_a_version_is_known(version: str) -> None:
    assert not set(VERSIONS[version]["flags"]) - set(FLAGS)


def test_no_flag_is_made_up() -> None:
    known = {flag for each in VERSIONS.values() for flag in each["flags"]}
    assert set(FLAGS) - known == _OLDER


def test_every_builder_option_has_its_flags_or_has_none_in_trtexec() -> None:
    assert set(BY_NAME) - set(OPTION_FLAGS) == _NO_FLAG
    assert set(OPTION_FLAGS) <= set(BY_NAME)


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_a_flag_is_in_the_spec_or_in_a_note(name: str) -> None:
    value = f"={_VALUES.get(name, '1')}" if name in TAKES_VALUE else ""
    dashes = "" if name.startswith("-") else "--"
    alone = Command(arguments=("--onnx=m.onnx",))
    arguments = () if name == "onnx" else (f"{dashes}{name}{value}",)
    command = Command(arguments=("--onnx=m.onnx", *arguments))

    def values(of: Command) -> object:
        return translate(of, interface=None, targets={}, place=lambda path: path).values

    try:
        draft = translate(command, interface=None, targets={}, place=lambda path: path)
    except Untranslated as error:
        assert name in {reason.flag for reason in error.reasons}
        return
    noted = [note for note in draft.notes if note.flag == name]
    changes = draft.values != values(alone) or name in ("onnx", "stronglyTyped", "profile")
    defaults = name in ("inputIOFormats", "outputIOFormats")
    assert noted or changes or defaults
    assert all(note.text for note in noted)


def test_flags_that_are_measured_with_are_arguments_of_bench() -> None:
    found = measuring([("duration", "5"), ("noDataTransfers", None)], Findings())
    assert found == ["--duration", "5", "--no-transfers"]
