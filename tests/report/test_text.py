"""Outcomes and entries as lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engineforge.digest import digest_value
from engineforge.report.text import entry_lines, outcome
from engineforge.store.local import Entry
from engineforge.store.manifest import Manifest
from engineforge.worker.outcome import Outcome
from tests.report.plans import checked, ranked


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (checked(), "passed its accuracy check"),
        (checked("cosine of 'a' is 0.8"), "failed its accuracy check"),
        (ranked(), "ranked its layers"),
    ],
)
def test_what_was_measured_is_said(found: Outcome, said: str) -> None:
    assert outcome(found) == said


def _typed(**recipe: object) -> list[str]:
    """The lines of a converted model's entry, but the first, which is its key."""
    whole: dict[str, Any] = {"high_precision": None, "block_size": None, "sparsity": None}
    manifest = Manifest(
        stage="typed",
        key=digest_value("typed"),
        key_document={"recipe": {**whole, **recipe}},
        files={},
        record={"versions": {"onnx": "1.23.0"}, "layers": {"INT4": 2}},
    )
    return [*entry_lines(Entry(Path("entry"), manifest, (0, 0, 0)))][1:]


def test_what_a_model_was_converted_to_is_in_one_column() -> None:
    assert _typed(precision="int4", high_precision="fp16", block_size=64, sparsity="2:4") == [
        "  precision  int4, with onnx 1.23.0",
        "  around     fp16",
        "  block size 64",
        "  sparsity   2:4",
        "  layers     2 INT4",
    ]


def test_fp32_around_what_is_quantized_is_not_worth_a_line() -> None:
    assert _typed(precision="int8", high_precision="fp32") == [
        "  precision  int8, with onnx 1.23.0",
        "  layers     2 INT4",
    ]
