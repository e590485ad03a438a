"""Every precision of every model in `specs/`: built where a GPU has it, refused where it has not,
and as accurate as specs/models/README.md says."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import Forge

ROOT = Path(__file__).parent.parent
SPECS = ROOT / "specs"
_NEEDED = {
    "rapidocr": "examples",
    "onnxruntime": "precision",
    "modelopt": "modelopt",
}
pytestmark = [
    pytest.mark.slow,
    *(
        pytest.mark.skipif(
            importlib.util.find_spec(module) is None,
            reason=f"needs: python -m pip install 'engineforge[{extra}]'",
        )
        for module, extra in _NEEDED.items()
    ),
]
NAMES = sorted(p.stem for p in SPECS.glob("*.yaml") if p.stem != "targets")
TARGETS = """\
turing: {backend: tensorrt_rtx, version: 1.7.1.116, compute_capabilities: [7.5]}
ampere: {backend: tensorrt_rtx, version: 1.7.1.116, compute_capabilities: [8.6]}
ada: {backend: tensorrt_rtx, version: 1.7.1.116, compute_capabilities: [8.9]}
"""
# Precision -> capabilities of the three targets that have it, with FP16 around what is quantized.
_HAVE = {
    "fp32": {"ampere", "ada"},
    "tf32": {"ampere", "ada"},
    "fp16": {"turing", "ampere", "ada"},
    "bf16": {"ampere", "ada"},
    "int8": {"turing", "ampere", "ada"},
    "fp8": {"ada"},
    "int4": {"ampere", "ada"},
}

# INT4 is for products with constant matrices, and these networks have none that it fits.
_NO_PRODUCTS = ("ocr-angle", "ocr-detector")


def _spec(name: str, target: str, precisions: list[str]) -> str:
    """The spec as it stands, with one variant for each precision, for one target."""
    text = (SPECS / f"{name}.yaml").read_text()
    head = re.sub(r"^targets: .*$", f"targets: [{target}]", text, flags=re.MULTILINE)
    head = head[: head.index("variants:")]
    head = re.sub(r"^(calibration: .*|calibration:(\n .*)+)\n", "", head, flags=re.MULTILINE)
    calibration = re.search(r"^calibration:( .*|(\n .*)+)\n", text, re.MULTILINE)
    assert calibration is not None
    # INT4 without data: AWQ wants samples of one shape, and pages and lines have many.
    data = " ".join(calibration[0].split())
    if not data.startswith("calibration: {"):
        data = "calibration: {" + re.sub(r" (samples|seed):", r", \1:", data[13:]) + "}"
    own = {each: "" if each not in ("int8", "fp8") else f", {data}" for each in precisions}
    variants = "".join(f"  {each}: {{precision: {each}{own[each]}}}\n" for each in precisions)
    return f"{head}variants:\n{variants}"


@pytest.fixture
def project(forge: Forge) -> Forge:
    shutil.rmtree(forge.specs)
    shutil.copytree(SPECS, forge.specs)
    for path in forge.specs.glob("*.yaml"):
        path.unlink()
    forge.spec("targets", TARGETS)
    return forge


@pytest.mark.parametrize("name", NAMES)
def test_every_precision_builds_for_a_gpu_that_has_it(project: Forge, name: str) -> None:
    project.spec(name, _spec(name, "ada", list(_HAVE)))
    result = project.build("--keep-going")
    found = result.outcomes()
    if name in _NO_PRODUCTS:
        assert found.pop("int4@ada") == "failed"
        assert "finds nothing to quantize to 'int4'" in result.out
    # TensorRT's default has TF32 on: whichever of the two comes second finds the other's engine.
    assert {found.pop("tf32@ada"), found.pop("fp32@ada")} == {"built", "reused"}
    assert set(found.values()) == {"built"}, result.out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ["turing", "ampere"])
def test_a_precision_that_a_gpu_lacks_is_refused_before_building(
    project: Forge, name: str, target: str
) -> None:
    lacking = [each for each, have in _HAVE.items() if target not in have]
    if target == "turing" and "ocr-detector" in name:
        lacking = [each for each in lacking if each not in ("fp32", "tf32")]  # no matrix products
    for precision in lacking:
        project.spec(name, _spec(name, target, [precision]))
        result = project.run("build", "specs")
        assert result.code == 2, (precision, result.err)
        assert "where tensorrt_rtx has no " in result.err
        assert re.search(r"hint: capabilities with .*: .*8\.9", result.err)
    assert project.engines() == []


def test_the_table_of_the_readme_is_what_is_measured(project: Forge) -> None:
    """Its rows: model, precision, top-1, agreement with FP32."""
    for name in ("digits-convnet", "digits-transformer", "targets"):
        shutil.copy(SPECS / f"{name}.yaml", project.specs)
    result = project.run("check", "specs", "--accuracy", "--json")
    assert result.code == 0, result.err
    measured = {}
    for each in result.json["variants"]:
        found = each["measured"]["outputs"]["logits"]
        assert each["measured"]["samples"] == 360
        measured[each["spec"], each["variant"]] = (
            f"{100 * found['top1']:.2f} %",
            f"{100 * found['top1_agreement']:.2f} %",
        )
        low = each["variant"] in ("fp16", "bf16")
        if each["variant"] != "int4":
            assert found["top1_agreement"] >= (0.995 if low else 0.98)
            assert abs(found["top1"] - found["source_top1"]) <= 0.01
    rows = re.findall(
        r"^\| (digits-\w+) \| (\w+) \| (.*?) \| (.*?) \|",
        (ROOT / "specs" / "models" / "README.md").read_text(),
        re.M,
    )
    told = {(spec, variant): (top1, agreement) for spec, variant, top1, agreement in rows}
    assert len(told) == 10
    assert told == {key: measured[key] for key in told}
