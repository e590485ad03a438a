from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engineforge.digest import digest_bytes
from engineforge.errors import Untrusted
from engineforge.promotion.attest.results import (
    APPROVAL,
    TEST_RESULT,
    Accuracy,
    Approval,
    Latency,
    LoadTest,
    OnGpu,
    Result,
    Summary,
    read_approval,
    read_result,
)
from engineforge.promotion.attest.statement import Statement
from tests.promotion.attest.samples import statement

NOON = datetime(2026, 7, 1, 12, tzinfo=timezone.utc)
ON = OnGpu(gpu={"name": "NVIDIA H200", "sm_count": 132}, driver="580.1")
OF_MODEL = Accuracy(
    of="model",
    time=NOON,
    data=digest_bytes(b"data"),
    samples=None,
    source=(digest_bytes(b"source"), digest_bytes(b"weights")),
    model=(digest_bytes(b"model"),),
    measured={"y": {"sqnr_db": 41.5, "cosine": 0.1, "max": "inf", "top1": None}, "z": {}},
    thresholds={"min_sqnr_db": 20.0},
)
OF_ENGINE = Accuracy(
    of="engine",
    time=NOON,
    data=digest_bytes(b"data"),
    samples=64,
    source=(digest_bytes(b"source"),),
    measured={"y": {"sqnr_db": 1.5}},
    thresholds={"min_sqnr_db": 20.0},
    failures=("sqnr_db of 'y' is 1.5, expected at least 20",),
    on=ON,
)
LATENCY = Latency(
    time=NOON,
    median_ms=1.25,
    p99_ms=1.5,
    point={"profile": 0, "at": "opt", "shapes": {}},
    settings={"streams": 1},
    on=ON,
)
LOADED = LoadTest(time=NOON, passed=True, on=ON)
NOT_LOADED = LoadTest(time=NOON, passed=False, why="out of memory", on=ON)
RESULTS: list[Result] = [OF_MODEL, OF_ENGINE, LATENCY, LOADED, NOT_LOADED]
APPROVED = Approval(
    environment="production",
    spec="ocr/detector",
    variant="fp16",
    target="h200",
    by="ann",
    time=NOON,
    reason="looked at the worst 100",
)
VERIFIED = Summary(
    verifier="https://engineforge.dev/promote/v1",
    time=NOON,
    resource="oci://registry.example/engines",
    policy_uri="environments.yaml#production",
    policy=digest_bytes(b"policy"),
    inputs=(digest_bytes(b"one"), digest_bytes(b"two")),
    passed=True,
    levels=("SLSA_BUILD_LEVEL_1",),
)


def again(predicate_type: str, predicate: dict[str, Any]) -> Statement:
    """Written and read again, as it comes out of an envelope."""
    return Statement.from_bytes(statement(predicate_type, **predicate).to_bytes())


@pytest.mark.parametrize("result", RESULTS)
def test_a_result_that_was_said_is_read(result: Result) -> None:
    assert read_result(again(TEST_RESULT, result.to_predicate())) == result


def test_whether_it_passed_is_told_where_others_look_for_it() -> None:
    told = [each.to_predicate()["result"] for each in RESULTS]
    assert told == ["PASSED", "FAILED", "PASSED", "PASSED", "FAILED"]


digests = st.binary(max_size=4).map(digest_bytes)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone.utc))
figures = st.none() | st.sampled_from(["inf", "-inf"]) | st.floats(-1e300, 1e300)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.builds(
        Accuracy,
        of=st.just("model"),
        time=times,
        data=digests,
        samples=st.none() | st.integers(0, 2**60),
        source=st.lists(digests, min_size=1, max_size=3).map(tuple),
        model=st.lists(digests, max_size=3).map(tuple),
        measured=st.dictionaries(texts, st.dictionaries(texts, figures)),
        thresholds=st.dictionaries(texts, st.floats(-1e300, 1e300)),
        failures=st.lists(texts).map(tuple),
        on=st.none(),
    )
)
def test_every_accuracy_is_read_as_it_was_said(said: Accuracy) -> None:
    assert read_result(again(TEST_RESULT, said.to_predicate())) == said


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.tuples(*[texts] * 6), times)
def test_every_approval_is_read_as_it_was_said(words: tuple[str, ...], time: datetime) -> None:
    environment, spec, variant, target, by, reason = words
    said = Approval(
        environment=environment,
        spec=spec,
        variant=variant,
        target=target,
        by=by,
        time=time,
        reason=reason,
    )
    assert read_approval(again(APPROVAL, said.to_predicate())) == said


@pytest.mark.parametrize(("passed", "word"), [(True, "PASSED"), (False, "FAILED")])
def test_a_summary_is_by_the_specification_of_slsa(passed: bool, word: str) -> None:
    assert replace(VERIFIED, passed=passed).to_predicate() == {
        "verifier": {"id": "https://engineforge.dev/promote/v1"},
        "timeVerified": "2026-07-01T12:00:00Z",
        "resourceUri": "oci://registry.example/engines",
        "policy": {
            "uri": "environments.yaml#production",
            "digest": {"sha256": digest_bytes(b"policy").hex},
        },
        "inputAttestations": [
            {"digest": {"sha256": digest_bytes(each).hex}} for each in (b"one", b"two")
        ],
        "verificationResult": word,
        "verifiedLevels": ["SLSA_BUILD_LEVEL_1"],
        "slsaVersion": "1.0",
    }


def _edit(raw: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with one value replaced, or (None) taken out."""
    first, _, rest = path.partition(".")
    key: Any = int(first) if first.isdecimal() else first
    copy: Any = list(raw) if isinstance(raw, list) else dict(raw)
    if rest:
        copy[key] = _edit(copy[key], rest, value)
    elif value is None:
        del copy[key]
    else:
        copy[key] = value
    return dict(copy) if isinstance(copy, dict) else copy


@pytest.mark.parametrize(
    ("result", "path", "value", "why"),
    [
        (OF_ENGINE, "result", "PASSED", "contradicts itself"),
        (OF_MODEL, "result", "FAILED", "contradicts itself"),
        (OF_MODEL, "result", "WARNED", "expected 'PASSED' or 'FAILED'"),
        (OF_MODEL, "passedTests", None, "contradicts itself"),
        (OF_MODEL, "failedTests", ["x"], "contradicts itself"),
        (OF_MODEL, "configuration", [], "'uri' is missing"),
        (OF_MODEL, "configuration.1", None, "without its data"),
        (OF_MODEL, "configuration.1.name", "datum", "without its data"),
        (OF_MODEL, "configuration.4.name", "other", "contradicts itself"),
        (OF_MODEL, "configuration.1.digest.sha256", "0", "64 hexadecimal"),
        (OF_MODEL, "configuration.0.annotations.of", "engine", "without its data, source or GPU"),
        (OF_ENGINE, "configuration.0.annotations.gpu", None, "'gpu' is missing"),
        (OF_MODEL, "configuration.0.annotations.measured", {"y": 1}, "is no object"),
        (OF_MODEL, "configuration.0.annotations.measured", {"y": {"m": "nan"}}, "no figure"),
        (OF_MODEL, "configuration.0.annotations.thresholds", {"m": "1"}, "expected a number"),
        (OF_MODEL, "configuration.0.annotations.more", 1, "there is 'more'"),
        (OF_MODEL, "configuration.0.uri", "https://engineforge.dev/test/accuracy/v2", "not know"),
        (LATENCY, "configuration.0.uri", "https://engineforge.dev/test/latency/v2", "not know"),
        (LATENCY, "configuration.0.annotations.p99_ms", 0, "no engine takes"),
        (LATENCY, "configuration.0.annotations.median_ms", -1, "no engine takes"),
        (LATENCY, "configuration.0.annotations.median_ms", "1", "expected a number"),
        (LATENCY, "configuration.0.annotations.time", "noon", "expected a time"),
        (LOADED, "configuration.0.annotations.driver", None, "'driver' is missing"),
        (LOADED, "url", "https://example.com", "there is 'url'"),
    ],
)
def test_a_result_that_is_not_understood_is_refused(
    result: Result, path: str, value: object, why: str
) -> None:
    predicate = _edit(result.to_predicate(), path, value)
    with pytest.raises(Untrusted, match=why):
        read_result(again(TEST_RESULT, predicate))


@pytest.mark.parametrize("name", list(APPROVED.to_predicate()))
def test_an_approval_without_one_of_its_fields_is_refused(name: str) -> None:
    with pytest.raises(Untrusted, match=f"'{name}' is missing"):
        read_approval(again(APPROVAL, _edit(APPROVED.to_predicate(), name, None)))


def test_an_approval_that_says_more_is_refused() -> None:
    with pytest.raises(Untrusted, match="there is 'until'"):
        read_approval(again(APPROVAL, {**APPROVED.to_predicate(), "until": "2027"}))


@pytest.mark.parametrize("read", [read_result, read_approval])
@pytest.mark.parametrize("version", ["v0.2", "v2", "v1/", ""])
def test_another_version_of_a_predicate_is_refused(read: Any, version: str) -> None:  # noqa: ANN401
    for kind in (TEST_RESULT, APPROVAL):
        name = kind.rpartition("/")[0] + "/" + version
        with pytest.raises(Untrusted, match="the statement is a"):
            read(again(name, APPROVED.to_predicate()))


@pytest.mark.parametrize("result", [OF_ENGINE, LATENCY])
def test_a_result_that_says_otherwise_throughout_contradicts_what_was_measured(
    result: Result,
) -> None:
    predicate = result.to_predicate()
    word, other = ("failed", "passed") if not result.passed else ("passed", "failed")
    predicate[f"{other}Tests"] = predicate.pop(f"{word}Tests")
    predicate["result"] = other.upper()
    with pytest.raises(Untrusted, match="contradicts itself"):
        read_result(again(TEST_RESULT, predicate))
