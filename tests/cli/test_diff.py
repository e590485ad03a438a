"""`engineforge diff` and `show --layers`: what engines are called, and what is said of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engineforge.report.page.document import KIND
from tests.conftest import SPEC, Forge
from tests.models import convnet
from tests.report.documents import failure, report, variant

_TWO = SPEC + "  strict: {precision: fp32, builder: {tf32: false}}\n"


@pytest.fixture
def two(forge: Forge) -> Forge:
    """With two engines that differ in one option."""
    forge.spec("net", _TWO)
    assert forge.build().code == 0
    return forge


def _entry(forge: Forge, variant: str) -> Path:
    (found,) = forge.run("show", "specs", "--variant", variant, "--json").json
    return Path(found["path"])


def _names(forge: Forge, variant: str) -> list[str]:
    """All that an engine may be called."""
    entry = _entry(forge, variant)
    copy = Path(f"{variant}.engine")
    shutil.copy(entry / "model.engine", copy)
    return [
        f"net:{variant}@ada",
        f"net/{variant}@ada",
        str(entry),
        str(entry / "model.engine"),
        str(copy),
        entry.name[:12],
        f"sha256:{entry.name}",
    ]


def test_an_engine_is_the_same_whatever_it_is_called(two: Forge) -> None:
    for one in _names(two, "fp32"):
        result = two.run("diff", one, "net:fp32@ada", "--json")
        assert result.code == 0, result.err
        assert result.json["same_file"]


def test_two_engines_differ_in_the_leaf_that_was_changed(two: Forge) -> None:
    result = two.run("diff", "net:fp32@ada", "net:strict@ada", "--json")
    assert result.code == 0
    assert result.json["key"] == [{"leaf": "builder.tf32", "before": True, "after": False}]
    assert [result.json[word]["name"] for word in ("before", "after")] == [
        "net/fp32@ada",
        "net/strict@ada",
    ]
    assert (
        "  key        builder.tf32 true → false\n"
        in two.run("diff", "net:fp32@ada", "net:strict@ada").out
    )


def test_an_engine_of_before_is_named_by_its_digits(two: Forge) -> None:
    before = _entry(two, "fp32").name
    convnet(two.model, seed=5)
    assert two.build().code == 0
    result = two.run("diff", before, "net:fp32@ada")
    assert result.code == 0
    assert "  key        model changed (" in result.out


def test_engines_of_tensorrt_rtx_have_no_layers_and_say_why(two: Forge) -> None:
    result = two.run("show", "specs", "--layers", "--variant", "fp32")
    assert result.code == 0
    why = "nothing has looked inside: TensorRT-RTX builds for GPUs that are not there"
    assert result.out == f"net/fp32@ada: no layers: {why}\n"
    assert why in two.run("diff", "net:fp32@ada", "net:strict@ada").out
    assert two.run("show", "specs", "--layers", "--json").json[0]["why_none"] == why


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("nothing", 2, "'nothing' is no engine, no report and no event log"),
        ("abcd1234", 2, "has a key or file that begins 'abcd1234'"),
        ("net:fp99@ada", 2, "no spec has a variant 'fp99'"),
        ("other:fp32@ada", 2, "there is no 'specs/other.yaml'"),
        ("specs/net.yaml", 1, "is no file of this cache"),
    ],
)
def test_what_cannot_be_meant_is_told(two: Forge, what: str, code: int, message: str) -> None:
    result = two.run("diff", what, "net:fp32@ada")
    assert result.code == code
    assert message in result.err


def test_an_engine_that_is_not_up_to_date_says_how_to_name_the_old_one(two: Forge) -> None:
    two.edit("net", "max: [8,", "max: [9,")
    result = two.run("diff", "net:fp32@ada", "net:strict@ada")
    assert result.code == 1
    assert "net/fp32@ada is not built, or not up to date" in result.err


def test_a_model_is_no_engine(two: Forge) -> None:
    (model,) = two.cache.glob("entries-v1/onnx/*/*")
    result = two.run("diff", model.name, "net:fp32@ada")
    assert result.code == 2
    assert "is an entry of the stage 'onnx', and no engine" in result.err


def _written(name: str, document: dict[str, Any]) -> str:
    Path(name).write_text(json.dumps(document))
    return name


def test_two_reports_are_compared(forge: Forge) -> None:
    before = _written("a.json", report([variant("net/fp32@ada")]))
    after = _written("b.json", report([variant("net/fp32@ada", failure=failure())]))
    result = forge.run("diff", before, after)
    assert result.code == 0
    assert "~ net/fp32@ada\n    up to date → failed\n" in result.out
    assert forge.run("diff", before, after, "--json").json["kind"] == "reports"


def test_what_report_prints_can_be_compared(built: Forge) -> None:
    Path("a.json").write_text(built.run("report", "specs", "--json").out)
    convnet(built.model, seed=5)
    assert built.build().code == 0
    Path("b.json").write_text(built.run("report", "specs", "--json").out)
    found = built.run("diff", "a.json", "b.json", "--json").json
    changed = found["changed"]["net/fp32@ada"]
    assert changed["engine"]["before"] != changed["engine"]["after"]
    assert json.loads(Path("a.json").read_text())["kind"] == KIND


def test_two_event_logs_are_compared(forge: Forge) -> None:
    event = {"v": 1, "event": "finished", "label": "net/fp32@ada", "outcome": "built"}
    _written("a.jsonl", event)
    _written("b.jsonl", {**event, "outcome": "failed", "stage": "engine", "error": "no"})
    assert forge.run("diff", "a.jsonl", "b.jsonl").out.splitlines()[:2] == [
        "~ net/fp32@ada",
        "    built → failed",
    ]


def test_two_nights_are_compared_by_their_folders(forge: Forge) -> None:
    event = {"v": 1, "event": "finished", "label": "net/fp32@ada", "outcome": "built"}
    for night, outcome in (("a", "built"), ("b", "failed")):
        Path("nights", night).mkdir(parents=True)
        _written(f"nights/{night}/events.jsonl", {**event, "outcome": outcome})
    Path("nights/latest").symlink_to("b")
    assert "built → failed" in forge.run("diff", "nights/a", "nights/latest").out
    Path("nights/b/events.jsonl").write_text('{"v": 99}\n')
    result = forge.run("diff", "nights/a", "nights/b")
    assert result.code == 2
    assert "'nights/b/events.jsonl'" in result.err


def test_a_report_and_an_engine_are_not_of_one_kind(two: Forge) -> None:
    _written("a.json", report([]))
    result = two.run("diff", "a.json", "net:fp32@ada")
    assert result.code == 2
    assert "'a.json' and 'net:fp32@ada' are not of one kind" in result.err
