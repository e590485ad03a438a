"""`check --accuracy`, and what `show` tells of it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.cli.test_progress import on_a_terminal
from tests.conftest import Forge
from tests.project.test_converting import entries, project, ready

__all__ = ["entries", "project", "ready"]

pytest.importorskip("onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'")
_CHECK = ("check", "specs", "--accuracy")


def test_notes_are_said_before_anything_is_measured(project: Forge) -> None:
    _with_a_float64_output(project.model)
    result = project.run(*_CHECK, "--variant", "fp32")
    assert result.code == 0
    lines = result.err.splitlines()
    assert lines[0].startswith("note: ")
    assert "is float32 in the engine" in lines[0]
    assert "net/fp32@ada: measuring" in lines[1:]
    again = project.run(*_CHECK, "--json", "--variant", "fp32")
    assert len(again.json["notes"]) == 1
    assert "note: " not in again.err


def _with_a_float64_output(path: Path) -> None:
    """Something to note, of a network that is else the same."""
    model = onnx.load(path)
    double = onnx.TensorProto.DOUBLE
    node = onnx.helper.make_node("Cast", ["logits"], ["double"], name="/double", to=double)
    model.graph.node.append(node)
    output = onnx.helper.make_tensor_value_info("double", double, ["batch", 10])
    model.graph.output.append(output)
    onnx.save(model, path)


def test_a_bad_spec_stops_every_check(project: Forge) -> None:
    project.spec("bad", "model: {}\n")
    result = project.run(*_CHECK)
    assert (result.code, result.out) == (2, "")
    assert "specs/bad.yaml:1:1" in result.err


def test_keep_going_checks_the_sound_specs(project: Forge) -> None:
    project.spec("bad", "model: {}\n")
    result = project.run(*_CHECK, "--keep-going")
    assert result.code == 2
    assert "specs/bad.yaml:1:1" in result.err
    assert [line.split()[:2] for line in result.out.splitlines()] == [
        ["passed", f"net/{name}@ada"] for name in ("fp32", "fp16", "int8")
    ]
    found = project.run(*_CHECK, "--keep-going", "--json")
    assert found.code == 2
    assert [each["file"] for each in found.json["problems"]] == ["specs/bad.yaml"]
    assert set(found.outcomes().values()) == {"passed"}


def test_each_variant_is_measured_for_one_target_and_told_for_all(project: Forge) -> None:
    project.edit("net", "[ada]", "[ada, ampere]")
    result = project.run(*_CHECK, "--variant", "int8")
    assert result.err.splitlines() == ["net/int8@ada: converting", "net/int8@ada: measuring"]
    assert [line.split()[1] for line in result.out.splitlines()] == [
        "net/int8@ada",
        "net/int8@ampere",
    ]


def test_a_terminal_counts_what_is_measured(project: Forge) -> None:
    project.edit("net", "[ada]", "[ada, ampere]")
    said = on_a_terminal(project, *_CHECK)
    assert "of 3 done" in said
    assert "of 6 done" not in said


def test_help_says_what_means_something_only_where_checks_run(project: Forge) -> None:
    said = " ".join(project.run("check", "--help").out.split())
    assert said.count("with one of these: ") == 3


def test_engines_are_shown_without_the_data_of_their_checks(ready: Forge) -> None:
    (ready.specs / "holdout.npz").unlink()
    result = ready.run("show", "specs")
    assert result.code == 0, result.err
    assert [line for line in result.out.splitlines() if line.startswith("net/")] == [
        f"net/{name}@ada" for name in ("fp32", "fp16", "int8")
    ]
    assert result.out.count("  checks     accuracy cannot be told: ") == 3
    assert "holdout.npz" in result.err
    assert result.err.startswith("note: ")
    assert ready.run("check", "specs").code == 2
