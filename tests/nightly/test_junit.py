"""JUnit as others read it: with junitparser, which is none of what wrote it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engineforge.nightly.junit import document
from engineforge.nightly.night import STEPS
from tests.nightly.nights import HOSTILE, at, failed, night, passed, skipped

junitparser = pytest.importorskip("junitparser", reason="python -m pip install 'junitparser>=4'")


def _read(tmp_path: Path, data: bytes) -> Any:  # noqa: ANN401 - of a module that may be absent
    path = tmp_path / "junit.xml"
    path.write_bytes(data)
    return junitparser.JUnitXml.fromfile(str(path))


def _one(tmp_path: Path, case: object) -> Any:  # noqa: ANN401
    (suite,) = _read(tmp_path, document(night(case)))  # type: ignore[arg-type]
    (found,) = suite
    return found


def test_a_step_is_a_suite_and_a_variant_a_case(tmp_path: Path) -> None:
    cases = (passed("build"), failed("build"), passed("accuracy"), skipped("latency"))
    found = _read(tmp_path, document(night(*cases)))
    assert [suite.name for suite in found] == ["build", "accuracy", "latency"]
    assert [[case.name for case in suite] for suite in found] == [
        ["net/fp16@ada", "net/fp32@ada"],
        ["net/fp16@ada"],
        ["net/fp16@ada"],
    ]


def test_its_counts_are_those_that_a_reader_comes_to(tmp_path: Path) -> None:
    cases = [passed(), failed(), skipped()]
    cases += [failed("accuracy", said_no=True), failed("promotion", 3, said_no=True)]
    whole = _read(tmp_path, document(night(*cases)))
    written = (whole.tests, whole.failures, whole.errors, whole.time)
    whole.update_statistics()
    assert written == (whole.tests, whole.failures, whole.errors, whole.time)
    assert written == (5, 2, 1, 1.5)


@pytest.mark.parametrize(("said_no", "kind"), [(True, "Failure"), (False, "Error")])
def test_a_check_or_gate_that_said_no_is_a_failure_and_all_else_an_error(
    said_no: bool, kind: str, tmp_path: Path
) -> None:
    (result,) = _one(tmp_path, failed("accuracy", said_no=said_no)).result
    assert type(result).__name__ == kind


def test_a_failure_has_its_place_and_the_end_of_its_log(tmp_path: Path) -> None:
    case = failed("build", detail=("one", "two"), at=at("specs/net.yaml", 7))
    (result,) = _one(tmp_path, case).result
    assert result.message == "no tactic"
    assert result.text.splitlines() == ["specs/net.yaml:7:3", "no tactic", "one", "two"]


def test_what_was_skipped_says_why(tmp_path: Path) -> None:
    (result,) = _one(tmp_path, skipped()).result
    assert (type(result).__name__, result.message) == ("Skipped", "no GPU")


@pytest.mark.parametrize("verdict", ["failed", "skipped", "passed"])
def test_untrusted_names_stay_text_and_what_xml_cannot_say_is_left_out(
    verdict: str, tmp_path: Path
) -> None:
    case = failed(label=HOSTILE, spec=HOSTILE, said=HOSTILE, detail=(HOSTILE,))
    data = document(night(replace(case, verdict=verdict)))  # type: ignore[arg-type]
    assert b"<script>" not in data
    (suite,) = _read(tmp_path, data)
    (found,) = suite
    assert found.name == HOSTILE.replace("\x00", "").replace("\x1b", "").replace("\ud800", "")


def test_every_step_can_have_a_suite(tmp_path: Path) -> None:
    found = _read(tmp_path, document(night(*map(passed, reversed(STEPS)))))
    assert [suite.name for suite in found] == list(STEPS)


def test_a_night_that_came_to_nothing_is_a_document_too(tmp_path: Path) -> None:
    assert list(_read(tmp_path, document(night()))) == []
