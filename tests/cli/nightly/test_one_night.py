"""One night of a broken model, a stale one, one that fails its check and one that is fine."""

from __future__ import annotations

import json
from collections import Counter

import pytest

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")
pytest.importorskip("onnxruntime", reason="python -m pip install 'engineforge[precision]'")
pytest.importorskip("jinja2", reason="python -m pip install 'engineforge[report]'")

from engineforge.report import events
from tests.cli.nightly.nights import (
    Kept,
    cases,
    in_dev,
    left,
    log,
    night,
    spec,
)
from tests.conftest import CLASSIC, TARGETS, Forge, Result

pytestmark = pytest.mark.slow


class TestOneNight:
    @pytest.fixture
    def result(self, project: Forge, kept: Kept) -> Result:
        return kept.night(project, "one")

    def test_its_exit_code_is_the_worst_of_all(self, result: Result) -> None:
        assert result.code == 2

    def test_its_junit_says_what_each_came_to(self, project: Forge, result: Result) -> None:
        assert cases(project) == {
            ("lock", "lock"): "Passed",
            ("plan", "broken"): "Error",
            ("plan", "failing"): "Passed",
            ("plan", "fine"): "Passed",
            ("plan", "stale"): "Passed",
            ("build", "failing/fp16@ada"): "Passed",
            ("build", "fine/fp16@ada"): "Passed",
            ("build", "stale/fp32@ada"): "Passed",
            ("accuracy", "failing/fp16@ada"): "Failure",
            ("accuracy", "fine/fp16@ada"): "Passed",
            ("engine", "failing/fp16@ada"): "Skipped",
            ("engine", "fine/fp16@ada"): "Skipped",
            ("promotion", "broken"): "Skipped",
            ("promotion", "failing"): "Skipped",
            ("promotion", "fine/fp16@ada"): "Passed",
            ("promotion", "stale/fp32@ada"): "Passed",
            ("gc", "gc"): "Skipped",
            ("report", "report"): "Passed",
        }

    def test_the_fine_and_the_stale_one_are_promoted_and_no_other(
        self, project: Forge, result: Result
    ) -> None:
        (project.specs / "broken.yaml").unlink()
        assert in_dev(project) == {"fine": 1, "stale": 1, "failing": None}

    def test_its_report_says_it_too(self, project: Forge, result: Result) -> None:
        found = json.loads((left(project) / "report.json").read_text())
        variants = {each["spec"]: each for each in found["variants"]}
        assert variants["failing"]["failure"]["stage"] == "accuracy check"
        assert variants["fine"]["failure"] is None
        assert variants["fine"]["environments"]["dev"]["fresh"] is True
        assert [each["file"] for each in found["problems"]] == ["specs/broken.yaml"]
        page = (left(project) / "report.html").read_text()
        assert 'id="failing/fp16@ada"' in page
        assert "specs/broken.yaml" in page

    def test_its_log_fits_the_schema_and_says_how_it_ended(
        self, project: Forge, result: Result
    ) -> None:
        found = log(left(project))
        assert found[0]["event"] == "night"
        assert (found[-1]["event"], found[-1]["code"]) == ("ended", 2)
        said = Counter(each["verdict"] for each in found if each["event"] == "case")
        assert found[-1]["cases"] == said
        finished = {
            (each["label"], each.get("check")): each["outcome"]
            for each in found
            if each["event"] == "finished"
        }
        assert finished == {
            ("failing/fp16@ada", None): "reused",
            ("fine/fp16@ada", None): "reused",
            ("stale/fp32@ada", None): "built",
            ("failing/fp16@ada", "accuracy"): "failed",
            ("fine/fp16@ada", "accuracy"): "passed",
        }

    def test_it_says_what_failed_with_its_place(self, project: Forge, result: Result) -> None:
        assert "failed   plan       broken: model.source.path: 'broken.onnx' is no" in result.out
        assert "failed   accuracy   failing/fp16@ada: relative_error of 'logits'" in result.out
        assert result.err.splitlines()[-1].endswith("exit code 2")
        found = {
            (each["step"], each["file"], each["line"])
            for each in log(left(project))
            if each["event"] == "case" and each["verdict"] == "failed"
        }
        assert found == {("plan", "specs/broken.yaml", 2), ("accuracy", "specs/failing.yaml", 7)}


def test_a_night_with_nothing_to_do_is_0_and_promotes_nothing_anew(sound: Forge) -> None:
    assert night(sound).code == 0
    again = night(sound, "--json")
    assert again.code == 0
    found = {(each["step"], each["said"]) for each in again.json["cases"]}
    assert ("build", "reused: nothing changed") in found
    assert ("promotion", "nothing to do, dev has number 1") in found
    assert any(step == "gc" and said.startswith("0 entries") for step, said in found)
    assert len([each for each in (sound.root / "nights").iterdir() if each.name[0] == "2"]) == 2


def test_two_nights_can_be_compared(sound: Forge) -> None:
    for _ in range(2):
        assert night(sound).code == 0
    before, after = sorted(sound.root.glob("nights/2*"))
    logs = sound.run("diff", before / "events.jsonl", after / "events.jsonl")
    assert (logs.code, "~ stale/fp32@ada\n    built → reused" in logs.out) == (0, True)
    reports = sound.run("diff", before / "report.json", after / "report.json")
    assert (reports.code, "2 the same" in reports.out) == (0, True)


def test_nights_that_are_kept_no_longer_go(sound: Forge) -> None:
    for _ in range(3):
        result = night(sound, "--no-promote", "--keep-nights", "2")
    assert len(list(sound.root.glob("nights/2*"))) == 2
    assert "note: nights that are kept no longer: " in result.err


def test_two_hundred_variants_are_a_night_like_any_other(sound: Forge) -> None:
    variants = "".join(
        f"  v{at}: {{builder: {{tf32: {str(bool(at % 2)).lower()}}}, targets: [h200]}}\n"
        for at in range(200)
    )
    sound.spec("targets", TARGETS + CLASSIC)
    sound.spec("many", spec("stale") + variants)
    result = night(sound)
    assert result.code == 0, result.out
    found = cases(sound)
    assert sum(step == "build" for step, _ in found) == 203
    assert "build      3 passed, 200 skipped" in result.out


def test_the_schema_of_its_log_is_published(forge: Forge) -> None:
    assert forge.run("schema", "events").json == events.schema()
