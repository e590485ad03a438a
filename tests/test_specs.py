"""The specs of this repository, built whole, as README's first command does."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.conftest import Forge

SPECS = Path(__file__).parent.parent / "specs"
needs_examples = pytest.mark.skipif(
    importlib.util.find_spec("rapidocr") is None,
    reason="needs the OCR models: python -m pip install 'engineforge[examples]'",
)


@needs_examples
@pytest.mark.slow
def test_every_spec_is_built_and_then_up_to_date(forge: Forge) -> None:
    shutil.rmtree(forge.specs)
    shutil.copytree(SPECS, forge.specs)
    first = forge.build()
    assert first.code == 0, first.err
    assert {v["outcome"] for v in first.json["variants"]} == {"built"}
    by_spec: dict[str, set[str]] = {}
    for variant in first.json["variants"]:
        by_spec.setdefault(variant["spec"], set()).add(variant["target"])
    assert len(by_spec) == 5
    assert all(len(targets) == 2 for targets in by_spec.values())
    again = forge.build()
    assert {v["outcome"] for v in again.json["variants"]} == {"reused"}
    assert again.json["effort"] == {"files_hashed": 0, "bytes_hashed": 0, "specs_parsed": 0}


@needs_examples
def test_the_recognizers_height_is_explained(forge: Forge) -> None:
    text = (SPECS / "ocr-recognizer.yaml").read_text().replace("[1, 3, 48, 32]", "[1, 3, 32, 32]")
    forge.spec("ocr", text.replace("[rtx-ada, rtx-blackwell]", "[ada]"))
    said = forge.run("check", "specs").err
    assert "specs/ocr.yaml:6:5: profiles[0].x: dimension 2 of 'x' float32" in said
    assert "is fixed by the model: expected 48, found 32 <= 48 <= 48" in said


@needs_examples
def test_a_gpu_without_fp32_matrix_products_is_refused_before_building(forge: Forge) -> None:
    text = (SPECS / "ocr-angle.yaml").read_text().replace("[rtx-ampere, rtx-ada]", "[turing]")
    forge.spec("ocr", text)
    forge.edit("targets", "[8.9]", "[7.5, 8.9]")
    forge.edit("targets", "ada:", "turing:")
    forge.edit("net", "[ada]", "[turing]")
    result = forge.build()
    assert result.code == 2
    assert "is for compute capability 7.5, where tensorrt_rtx has no FP32 matrix" in result.err
    assert "capabilities with FP32 matrix products: 8.0, 8.6, 8.9, 12.0, 12.1" in result.err
