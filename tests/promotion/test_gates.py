"""Gates: what each lets pass, and what exactly it says of what it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone

import pytest

from engineforge.digest import Digest
from engineforge.errors import UsageError
from engineforge.promotion.candidate import (
    Accuracy,
    Approval,
    Candidate,
    Evidence,
    Fresh,
    InSource,
    Latency,
    LoadTest,
    NotInSource,
    Provenance,
    Replaced,
    Stale,
    Unknown,
)
from engineforge.promotion.gates import GateResult, evaluate, span
from engineforge.spec.environments import (
    AccuracyGate,
    AgeGate,
    ApprovalGate,
    Environment,
    FreshnessGate,
    Gate,
    LatencyGate,
    LoadGate,
    ProvenanceGate,
    Retention,
    Signer,
)
from tests.gpus import H200, L4, RTX_4090

UTC = timezone.utc
NOW = datetime(2027, 6, 15, 12, tzinfo=UTC)
EARLIER = NOW - timedelta(hours=2)
LATER = NOW - timedelta(hours=1)
A, B, C = (Digest("sha256:" + 64 * each) for each in "abc")
CANDIDATE = Candidate(
    spec="net",
    file="specs/net.yaml",
    variant="fp16",
    target="h200",
    manifest=A,
    engine=B,
    plan=A,
    key=A,
    gpu=H200,
)
RTX = replace(CANDIDATE, target="ada", gpu=None, compute_capabilities=("8.6", "8.9"))
POINT = {"profile": 0, "at": "opt", "shapes": {}}
SETTINGS = {"iterations": 10}
TIME = "2027-06-15 11:00:00 UTC"
SIGN = "`engineforge promote specs/net.yaml --to staging --key KEY` with the key of"
ATTEST = "`engineforge attest results specs/net.yaml --to staging --key KEY` with the key of"
CI, ALICE, BOB = (Signer(name=name, key=f"keys/{name}.pub") for name in ("ci", "alice", "bob"))


def _environment(gate: Gate | None, source: str | None = None, *signers: Signer) -> Environment:
    known = signers or (CI, ALICE, BOB)
    return Environment(
        name="staging",
        store="./staging",
        source=source,
        signers={each.name: each for each in known},
        promoters=("ci",),
        gates={} if gate is None else {"it": gate},
        retention=Retention(),
    )


def _ask(
    gate: Gate,
    evidence: Evidence,
    *,
    candidate: Candidate = CANDIDATE,
    replaced: Replaced | None = None,
    source: str | None = None,
    signers: tuple[Signer, ...] = (),
) -> GateResult:
    """What one gate says."""
    asked = _environment(gate, source, *signers)
    return evaluate(asked, candidate, evidence, replaced, NOW)[-1]


def _refusal(why: str, hint: str | None = None) -> GateResult:
    return GateResult(gate="it", passed=False, why=why, hint=hint)


def _pass(why: str) -> GateResult:
    return GateResult(gate="it", passed=True, why=why)


PROVENANCE = Provenance(signers=("ci",), time=LATER)
ACCURACY = Accuracy(signers=("ci",), time=LATER, of="model", data=A, passed=True)
ON_ENGINE = replace(ACCURACY, of="engine", gpu=H200, driver="580.1")
LATENCY = Latency(
    signers=("ci",),
    time=LATER,
    median_ms=2.0,
    p99_ms=3.0,
    gpu=H200,
    driver="580.1",
    point=POINT,
    settings=SETTINGS,
)
LOADED = LoadTest(signers=("ci",), time=LATER, passed=True, gpu=H200, driver="580.1")
APPROVAL = Approval(signers=("alice",), time=LATER, environment="staging", spec="net")
IN_DEV = InSource(environment="dev", since=EARLIER)
LATENCY_HINT = (
    "`engineforge check specs/net.yaml --latency` on a GPU of target 'h200', then "
    f"{SIGN} 'ci' or 'alice' or 'bob'"
)


# An environment


def test_an_environment_without_gates_lets_nothing_in() -> None:
    (result,) = evaluate(_environment(None), CANDIDATE, Evidence(), None, NOW)
    assert result == GateResult(
        gate="gates",
        passed=False,
        why="'staging' has no gates: nothing gets in",
        hint="write under 'staging': gates: {freshness: {}, provenance: {}}",
    )


def test_that_there_are_no_gates_cannot_be_overridden() -> None:
    with pytest.raises(UsageError, match="'staging' has no gate 'gates' to override"):
        evaluate(_environment(None), CANDIDATE, Evidence(), None, NOW, overridden=["gates"])


def test_no_gate_passes_on_no_evidence() -> None:
    gates: dict[str, Gate] = {
        "provenance": ProvenanceGate(),
        "freshness": FreshnessGate(),
        "accuracy": AccuracyGate(),
        "latency": LatencyGate(),
        "load_test": LoadGate(),
        "age": AgeGate(least=timedelta(seconds=1)),
        "approval": ApprovalGate(by=("alice",)),
    }
    environment = replace(_environment(None, "dev"), gates=gates)
    results = evaluate(environment, CANDIDATE, Evidence(), None, NOW)
    assert [each.gate for each in results] == ["source", *gates]
    assert not [each for each in results if each.passed or each.hint is None]


def test_an_overridden_refusal_lets_in_and_stays_a_refusal() -> None:
    environment = _environment(FreshnessGate(), "dev")
    source, result = evaluate(
        environment, CANDIDATE, Evidence(), None, NOW, overridden=["it", "source"]
    )
    assert (result.passed, result.overridden, result.lets_in) == (False, True, True)
    assert (source.passed, source.overridden, source.lets_in) == (False, True, True)
    assert result.why == "it is not known what the specs ask for: nobody asked"


def test_overriding_one_gate_does_not_override_another() -> None:
    environment = _environment(FreshnessGate(), "dev")
    source, result = evaluate(environment, CANDIDATE, Evidence(), None, NOW, overridden=["source"])
    assert (source.lets_in, result.lets_in) == (True, False)


def test_a_gate_that_passes_is_not_overridden() -> None:
    (result,) = evaluate(
        _environment(FreshnessGate()),
        CANDIDATE,
        Evidence(freshness=Fresh()),
        None,
        NOW,
        overridden=["it"],
    )
    assert (result.passed, result.overridden) == (True, False)


def test_only_a_gate_of_the_environment_can_be_overridden() -> None:
    environment = replace(_environment(None), gates={"freshness": FreshnessGate()})
    with pytest.raises(UsageError) as found:
        evaluate(environment, CANDIDATE, Evidence(), None, NOW, overridden=["freshnes"])
    assert str(found.value) == (
        "'staging' has no gate 'freshnes' to override\nhint: did you mean 'freshness'?"
    )


def test_where_the_target_is_not_known_no_measurement_counts() -> None:
    nowhere = replace(CANDIDATE, gpu=None)
    assert _ask(LatencyGate(), Evidence(latency=(LATENCY,)), candidate=nowhere).why == (
        "no measurement of its latency counts: it is not known what GPU target 'h200' has"
    )


def test_a_time_without_a_zone_cannot_be() -> None:
    with pytest.raises(ValueError, match="needs its zone"):
        replace(PROVENANCE, time=NOW.replace(tzinfo=None))
    with pytest.raises(ValueError, match="needs its zone"):
        replace(IN_DEV, since=NOW.replace(tzinfo=None))


# The source


def _source(evidence: Evidence) -> GateResult:
    return evaluate(_environment(FreshnessGate(), "dev"), CANDIDATE, evidence, None, NOW)[0]


def test_what_the_source_environment_has_may_come() -> None:
    why = "'dev' has it since 2027-06-15 10:00:00 UTC"
    assert _source(Evidence(source=IN_DEV)) == GateResult(gate="source", passed=True, why=why)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (NotInSource("it has another one"), "it has another one"),
        (replace(IN_DEV, environment="other"), "'other' has it"),
    ],
)
def test_what_the_source_environment_does_not_have_may_not_come(
    found: InSource | NotInSource, why: str
) -> None:
    assert _source(Evidence(source=found)) == GateResult(
        gate="source",
        passed=False,
        why=f"it is not in 'dev', where its engines come from: {why}",
        hint="`engineforge promote specs/net.yaml --to dev --key KEY`",
    )


def test_the_first_environment_asks_for_no_source() -> None:
    evidence = Evidence(freshness=Fresh())
    results = evaluate(_environment(FreshnessGate()), CANDIDATE, evidence, None, NOW)
    assert [each.gate for each in results] == ["it"]


# Signatures, the same for every gate


def test_a_signature_of_a_listed_signer_counts() -> None:
    result = _ask(ProvenanceGate(signed_by=("ci",)), Evidence(provenance=(PROVENANCE,)))
    assert result == _pass("'ci' says how it was built")


def test_a_gate_that_names_nobody_takes_every_signer() -> None:
    signed = replace(PROVENANCE, signers=("bob",))
    assert _ask(ProvenanceGate(), Evidence(provenance=(signed,))).passed


BUILD_HINT = f"it is signed when it comes out of the cache: {SIGN} 'ci'"


@pytest.mark.parametrize(
    ("signed", "because"),
    [
        ((), ""),
        ((replace(PROVENANCE, signers=()),), ""),
        ((replace(PROVENANCE, signers=("bob",)),), ": 'bob' is not 'ci'"),
        ((replace(PROVENANCE, signers=("eve",)),), ": 'eve' is no signer of 'staging'"),
        (
            (replace(PROVENANCE, time=NOW + timedelta(minutes=6)),),
            ": 'ci' signed at 2027-06-15 12:06:00 UTC, which is yet to come",
        ),
        (
            (replace(PROVENANCE, signers=("bob", "eve")), replace(PROVENANCE, signers=("bob",))),
            ": 'bob' is not 'ci'; 'eve' is no signer of 'staging'",
        ),
    ],
    ids=["none", "unsigned", "another", "unknown", "future", "several"],
)
def test_a_signature_that_does_not_count_is_told_apart(
    signed: tuple[Provenance, ...], because: str
) -> None:
    assert _ask(ProvenanceGate(signed_by=("ci",)), Evidence(provenance=signed)) == _refusal(
        f"nobody who counts says how it was built{because}", BUILD_HINT
    )


def test_provenance_is_attached_where_an_engine_comes_from() -> None:
    missing = _ask(ProvenanceGate(signed_by=("ci",)), Evidence(), source="dev")
    assert missing.hint == (
        "it is signed when it comes out of the cache: "
        "`engineforge promote specs/net.yaml --to dev --key KEY` with the key of 'ci'"
    )


@pytest.mark.parametrize(
    ("gate", "option"),
    [
        (AccuracyGate(signed_by=("ci",)), "--accuracy`"),
        (AccuracyGate(of="engine", signed_by=("ci",)), "--engine` on a GPU of target 'h200'"),
        (LatencyGate(signed_by=("ci",)), "--latency` on a GPU of target 'h200'"),
        (LoadGate(signed_by=("ci",)), "--latency` on a GPU of target 'h200'"),
    ],
)
def test_what_is_in_an_environment_gets_results_attached_and_what_is_in_none_as_it_is_promoted(
    gate: Gate, option: str
) -> None:
    check = f"`engineforge check specs/net.yaml {option}"
    there, nowhere = (_ask(gate, Evidence(), source=source).hint for source in ("dev", None))
    assert there is not None
    assert nowhere is not None
    assert there.endswith(f"{check}, then {ATTEST} 'ci'")
    assert nowhere.endswith(f"{check}, then {SIGN} 'ci'")


def test_clocks_may_differ_by_minutes() -> None:
    signed = replace(PROVENANCE, time=NOW + timedelta(minutes=5))
    assert _ask(ProvenanceGate(), Evidence(provenance=(signed,))).passed


@pytest.mark.parametrize(
    ("time", "counts"),
    [
        (datetime(2027, 6, 10, 23, 59, 59, tzinfo=UTC), True),
        (datetime(2027, 6, 11, 0, 0, 0, tzinfo=UTC), False),
        (datetime(2027, 6, 11, 1, 0, tzinfo=timezone(timedelta(hours=2))), True),
        (datetime(2027, 6, 10, 23, 0, tzinfo=timezone(timedelta(hours=-2))), False),
    ],
)
def test_a_signer_counts_to_the_end_of_the_last_day_in_utc(time: datetime, counts: bool) -> None:
    until = replace(CI, not_after=date(2027, 6, 10))
    signed = replace(PROVENANCE, time=time)
    assert _ask(ProvenanceGate(), Evidence(provenance=(signed,)), signers=(until,)).passed == counts


def test_a_signature_after_the_last_day_is_told() -> None:
    until = replace(CI, not_after=date(2027, 6, 10))
    result = _ask(ProvenanceGate(), Evidence(provenance=(PROVENANCE,)), signers=(until,))
    assert result == _refusal(
        f"nobody who counts says how it was built: 'ci' signed at {TIME}, after 2027-06-10",
        BUILD_HINT,
    )


def test_what_was_signed_before_a_signer_left_counts_on() -> None:
    until = replace(CI, not_after=date(2027, 6, 10))
    signed = replace(PROVENANCE, time=datetime(2027, 6, 9, tzinfo=UTC))
    assert _ask(ProvenanceGate(), Evidence(provenance=(signed,)), signers=(until,)).passed


# Freshness


def test_what_the_specs_ask_for_is_fresh() -> None:
    assert _ask(FreshnessGate(), Evidence(freshness=Fresh())) == _pass(
        "it is what the specs ask for"
    )


def test_a_stale_engine_is_refused_with_the_change() -> None:
    evidence = Evidence(freshness=Stale("its builder changed"))
    assert _ask(FreshnessGate(), evidence) == _refusal(
        "the specs ask for another engine: its builder changed",
        "`engineforge build specs/net.yaml`",
    )


def test_an_engine_whose_freshness_is_not_known_is_refused() -> None:
    evidence = Evidence(freshness=Unknown("its model is not made yet"))
    assert _ask(FreshnessGate(), evidence) == _refusal(
        "it is not known what the specs ask for: its model is not made yet",
        "`engineforge plan specs/net.yaml`",
    )


# Accuracy

ACCURACY_HINT = f"`engineforge check specs/net.yaml --accuracy`, then {SIGN} 'ci'"
ENGINE_HINT = (
    "`engineforge check specs/net.yaml --engine` on a GPU of target 'h200', then "
    f"{SIGN} 'ci' or 'alice' or 'bob'"
)


def test_an_accurate_model_passes() -> None:
    assert _ask(AccuracyGate(), Evidence(accuracy=(ACCURACY,))) == _pass(
        f"the accuracy of the converted model is enough (data aaaaaaaaaaaa, 'ci', {TIME})"
    )


def test_an_accurate_engine_passes() -> None:
    assert _ask(AccuracyGate(of="engine"), Evidence(accuracy=(ON_ENGINE,))) == _pass(
        f"the accuracy of the engine itself is enough (data aaaaaaaaaaaa, 'ci', {TIME})"
    )


def test_an_accuracy_that_nobody_checked_is_refused() -> None:
    assert _ask(AccuracyGate(signed_by=("ci",)), Evidence()) == _refusal(
        "no accuracy check of the converted model counts", ACCURACY_HINT
    )


def test_the_accuracy_of_the_model_is_not_that_of_the_engine() -> None:
    assert _ask(AccuracyGate(of="engine"), Evidence(accuracy=(ACCURACY,))) == _refusal(
        "no accuracy check of the engine itself counts", ENGINE_HINT
    )
    assert not _ask(AccuracyGate(of="model"), Evidence(accuracy=(ON_ENGINE,))).passed


def test_accuracy_on_other_data_does_not_count() -> None:
    gate = AccuracyGate(data=(B, C), signed_by=("ci",))
    assert _ask(gate, Evidence(accuracy=(ACCURACY,))) == _refusal(
        "no accuracy check of the converted model on data 'bbbbbbbbbbbb' or 'cccccccccccc' counts: "
        "data aaaaaaaaaaaa is none of the gate's",
        ACCURACY_HINT,
    )


def test_accuracy_on_one_of_the_data_counts() -> None:
    assert _ask(AccuracyGate(data=(B, A)), Evidence(accuracy=(ACCURACY,))).passed


def test_the_accuracy_of_an_engine_on_another_gpu_does_not_count() -> None:
    elsewhere = replace(ON_ENGINE, gpu=replace(H200, sm_count=114))
    assert _ask(AccuracyGate(of="engine"), Evidence(accuracy=(elsewhere,))) == _refusal(
        "no accuracy check of the engine itself counts: on 'NVIDIA H200', the number of SMs is "
        "114, expected 132",
        ENGINE_HINT,
    )


def test_the_accuracy_of_an_engine_on_a_gpu_that_nobody_names_does_not_count() -> None:
    nowhere = replace(ON_ENGINE, gpu=None)
    result = _ask(AccuracyGate(of="engine"), Evidence(accuracy=(nowhere,)))
    assert result.why == (
        "no accuracy check of the engine itself counts: it is not said on which GPU it ran"
    )


FAILED = replace(
    ACCURACY, passed=False, failures=("cosine is 0.9, expected at least 0.99", "top-1 is 0.1")
)


def test_a_failed_accuracy_check_is_told_with_value_and_limit() -> None:
    assert _ask(AccuracyGate(), Evidence(accuracy=(FAILED,))) == _refusal(
        "the accuracy of the converted model is too low on data aaaaaaaaaaaa: cosine is 0.9, "
        f"expected at least 0.99; top-1 is 0.1 ('ci', {TIME})"
    )


def test_a_check_that_passed_and_lists_failures_has_failed() -> None:
    assert not _ask(AccuracyGate(), Evidence(accuracy=(replace(FAILED, passed=True),))).passed


@pytest.mark.parametrize("turned", [False, True])
def test_the_newest_result_decides(turned: bool) -> None:
    older = replace(ACCURACY, time=EARLIER)
    results = (FAILED, older) if turned else (older, FAILED)
    assert not _ask(AccuracyGate(), Evidence(accuracy=results)).passed
    mended = (replace(FAILED, time=EARLIER), ACCURACY)
    assert _ask(AccuracyGate(), Evidence(accuracy=mended[::-1] if turned else mended)).passed


def test_of_two_results_at_one_time_the_failed_one_decides() -> None:
    for results in ((ACCURACY, FAILED), (FAILED, ACCURACY)):
        assert not _ask(AccuracyGate(), Evidence(accuracy=results)).passed


def test_the_newest_result_decides_on_whichever_of_the_data_it_is() -> None:
    older = replace(ACCURACY, time=EARLIER, data=B)
    assert not _ask(AccuracyGate(data=(A, B)), Evidence(accuracy=(older, FAILED))).passed


def test_a_failure_that_a_stranger_signed_decides_nothing() -> None:
    older = replace(ACCURACY, time=EARLIER)
    stranger = replace(FAILED, signers=("eve",))
    assert _ask(AccuracyGate(), Evidence(accuracy=(older, stranger))).passed


# Latency


def _latency(
    gate: LatencyGate,
    *measured: Latency,
    replaced: Replaced | None = None,
    candidate: Candidate = CANDIDATE,
) -> GateResult:
    return _ask(gate, Evidence(latency=measured), replaced=replaced, candidate=candidate)


TOLD = f"p99 3 ms, median 2 ms (on 'NVIDIA H200', 'ci', {TIME})"


def test_a_fast_engine_passes() -> None:
    assert _latency(LatencyGate(max_p99_ms=3, max_median_ms=2), LATENCY) == _pass(TOLD)


def test_a_latency_that_nobody_measured_is_refused() -> None:
    assert _latency(LatencyGate()) == _refusal("no measurement of its latency counts", LATENCY_HINT)


@pytest.mark.parametrize(
    ("gate", "why"),
    [
        (LatencyGate(max_p99_ms=2.9), "p99 is 3 ms, expected at most 2.9 ms"),
        (LatencyGate(max_median_ms=1.5), "median is 2 ms, expected at most 1.5 ms"),
        (
            LatencyGate(max_p99_ms=1, max_median_ms=1),
            "p99 is 3 ms, expected at most 1 ms; median is 2 ms, expected at most 1 ms",
        ),
    ],
)
def test_a_slow_engine_is_told_with_value_and_limit(gate: LatencyGate, why: str) -> None:
    assert _latency(gate, LATENCY) == _refusal(f"{why} (on 'NVIDIA H200', 'ci', {TIME})")


@pytest.mark.parametrize(("value", "told"), [(None, "not known"), (float("nan"), "nan ms")])
def test_a_latency_without_a_value_is_within_no_limit(value: float | None, told: str) -> None:
    result = _latency(LatencyGate(max_p99_ms=5), replace(LATENCY, p99_ms=value))
    assert result == _refusal(
        f"p99 is {told}, expected at most 5 ms (on 'NVIDIA H200', 'ci', {TIME})"
    )


def test_the_newest_measurement_decides() -> None:
    slow = replace(LATENCY, p99_ms=9)
    gate = LatencyGate(max_p99_ms=5)
    assert not _latency(gate, replace(LATENCY, time=EARLIER), slow).passed
    assert _latency(gate, LATENCY, replace(slow, time=EARLIER)).passed


def test_latency_on_another_gpu_does_not_count() -> None:
    assert _latency(LatencyGate(), replace(LATENCY, gpu=L4)) == _refusal(
        "no measurement of its latency counts: on 'NVIDIA L4', name is 'NVIDIA L4', expected "
        "'NVIDIA H200' and compute capability is '8.9', expected '9.0' and the number of SMs is "
        "58, expected 132",
        LATENCY_HINT,
    )


def test_latency_with_another_driver_than_the_target_pins_does_not_count() -> None:
    pinned = replace(CANDIDATE, driver="570.1")
    result = _latency(LatencyGate(), LATENCY, candidate=pinned)
    assert result == _refusal(
        "no measurement of its latency counts: on 'NVIDIA H200', driver is 580.1, expected 570.1",
        LATENCY_HINT,
    )
    assert _latency(LatencyGate(), replace(LATENCY, driver="570.1"), candidate=pinned).passed


def test_a_gpu_of_one_of_the_compute_capabilities_will_do() -> None:
    measured = replace(LATENCY, gpu=L4)
    assert _latency(LatencyGate(), measured, candidate=RTX).passed
    assert _latency(LatencyGate(), LATENCY, candidate=RTX).why == (
        "no measurement of its latency counts: on 'NVIDIA H200', compute capability is '9.0', "
        "expected one of 8.6, 8.9"
    )


def test_on_each_kind_of_gpu_the_newest_measurement_decides() -> None:
    slow = replace(LATENCY, gpu=RTX_4090, p99_ms=9, time=EARLIER)
    fast = replace(LATENCY, gpu=L4)
    assert _latency(LatencyGate(max_p99_ms=5), fast, slow, candidate=RTX) == _refusal(
        "p99 is 9 ms, expected at most 5 ms (on 'NVIDIA RTX 4090', 'ci', 2027-06-15 10:00:00 UTC)"
    )
    mended = replace(slow, p99_ms=4, time=LATER)
    assert _latency(LatencyGate(max_p99_ms=5), fast, slow, mended, candidate=RTX).passed


def test_a_little_less_memory_is_the_same_kind_of_gpu() -> None:
    slow = replace(LATENCY, p99_ms=9, time=EARLIER, gpu=replace(H200, memory=149_500_000_000))
    assert _latency(LatencyGate(max_p99_ms=5), LATENCY, slow).passed


# Latency, against the engine that is replaced

RELATIVE = LatencyGate(max_slower_percent=5)


def _before(median: float | None, **changes: object) -> Replaced:
    measured = replace(LATENCY, median_ms=median, time=EARLIER, **changes)  # type: ignore[arg-type]
    return Replaced(engine=C, latency=(measured,))


def test_where_nothing_is_replaced_there_is_nothing_to_be_slower_than() -> None:
    assert _latency(RELATIVE, LATENCY) == _pass(f"{TOLD}; it replaces no engine")


def test_an_engine_is_not_slower_than_itself() -> None:
    itself = Replaced(engine=CANDIDATE.engine)
    assert _latency(RELATIVE, LATENCY, replaced=itself) == _pass(f"{TOLD}; it replaces itself")


def test_an_engine_that_is_a_little_slower_passes() -> None:
    assert _latency(RELATIVE, LATENCY, replaced=_before(2 / 1.05)) == _pass(
        f"{TOLD}; median +5.0 % against the engine that it replaces (cccccccccccc), at most +5 %"
    )


def test_an_engine_that_is_faster_passes() -> None:
    assert _latency(RELATIVE, LATENCY, replaced=_before(4)).passed


def test_an_engine_that_is_too_much_slower_is_refused() -> None:
    assert _latency(RELATIVE, LATENCY, replaced=_before(1.6)) == _refusal(
        "median is 25.0 % over that of the engine that it replaces (cccccccccccc) (2 ms, and "
        "1.6 ms, on 'NVIDIA H200'), expected at most 5 %"
    )


def test_an_engine_that_is_a_hair_too_slow_is_refused() -> None:
    assert not _latency(RELATIVE, LATENCY, replaced=_before(2 / 1.0501)).passed


@pytest.mark.parametrize(("median", "told"), [(None, "not known"), (0.0, "0 ms")])
def test_an_engine_is_compared_with_no_missing_median(median: float | None, told: str) -> None:
    assert _latency(RELATIVE, LATENCY, replaced=_before(median)) == _refusal(
        "its median cannot be compared with that of the engine that it replaces (cccccccccccc): "
        f"2 ms, and {told}"
    )


@pytest.mark.parametrize(
    ("replaced", "how"),
    [
        (Replaced(engine=C), ""),
        (_before(2, gpu=L4), ""),
        (_before(2, signers=("eve",)), ""),
        (_before(2, driver="570.1"), ", but with driver 570.1"),
        (_before(2, point={"profile": 1}), ", but with other shapes"),
        (
            _before(2, point={"profile": 1}, settings={}, driver="570.1"),
            ", but with driver 570.1 and other shapes and other settings",
        ),
    ],
    ids=["never", "gpu", "stranger", "driver", "point", "all"],
)
def test_an_engine_that_was_never_measured_so_cannot_be_compared_with(
    replaced: Replaced, how: str
) -> None:
    assert _latency(RELATIVE, LATENCY, replaced=replaced) == _refusal(
        "the engine that it replaces (cccccccccccc) was never measured on 'NVIDIA H200' with "
        f"driver 580.1 as it was{how}",
        f"with the specs that it was built from, {LATENCY_HINT}",
    )


def test_the_newest_measurement_of_the_replaced_engine_is_compared_with() -> None:
    older = replace(LATENCY, median_ms=2.0, time=EARLIER - timedelta(hours=1))
    newer = replace(LATENCY, median_ms=1.0, time=EARLIER)
    replaced = Replaced(engine=C, latency=(older, newer))
    assert not _latency(RELATIVE, LATENCY, replaced=replaced).passed


def test_an_engine_that_is_over_a_limit_is_refused_whatever_it_replaces() -> None:
    gate = replace(RELATIVE, max_p99_ms=1)
    assert not _latency(gate, LATENCY, replaced=_before(4)).passed


def test_on_each_kind_of_gpu_it_is_compared() -> None:
    here, there = replace(LATENCY, gpu=L4), replace(LATENCY, gpu=RTX_4090)
    both = Replaced(engine=C, latency=(here, there))
    assert _latency(RELATIVE, here, there, candidate=RTX, replaced=both).passed
    one = Replaced(engine=C, latency=(here,))
    assert not _latency(RELATIVE, here, there, candidate=RTX, replaced=one).passed
    slower = Replaced(engine=C, latency=(here, replace(there, median_ms=1)))
    assert not _latency(RELATIVE, here, there, candidate=RTX, replaced=slower).passed


# Load test


def test_an_engine_that_loads_passes() -> None:
    assert _ask(LoadGate(), Evidence(load_tests=(LOADED,))) == _pass(
        f"it loads and runs on 'NVIDIA H200' ('ci', {TIME})"
    )


@pytest.mark.parametrize(
    ("tests", "because"),
    [
        ((), ""),
        ((replace(LOADED, gpu=L4),), ": on 'NVIDIA L4', name is 'NVIDIA L4', expected"),
        ((replace(LOADED, signers=("bob",)),), ": 'bob' is not 'ci'"),
    ],
    ids=["none", "gpu", "signer"],
)
def test_an_engine_that_nobody_loaded_is_refused(tests: tuple[LoadTest, ...], because: str) -> None:
    result = _ask(LoadGate(signed_by=("ci",)), Evidence(load_tests=tests))
    assert not result.passed
    assert result.why.startswith(f"nobody who counts says that it loads and runs{because}")
    assert result.hint == (
        "with `checks: latency:` in its spec, `engineforge check specs/net.yaml --latency` "
        f"on a GPU of target 'h200', then {SIGN} 'ci'"
    )


def test_an_engine_that_does_not_load_any_more_is_refused() -> None:
    failed = replace(LOADED, passed=False, why="out of memory")
    older = replace(LOADED, time=EARLIER)
    assert _ask(LoadGate(), Evidence(load_tests=(failed, older))) == _refusal(
        f"it does not load and run on 'NVIDIA H200': out of memory ('ci', {TIME})"
    )


# Age


def _age(evidence: Evidence, least: timedelta, source: str | None = "dev") -> GateResult:
    return _ask(AgeGate(least=least), evidence, source=source)


@pytest.mark.parametrize("least", [timedelta(hours=2), timedelta(seconds=1)])
def test_an_engine_that_is_old_enough_passes(least: timedelta) -> None:
    assert _age(Evidence(source=IN_DEV), least) == _pass(
        f"it has been in 'dev' since 2027-06-15 10:00:00 UTC, at least {span(least)}"
    )


def test_an_engine_that_is_too_young_is_told_when_it_will_pass() -> None:
    assert _age(Evidence(source=IN_DEV), timedelta(hours=2, seconds=1)) == _refusal(
        "it has been in 'dev' since 2027-06-15 10:00:00 UTC, expected at least 2h 1s",
        "it passes from 2027-06-15 12:00:01 UTC on",
    )


def test_an_engine_from_the_future_has_no_age() -> None:
    soon = replace(IN_DEV, since=NOW + timedelta(hours=1))
    assert not _age(Evidence(source=soon), timedelta(seconds=1)).passed


@pytest.mark.parametrize("found", [NotInSource("gone"), replace(IN_DEV, environment="other")])
def test_an_engine_that_is_not_in_the_source_has_no_age(found: InSource | NotInSource) -> None:
    assert _age(Evidence(source=found), timedelta(hours=1)) == _refusal(
        "it is not in 'dev', so it has no age there",
        "`engineforge promote specs/net.yaml --to dev --key KEY`",
    )


def test_without_a_source_nothing_has_an_age() -> None:
    assert _age(Evidence(source=IN_DEV), timedelta(hours=1), source=None) == _refusal(
        "'staging' takes engines from no environment, so it has no age",
        "write from: ENVIRONMENT, or take the gate out",
    )


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (timedelta(hours=24), "1d"),
        (timedelta(days=1, hours=12, minutes=5), "1d 12h 5m"),
        (timedelta(0), "0s"),
    ],
)
def test_a_duration_is_written_for_people(time: timedelta, text: str) -> None:
    assert span(time) == text


# Approval

BOTH = ApprovalGate(by=("alice", "bob"), count=2)
APPROVE = "`engineforge attest approve specs/net.yaml --to staging --key KEY`, with the key of"


def test_as_many_approvals_as_asked_for_pass() -> None:
    approvals = (APPROVAL, replace(APPROVAL, signers=("bob",)))
    assert _ask(BOTH, Evidence(approvals=approvals)) == _pass("'alice' and 'bob' approved")


def test_two_people_may_sign_one_approval() -> None:
    together = replace(APPROVAL, signers=("alice", "bob"))
    assert _ask(BOTH, Evidence(approvals=(together,))).passed


def test_who_signs_along_and_is_not_asked_for_approves_nothing() -> None:
    together = replace(APPROVAL, signers=("alice", "ci"))
    assert _ask(BOTH, Evidence(approvals=(together,))) == _refusal(
        "expected 2 of 'alice', 'bob' to approve, found 'alice': 'ci' is not 'alice' or 'bob'",
        f"{APPROVE} 'bob'",
    )


def test_without_approvals_it_is_said_who_could_approve() -> None:
    assert _ask(BOTH, Evidence()) == _refusal(
        "expected 2 of 'alice', 'bob' to approve, found none", f"{APPROVE} 'alice' or 'bob'"
    )


def test_one_person_approves_once() -> None:
    approvals = (APPROVAL, replace(APPROVAL, time=EARLIER))
    assert _ask(BOTH, Evidence(approvals=approvals)) == _refusal(
        "expected 2 of 'alice', 'bob' to approve, found 'alice'", f"{APPROVE} 'bob'"
    )


@pytest.mark.parametrize(
    ("approval", "because"),
    [
        (replace(APPROVAL, signers=("ci",)), "'ci' is not 'alice'"),
        (
            replace(APPROVAL, environment="dev"),
            "'alice' approved of it as 'dev/net'",
        ),
        (replace(APPROVAL, spec="other"), "'alice' approved of it as 'staging/other'"),
        (
            replace(APPROVAL, time=NOW + timedelta(days=1)),
            "'alice' signed at 2027-06-16 12:00:00 UTC, which is yet to come",
        ),
    ],
    ids=["signer", "environment", "spec", "future"],
)
def test_an_approval_of_something_else_does_not_count(approval: Approval, because: str) -> None:
    assert _ask(ApprovalGate(by=("alice",)), Evidence(approvals=(approval,))) == _refusal(
        f"expected 1 of 'alice' to approve, found none: {because}", f"{APPROVE} 'alice'"
    )


# What holds for all that is signed

_SIGNED: dict[str, tuple[Gate, Callable[[tuple[str, ...]], Evidence]]] = {
    "provenance": (
        ProvenanceGate(signed_by=("ci",)),
        lambda who: Evidence(provenance=(replace(PROVENANCE, signers=who),)),
    ),
    "accuracy": (
        AccuracyGate(signed_by=("ci",)),
        lambda who: Evidence(accuracy=(replace(ACCURACY, signers=who),)),
    ),
    "latency": (
        LatencyGate(signed_by=("ci",)),
        lambda who: Evidence(latency=(replace(LATENCY, signers=who),)),
    ),
    "load_test": (
        LoadGate(signed_by=("ci",)),
        lambda who: Evidence(load_tests=(replace(LOADED, signers=who),)),
    ),
    "approval": (
        ApprovalGate(by=("ci",)),
        lambda who: Evidence(approvals=(replace(APPROVAL, signers=who),)),
    ),
}


@pytest.mark.parametrize("name", _SIGNED)
def test_every_gate_counts_only_the_signers_that_it_names(name: str) -> None:
    gate, evidence = _SIGNED[name]
    assert _ask(gate, evidence(("bob", "ci"))).passed
    assert not _ask(gate, evidence(("bob",))).passed
    assert not _ask(gate, evidence(())).passed


@pytest.mark.parametrize("name", _SIGNED)
def test_no_gate_counts_a_key_after_its_last_day(name: str) -> None:
    gate, evidence = _SIGNED[name]
    until = replace(CI, not_after=date(2027, 6, 14))
    assert not _ask(gate, evidence(("ci",)), signers=(until,)).passed
