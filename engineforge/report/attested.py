"""What is known of an engine in an environment, as lines for people and as JSON. Pure: prints
nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engineforge.promotion.attest import provenance, results
from engineforge.promotion.attest.attestation import Attestation
from engineforge.promotion.attest.strict import time_text
from engineforge.promotion.verifying import Verified
from engineforge.report.promotion import engine_data

_KINDS = {
    provenance.PROVENANCE: "provenance",
    results.TEST_RESULT: "test result",
    results.APPROVAL: "approval",
    results.SUMMARY: "promotion",
}


def verified_lines(found: Verified) -> Iterator[str]:
    """Where an engine comes from, who says so, and by what it was let in."""
    engine, state, artifact = found.engine, found.state, found.artifact
    yield f"{state.spec}/{engine.name} in {state.environment}, number {state.number}"
    yield f"  engine      {engine.engine}  {artifact.engine.size} B"
    yield f"  manifest    {engine.manifest}"
    yield f"  runs on     {artifact.gpu}, {artifact.backend} {artifact.tensorrt}"
    yield f"  promoted    {time_text(engine.since)}, signed by {', '.join(sorted(state.signed_by))}"
    for told, signed_by in found.provenance:
        commit = told.commit or "unknown, or with changes"
        yield (
            f"  built       {time_text(told.finished)} on {told.internal.get('host')}, git commit "
            f"{commit}; signed by {', '.join(sorted(signed_by))}"
        )
        for came in told.dependencies:
            digests = " ".join(f"{kind}:{value}" for kind, value in came.digests.items())
            yield f"    from      {came.name}  {digests or came.uri}"
    if not found.provenance:
        yield "  built       nobody whose key counts says how"
    for name, verdict in engine.gates.items():
        word = "passed" if verdict.passed else "OVERRIDDEN" if verdict.overridden else "REFUSED"
        yield f"  {word:10}  {name}: {verdict.why}"
    for each in found.attestations:
        yield f"  attested    {_kind(each)}, signed by {', '.join(sorted(each.signed_by))}"
    yield from (f"  LACKING     {what}" for what in found.lacking)


def verified_data(found: Verified) -> dict[str, Any]:
    return {
        "spec": found.state.spec,
        "environment": found.state.environment,
        "number": found.state.number,
        "signed_by": sorted(found.state.signed_by),
        **engine_data(found.engine),
        "provenance": [
            {**told.to_predicate(), "signed_by": sorted(signed_by)}
            for told, signed_by in found.provenance
        ],
        "attestations": [
            {"kind": _kind(each), "digest": each.digest, "signed_by": sorted(each.signed_by)}
            for each in found.attestations
        ],
        "lacking": list(found.lacking),
    }


def _kind(attestation: Attestation) -> str:
    kind = attestation.statement.predicate_type
    return _KINDS.get(kind, kind)
