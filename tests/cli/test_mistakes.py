"""What a newcomer gets wrong is answered with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import SPEC, Forge


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "`engineforge init MODEL.onnx` to begin with"),
        ("biuld", "did you mean 'build'?"),
        ("build --varient fp32", "did you mean '--variant'?"),
        ("build --help-me", "`engineforge build --help` lists what there is"),
        ("cache stat", "did you mean 'stats'?"),
        ("completion zhs", "did you mean 'zsh'?"),
        ("build specs/nett.yaml", "did you mean 'specs/net.yaml'?"),
        ("build spec", "did you mean 'specs'?"),
        ("build nowhere", "`engineforge init MODEL.onnx` writes a first one"),
        ("build specs/models/net.onnx", "`engineforge init specs/models/net.onnx` writes a spec"),
        ("plan specs/a.engine", "`engineforge show specs/a.engine` says what that engine is"),
        ("build --variant fp23", "did you mean 'fp32'?"),
        ("build --target adda", "did you mean 'ada'?"),
        ("plan --with tensorrt=11", "such as --with tensorrt=11.4.0.106"),
        ("init specs/models/net.pt", "give an ONNX file"),
        ("show net.engine", "`engineforge plan` prints keys"),
        ("report", "engineforge report -o report.html"),
        ("report -o nowhere/report.html", "make the folder first"),
        ("promote --to staging", "name environments in it, such as"),
    ],
)
def test_a_wrong_line_is_answered_with_a_right_one(forge: Forge, line: str, said: str) -> None:
    (forge.specs / "a.engine").write_bytes(b"")
    result = forge.run(*line.split())
    assert result.code == 2
    assert f"hint: {said}" in result.err or said in result.err.partition("hint: ")[2]
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("inputs:", "input:", "did you mean 'inputs'?"),
        ("image:", "images:", "did you mean 'image'?"),
        ("min: [1, 3, 16, 16], ", "", "they may be equal; where nothing varies, write one list"),
        ("  image: {", "  image: [8, 3]\nx: {", "there is: "),
        ("targets: [ada]", "targets: ada", "write [ada]"),
        ("targets: [ada]", "", "such as targets: [ada, ampere]"),
        ("precision: fp32", "precision: float16", "did you mean 'fp16'?"),
        ("precision: fp32", "precision: FP16", "did you mean 'fp16'?"),
        ("precision: fp32", "precision: int8", "write calibration: {data: samples.npz}"),
        ("precision: fp32", "fp16: true", "write precision: fp16"),
        ("{precision: fp32}", "{builder: {workspace: 4GB}}", "in powers of 1024: 4GiB"),
        ("source: {path: models/net.onnx}", "path: models/net.onnx", "source: {path: …}"),
        ("model:\n  source: {path: models/net.onnx}", "model: net.onnx", "{source: {path: FILE"),
        ("models/net.onnx", "model/net.onnx", "did you mean 'models/net.onnx'?"),
        ("models/net.onnx", "outside.onnx", "relative to the spec: write ../outside.onnx"),
        ("models/net.onnx", "short.onnx", "is it the whole file? It has 8 bytes"),
    ],
)
def test_a_wrong_spec_is_answered_with_what_to_write(
    forge: Forge, old: str, new: str, said: str
) -> None:
    (forge.root / "outside.onnx").write_bytes(forge.model.read_bytes())
    (forge.specs / "short.onnx").write_bytes(b"no model")
    forge.edit("net", old, new)
    result = forge.run("build")
    assert result.code == 2
    assert "\nhint: " in result.err
    assert said in result.err


@pytest.mark.parametrize("name", ["a\n::set-env name=PATH::x", "a\rb"])
def test_a_spec_whose_name_has_several_lines_is_left_out(forge: Forge, name: str) -> None:
    (forge.specs / name).mkdir()
    (forge.specs / "net.yaml").rename(forge.specs / f"{name}.yaml")
    (forge.specs / name / "net.yaml").write_text((forge.specs / f"{name}.yaml").read_text())
    forge.spec("fine", SPEC)
    for what in ("specs", f"specs/{name}.yaml", f"specs/{name}", f"specs/{name}/net.yaml"):
        result = forge.run("plan", what)
        assert result.code == 2
        assert "a name of several lines" in result.err
        assert "\n::" not in result.out + result.err
        assert "\r" not in result.out + result.err
    result = forge.build("--keep-going")
    assert (result.code, result.outcomes()) == (2, {"fp32@ada": "built"})


def test_no_url_is_repeated(forge: Forge) -> None:
    result = forge.run("build", "--remoet=https://key:word@example.com/x")
    assert "did you mean '--remote'?" in result.err
    assert "word" not in result.err


def test_a_path_is_told_as_it_was_typed(forge: Forge, tmp_path: Path) -> None:
    assert (
        f"did you mean '{tmp_path}/specs/net.yaml'?"
        in forge.run("build", tmp_path / "specs" / "nett.yaml").err
    )
