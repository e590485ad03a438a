from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engineforge.digest import digest_bytes
from engineforge.errors import Untrusted
from engineforge.promotion.attest.statement import TYPE, Statement, Subject
from tests.promotion.attest.samples import ENGINE, MANIFEST, statement
from tests.promotion.attest.test_strict import PLAIN

texts = st.text(st.characters(exclude_categories=["Cs"]))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.builds(Subject, name=texts, digest=st.binary(max_size=4).map(digest_bytes)),
        min_size=1,
        max_size=3,
    ),
    texts.filter(bool),
    st.dictionaries(texts, PLAIN, min_size=1),
)
def test_what_is_said_is_read(subjects: list[Subject], kind: str, said: dict[str, Any]) -> None:
    made = Statement(subjects=tuple(subjects), predicate_type=kind, predicate=said)
    assert Statement.from_bytes(made.to_bytes()) == made


def test_the_order_in_which_something_is_said_changes_no_byte() -> None:
    assert statement(a=1, b=2).to_bytes() == statement(b=2, a=1).to_bytes()


def test_of_an_engine_both_the_artifact_and_the_file_are_subjects() -> None:
    made = statement()
    assert made.subject_digests == {MANIFEST, ENGINE}
    assert [each.name for each in made.subjects] == ["fp32@ada", "model.engine"]


@pytest.mark.parametrize(
    "fields",
    [{"subjects": ()}, {"predicate_type": ""}, {"predicate": {}}],
    ids=lambda f: next(iter(f)),
)
def test_a_statement_says_something_of_something(fields: dict[str, Any]) -> None:
    whole: dict[str, Any] = {
        "subjects": (Subject(name="", digest=ENGINE),),
        "predicate_type": "t",
        "predicate": {"a": 1},
    }
    Statement(**whole)
    with pytest.raises(ValueError, match="a statement has"):
        Statement(**{**whole, **fields})


GOOD = json.loads(statement().to_bytes())
HEX = "0" * 64


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"_type": "https://in-toto.io/Statement/v0.1"}, f"expected '{TYPE}'"),
        ({"_type": None}, "expected a string"),
        ({"subject": []}, "a statement has a subject"),
        ({"subject": None}, "expected a list"),
        ({"subject": [{"name": "x"}]}, "'digest' is missing"),
        ({"subject": [{"digest": {"sha1": HEX}}]}, "'sha256' is missing"),
        ({"subject": [{"digest": {"sha256": HEX, "sha512": HEX}}]}, "there is 'sha512'"),
        ({"subject": [{"digest": {"sha256": HEX.replace("0", "A")}}]}, "64 hexadecimal digits"),
        ({"subject": [{"digest": {"sha256": HEX}, "uri": "x"}]}, "there is 'uri'"),
        ({"predicate": {}}, "a statement has"),
        ({"predicate": []}, "expected an object"),
        ({"predicateType": ""}, "a statement has"),
        ({"more": 1}, "there is 'more'"),
    ],
)
def test_what_is_no_statement_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(Untrusted, match=why):
        Statement.from_bytes(json.dumps({**GOOD, **fields}).encode())


def test_a_subject_may_be_without_a_name() -> None:
    raw = {**GOOD, "subject": [{"digest": {"sha256": ENGINE.hex}}]}
    read = Statement.from_bytes(json.dumps(raw).encode())
    assert read.subjects == (Subject(name="", digest=ENGINE),)
