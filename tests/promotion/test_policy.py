"""The policy that a ledger keeps: what it is, and when an environment asks for more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engineforge.digest import Digest, canonical_json
from engineforge.promotion.policy import looser_than, policy
from engineforge.spec.environments import (
    GATES,
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

NAMES = ("alice", "bob", "ci", "eve")
DATA = tuple(Digest("sha256:" + 64 * each) for each in "abc")
SIGNED = (ProvenanceGate, AccuracyGate, LatencyGate, LoadGate)
LIMITS = ("max_p99_ms", "max_median_ms", "max_slower_percent")


def _environment(gates: Mapping[str, Gate], source: str | None = "dev") -> Environment:
    """One whose signers are all but eve."""
    return Environment(
        name="staging",
        store="./staging",
        source=source,
        signers={name: Signer(name=name, key=f"{name}.pub") for name in NAMES[:-1]},
        promoters=("ci",),
        gates=gates,
        retention=Retention(),
    )


FULL = _environment(
    {
        "provenance": ProvenanceGate(signed_by=("ci",)),
        "freshness": FreshnessGate(),
        "accuracy": AccuracyGate(of="engine", data=DATA[:2]),
        "latency": LatencyGate(max_p99_ms=4.2, max_slower_percent=5, signed_by=("ci", "bob")),
        "load_test": LoadGate(),
        "age": AgeGate(least=timedelta(hours=24)),
        "approval": ApprovalGate(by=("bob", "alice"), count=2),
    }
)


def _some(names: tuple[str, ...], least: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(st.sampled_from(names), unique=True, min_size=least).map(tuple)


LIMIT = st.none() | st.floats(0.001, 1e6)
SIGNERS = _some(NAMES[:-1])
APPROVALS = _some(NAMES[:-1], 1).flatmap(
    lambda by: st.builds(ApprovalGate, by=st.just(by), count=st.integers(1, len(by)))
)
SECONDS = st.integers(1, 10**9).map(lambda seconds: timedelta(seconds=seconds))
EACH: dict[str, st.SearchStrategy[Any]] = {
    "provenance": st.builds(ProvenanceGate, signed_by=SIGNERS),
    "freshness": st.just(FreshnessGate()),
    "accuracy": st.builds(
        AccuracyGate, of=st.sampled_from(("model", "engine")), data=_some(DATA), signed_by=SIGNERS
    ),
    "latency": st.builds(
        LatencyGate,
        max_p99_ms=LIMIT,
        max_median_ms=LIMIT,
        max_slower_percent=LIMIT,
        signed_by=SIGNERS,
    ),
    "load_test": st.builds(LoadGate, signed_by=SIGNERS),
    "age": st.builds(AgeGate, least=SECONDS),
    "approval": APPROVALS,
}
ENVIRONMENTS = st.builds(
    _environment, st.fixed_dictionaries({}, optional=EACH), st.sampled_from((None, "dev", "test"))
)


def _with(gate: LatencyGate, name: str, limit: float | None) -> LatencyGate:
    changes: dict[str, Any] = {name: limit}
    return replace(gate, **changes)


def _looser(gate: Gate) -> Iterator[Gate]:
    """A gate with one parameter each that lets more pass."""
    if isinstance(gate, SIGNED):
        names = gate.signed_by or NAMES[:-1]
        yield replace(gate, signed_by=(*names, "eve"))
    if isinstance(gate, AccuracyGate):
        yield replace(gate, of="model" if gate.of == "engine" else "engine")
        if gate.data:
            yield replace(gate, data=(*gate.data, Digest("sha256:" + 64 * "f")))
            yield replace(gate, data=())
    if isinstance(gate, LatencyGate):
        for name in LIMITS:
            if (limit := getattr(gate, name)) is not None:
                yield _with(gate, name, limit * 1.0001)
                yield _with(gate, name, None)
    if isinstance(gate, AgeGate):
        yield replace(gate, least=gate.least - timedelta(seconds=1))
    if isinstance(gate, ApprovalGate):
        yield replace(gate, count=gate.count - 1)
        yield replace(gate, by=(*gate.by, "eve"))


def _stricter(gate: Gate) -> Iterator[Gate]:
    """A gate with one parameter each that lets less pass."""
    if isinstance(gate, SIGNED):
        yield replace(gate, signed_by=(gate.signed_by or NAMES[:-1])[:1])
    if isinstance(gate, AccuracyGate):
        yield replace(gate, data=gate.data[:1] or DATA)
    if isinstance(gate, LatencyGate):
        for name in LIMITS:
            yield _with(gate, name, (getattr(gate, name) or 1) * 0.999)
    if isinstance(gate, AgeGate):
        yield replace(gate, least=gate.least + timedelta(seconds=1))
    if isinstance(gate, ApprovalGate):
        yield replace(gate, count=gate.count + 1)
        yield replace(gate, by=gate.by[:1])


@given(ENVIRONMENTS)
def test_what_an_environment_asks_for_is_enough_for_it(environment: Environment) -> None:
    recorded = json.loads(json.dumps(policy(environment)))
    assert looser_than(recorded, environment) == []


@given(ENVIRONMENTS)
def test_a_policy_can_be_written_in_one_way_only(environment: Environment) -> None:
    assert json.loads(canonical_json(policy(environment))) == policy(environment)


@given(ENVIRONMENTS)
def test_loosening_any_one_parameter_is_found(environment: Environment) -> None:
    for name, gate in environment.gates.items():
        for each in _looser(gate):
            then = replace(environment, gates={**environment.gates, name: each})
            (found,) = looser_than(policy(then), environment)
            assert found.startswith(f"'{name}': ")


@given(ENVIRONMENTS)
def test_a_gate_that_was_not_there_is_found(environment: Environment) -> None:
    for name in environment.gates:
        left = {each: gate for each, gate in environment.gates.items() if each != name}
        recorded = policy(replace(environment, gates=left))
        assert looser_than(recorded, environment) == [f"'{name}' was not asked for"]


@given(ENVIRONMENTS)
def test_tightening_any_one_parameter_is_enough(environment: Environment) -> None:
    for name, gate in environment.gates.items():
        for each in _stricter(gate):
            then = replace(environment, gates={**environment.gates, name: each})
            assert looser_than(policy(then), environment) == []


@given(ENVIRONMENTS)
def test_more_gates_than_asked_for_are_enough(environment: Environment) -> None:
    recorded = policy(replace(environment, gates={**FULL.gates, **environment.gates}))
    assert looser_than(recorded, environment) == []


def test_the_samples_have_every_gate() -> None:
    assert list(EACH) == list(FULL.gates) == list(GATES)


@given(st.sampled_from(sorted(EACH)).flatmap(lambda name: EACH[name]))
def test_every_parameter_of_a_gate_is_in_its_policy(gate: Gate) -> None:
    (parameters,) = policy(_environment({"it": gate}, None)).values()
    names = {"least_seconds" if name == "least" else name for name in gate.__dataclass_fields__}
    assert set(parameters) == {
        name for name in names if name not in LIMITS or getattr(gate, name) is not None
    }


def test_a_limit_that_no_gate_had_when_it_was_let_in_is_not_missed_until_it_is_asked_for() -> None:
    recorded = {"it": {"signed_by": ["ci"], "max_p99_ms": "4.2"}}
    asked = LatencyGate(max_p99_ms=5, signed_by=("ci",))
    assert looser_than(recorded, _environment({"it": asked}, None)) == []
    asked = replace(asked, max_median_ms=9)
    assert looser_than(recorded, _environment({"it": asked}, None)) == [
        "'it': 'max_median_ms' was not asked for"
    ]


def test_a_limit_that_was_written_as_none_was_not_asked_for() -> None:
    recorded = {"it": {"signed_by": ["ci"], **dict.fromkeys(LIMITS)}}
    asked = LatencyGate(signed_by=("ci",))
    assert looser_than(recorded, _environment({"it": asked}, None)) == []
    assert looser_than(recorded, _environment({"it": replace(asked, max_p99_ms=1)}, None)) == [
        "'it': 'max_p99_ms' was not asked for"
    ]


def test_a_policy_names_all_parameters_that_a_gate_has() -> None:
    assert policy(FULL) == {
        "source": {"from": "dev"},
        "provenance": {"signed_by": ["ci"]},
        "freshness": {},
        "accuracy": {
            "of": "engine",
            "data": sorted(DATA[:2]),
            "signed_by": ["alice", "bob", "ci"],
        },
        "latency": {
            "max_p99_ms": "4.2",
            "max_slower_percent": "5",
            "signed_by": ["bob", "ci"],
        },
        "load_test": {"signed_by": ["alice", "bob", "ci"]},
        "age": {"least_seconds": 86400},
        "approval": {"by": ["alice", "bob"], "count": 2},
    }


def test_a_first_environment_names_no_source() -> None:
    assert policy(replace(FULL, source=None, gates={})) == {}


@pytest.mark.parametrize(
    ("gate", "then", "said"),
    [
        (
            ProvenanceGate(signed_by=("ci",)),
            ProvenanceGate(),
            "'it': 'signed_by' had 'alice', 'bob' as well",
        ),
        (AccuracyGate(of="engine"), AccuracyGate(), "'it': 'of' was 'model', and is 'engine'"),
        (AccuracyGate(data=DATA), AccuracyGate(), "'it': any data did, and only some does"),
        (
            LatencyGate(max_p99_ms=4.2),
            LatencyGate(max_p99_ms=5),
            "'it': 'max_p99_ms' was 5, and is 4.2",
        ),
        (
            LatencyGate(max_slower_percent=0),
            LatencyGate(),
            "'it': 'max_slower_percent' was not asked for",
        ),
        (
            AgeGate(least=timedelta(days=2)),
            AgeGate(least=timedelta(hours=36)),
            "'it': 1d 12h were enough, and 2d are asked for",
        ),
        (
            ApprovalGate(by=("bob", "ci"), count=2),
            ApprovalGate(by=("bob", "ci")),
            "'it': 1 had to approve, and 2 have to",
        ),
        (
            ApprovalGate(by=("bob",)),
            ApprovalGate(by=("bob", "ci")),
            "'it': 'by' had 'ci' as well",
        ),
    ],
)
def test_what_a_policy_lacks_is_said(gate: Gate, then: Gate, said: str) -> None:
    recorded = policy(_environment({"it": then}))
    assert looser_than(recorded, _environment({"it": gate})) == [said]


def test_another_source_is_found() -> None:
    recorded = policy(replace(FULL, source="test"))
    assert looser_than(recorded, FULL) == ["'source': 'from' was 'test', and is 'dev'"]
    assert looser_than(policy(replace(FULL, source=None)), FULL) == ["'source' was not asked for"]


def test_a_signer_who_left_the_environment_is_found() -> None:
    left = {name: FULL.signers[name] for name in ("ci", "bob")}
    wanted = replace(FULL, signers=left, gates={"load_test": LoadGate()})
    assert looser_than(policy(FULL), wanted) == ["'load_test': 'signed_by' had 'alice' as well"]


def test_an_empty_policy_lacks_all_of_it() -> None:
    assert looser_than({}, FULL) == [
        f"'{name}' was not asked for" for name in ("source", *FULL.gates)
    ]


BROKEN: list[tuple[str, Any]] = [
    ("provenance", None),
    ("provenance", []),
    ("provenance", {}),
    ("provenance", {"signed_by": "ci"}),
    ("provenance", {"signed_by": [None]}),
    ("provenance", {"signed_by": []}),
    ("freshness", True),
    ("latency", {"max_p99_ms": 1}),
    ("latency", {**policy(FULL)["latency"], "max_p99_ms": "nan"}),
    ("latency", {**policy(FULL)["latency"], "max_p99_ms": "-1x"}),
    ("latency", {**policy(FULL)["latency"], "max_p99_ms": 1}),
    ("age", {"least_seconds": "86400"}),
    ("age", {"least_seconds": True}),
    ("age", {"least_seconds": None}),
    ("age", {"least_seconds": -(10**30)}),
    ("approval", {"by": ["alice", "bob"], "count": 2.0}),
    ("approval", {"by": [], "count": 2}),
]


@pytest.mark.parametrize(("name", "parameters"), BROKEN)
def test_a_policy_that_cannot_be_read_asked_for_nothing(name: str, parameters: object) -> None:
    found = looser_than({**policy(FULL), name: parameters}, FULL)
    assert len(found) == 1
    assert found[0].startswith(f"'{name}'")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
JSON = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=3), SCALARS)
KEYS = st.sampled_from(["signed_by", "of", "data", "by", "count", "least_seconds", "from", *LIMITS])


@given(
    st.dictionaries(
        st.sampled_from(["source", *GATES]), JSON | st.dictionaries(KEYS, JSON), max_size=3
    )
)
def test_no_policy_is_a_traceback(recorded: dict[str, Any]) -> None:
    assert looser_than(recorded, FULL)


@given(
    st.sampled_from(["source", *(name for name in GATES if name != "freshness")]),
    JSON | st.dictionaries(KEYS, JSON),
)
def test_anything_in_the_place_of_a_gate_is_found(name: str, parameters: object) -> None:
    assert looser_than({**policy(FULL), name: parameters}, FULL)
