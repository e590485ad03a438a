"""From attestations to what gates decide on: each statement read by its type, under the names of
those who signed it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_type_hints

from engineforge.errors import Untrusted
from engineforge.promotion import candidate
from engineforge.promotion.attest import results
from engineforge.promotion.attest.attestation import Attestation
from engineforge.promotion.attest.provenance import PROVENANCE, read_provenance
from engineforge.target import Gpu


def evidence_of(
    attestations: Iterable[Attestation],
    *,
    variant: str,
    target: str,
    source: candidate.InSource | candidate.NotInSource,
    freshness: candidate.Freshness,
) -> candidate.Evidence:
    """What verified attestations of one engine say. Those of other types say nothing here;
    Untrusted for one that cannot be read though its type is known."""
    provenance: list[candidate.Provenance] = []
    accuracy: list[candidate.Accuracy] = []
    latency: list[candidate.Latency] = []
    load_tests: list[candidate.LoadTest] = []
    approvals: list[candidate.Approval] = []
    for each in attestations:
        signers = tuple(sorted(each.signed_by))
        kind = each.statement.predicate_type
        if kind == PROVENANCE:
            told = read_provenance(each.statement)
            provenance.append(candidate.Provenance(signers=signers, time=told.finished))
        elif kind == results.APPROVAL:
            approval = results.read_approval(each.statement)
            # An approval is of one engine under one name: another variant may have the same bytes.
            if (approval.variant, approval.target) == (variant, target):
                approvals.append(
                    candidate.Approval(
                        signers=signers,
                        time=approval.time,
                        environment=approval.environment,
                        spec=approval.spec,
                    )
                )
        elif kind == results.TEST_RESULT:
            match results.read_result(each.statement):
                case results.Accuracy() as found:
                    accuracy.append(_accuracy(found, signers))
                case results.Latency() as found:
                    latency.append(latency_of(found, signers))
                case results.LoadTest() as found:
                    load_tests.append(
                        candidate.LoadTest(
                            signers=signers,
                            time=found.time,
                            passed=found.passed,
                            why=found.why,
                            gpu=_gpu(found.on.gpu),
                            driver=found.on.driver,
                        )
                    )
    return candidate.Evidence(
        provenance=tuple(provenance),
        accuracy=tuple(accuracy),
        latency=tuple(latency),
        load_tests=tuple(load_tests),
        approvals=tuple(approvals),
        source=source,
        freshness=freshness,
    )


def _accuracy(found: results.Accuracy, signers: tuple[str, ...]) -> candidate.Accuracy:
    return candidate.Accuracy(
        signers=signers,
        time=found.time,
        of=found.of,
        data=found.data,
        passed=found.passed,
        failures=found.failures,
        gpu=None if found.on is None else _gpu(found.on.gpu),
        driver=None if found.on is None else found.on.driver,
    )


def latency_of(found: results.Latency, signers: tuple[str, ...]) -> candidate.Latency:
    return candidate.Latency(
        signers=signers,
        time=found.time,
        median_ms=found.median_ms,
        p99_ms=found.p99_ms,
        gpu=_gpu(found.on.gpu),
        driver=found.on.driver,
        point=found.point,
        settings=found.settings,
    )


def _gpu(facts: Mapping[str, Any]) -> Gpu:
    kinds = get_type_hints(Gpu)
    wrong = sorted(
        name
        for name in kinds.keys() | facts.keys()
        # Exactly: True is a number to `isinstance`.
        if name not in facts
        or type(facts[name]) not in (get_args(kinds.get(name)) or (kinds.get(name),))
    )
    if wrong:
        raise Untrusted(f"an attestation tells of no GPU, by '{wrong[0]}'")
    return Gpu(**facts)
