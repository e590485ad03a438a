"""`engineforge sensitivity` on the small network, from the command line to the drawing."""

from __future__ import annotations

import importlib.util

import pytest

from tests.conftest import Forge
from tests.project.test_converting import SPEC, project

__all__ = ["project"]

pytest.importorskip("onnxruntime", reason="needs: python -m pip install 'engineforge[precision]'")
_INT8 = ("sensitivity", "specs", "--variant", "int8")


def test_the_layers_of_each_converted_variant_are_a_table(project: Forge) -> None:
    result = project.run("sensitivity", "specs")
    assert result.code == 0, result.err
    heads = [line for line in result.out.splitlines() if not line.startswith("  ")]
    assert heads == [
        f"net/{name}@ada: what each layer costs alone, over 32 samples" for name in ("fp16", "int8")
    ]
    assert "  /head/Gemm  Gemm" in result.out
    assert "net/int8@ada: converting\n" in result.err
    assert "net/int8@ada: measuring\n" in result.err
    assert project.engines() == []


def test_a_variant_is_ranked_for_one_target(project: Forge) -> None:
    project.edit("net", "[ada]", "[ada, ampere]")
    (variant,) = project.run(*_INT8, "--json").json["variants"]
    assert variant["target"] == "ada"


def test_as_json_the_costliest_layer_is_first(project: Forge) -> None:
    result = project.run(*_INT8, "--json")
    assert result.code == 0, result.err
    (variant,) = result.json["variants"]
    assert variant["outcome"] == "ranked"
    assert variant["entry"].startswith("sha256:")
    layers = variant["measured"]["layers"]
    assert {each["layer"] for each in layers} == {"/conv/Conv", "/head/Gemm"}
    costs = [each["relative_error"] for each in layers]
    assert costs == sorted(costs, reverse=True)


def test_layers_are_measured_once(project: Forge) -> None:
    first = project.run(*_INT8)
    again = project.run(*_INT8)
    assert again.out == first.out
    assert "measuring" not in again.err
    assert len(list(project.cache.glob("entries-v1/sensitivity/*/*"))) == 1


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None,
    reason="needs: python -m pip install 'engineforge[plot]'",
)
def test_they_are_drawn(project: Forge) -> None:
    result = project.run(*_INT8, "--plot", "drawn.svg")
    assert result.code == 0, result.err
    drawn = (project.root / "drawn.svg").read_text()
    assert "/head/Gemm (Gemm)" in drawn
    assert "net/int8@ada" in drawn


def test_several_variants_are_not_drawn_into_one(project: Forge) -> None:
    result = project.run("sensitivity", "specs", "--plot", "drawn.svg")
    assert result.code == 2
    assert "--plot draws one variant, and these are 2" in result.err
    assert "choose one with --variant: fp16, int8" in result.err
    assert not (project.root / "drawn.svg").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  fp16: {precision: fp16}\n  int8: {precision: int8}\n", ""),
        ("checks:\n  accuracy: {data: holdout.npz, max_relative_error: 0.1}\n", ""),
    ],
    ids=["not converted", "not checked"],
)
def test_there_must_be_something_to_rank(project: Forge, old: str, new: str) -> None:
    assert old in SPEC
    project.edit("net", old, new)
    result = project.run("sensitivity", "specs")
    assert result.code == 2
    assert "no variant of these is both converted and checked" in result.err


def test_keep_going_ranks_what_is_sound(project: Forge) -> None:
    project.spec("bad", "model: {}\n")
    assert project.run(*_INT8).out == ""
    result = project.run(*_INT8, "--keep-going")
    assert result.code == 2
    assert "specs/bad.yaml:1:1" in result.err
    assert result.out.startswith("net/int8@ada: what each layer costs alone")
