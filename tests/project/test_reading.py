"""Problems of specs: all of them, of all files, whatever kind they are of."""

from __future__ import annotations

from tests.conftest import SPEC, Forge


def test_a_misspelt_key_hides_no_other_problem(forge: Forge) -> None:
    forge.spec(
        "net",
        SPEC.replace("variants:", "varants:")
        .replace("[ada]", "[adda]")
        .replace("models/net.onnx", "models/nett.onnx"),
    )
    said = forge.run("check", "specs").err
    for problem in ("varants: unknown key", "unknown target 'adda'", "'models/nett.onnx' does not"):
        assert problem in said


def test_a_wrong_value_hides_no_other_problem(forge: Forge) -> None:
    forge.spec("net", SPEC.replace("fp32}", "half}").replace("max: [8, 3", "max: [8, 4"))
    said = forge.run("check", "specs").err
    assert "found 'half'" in said
    assert "is fixed by the model: expected 3, found 3 <= 3 <= 4" in said


def test_what_is_misspelt_is_not_said_to_be_missing(forge: Forge) -> None:
    forge.spec("net", SPEC.replace("min: [1, 3, 16, 16]", "min: one"))
    said = forge.run("check", "specs").err
    assert "inputs.image.min: expected a list of dimensions" in said
    assert "1 problem\n" in said


def test_problems_of_several_files_come_together_in_the_order_of_their_places(
    forge: Forge,
) -> None:
    forge.spec("a", SPEC.replace("[ada]", "[adda]"))
    forge.spec("b", SPEC.replace("image:", "imago:"))
    lines = forge.run("check", "specs").err.splitlines()
    assert [line.partition(":")[0] for line in lines if line.startswith("specs/")] == [
        "specs/a.yaml",
        "specs/b.yaml",
    ]


def test_a_wrong_shape_of_one_variant_hides_nothing_of_another(forge: Forge) -> None:
    forge.spec(
        "net",
        SPEC + "  a: {inputs: {zz: [1, 3, 16, 16]}}\n  b: {inputs: {image: [1, three, 16, 16]}}\n",
    )
    said = forge.run("check", "specs").err
    assert "variants.b.inputs.image[1]: expected a dimension" in said
    assert "variants.a.inputs.zz: the model has no input 'zz'" in said
