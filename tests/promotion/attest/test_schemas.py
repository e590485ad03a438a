"""What we say, held to the published schemas of in-toto and SLSA: their protobuf messages."""

from __future__ import annotations

from typing import Any

import pytest

from engineforge.promotion.attest.provenance import PROVENANCE
from engineforge.promotion.attest.results import APPROVAL, SUMMARY, TEST_RESULT
from engineforge.promotion.attest.statement import Statement
from tests.conftest import Forge
from tests.promotion.attest.samples import statement
from tests.promotion.attest.test_provenance import (
    EXPORTED,
    ONNX,
    PREPARED,
    made,
    of_built,
)
from tests.promotion.attest.test_results import APPROVED, RESULTS, VERIFIED

pytest.importorskip("in_toto_attestation", reason="python -m pip install 'engineforge[test]'")

from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2  # type: ignore[import-untyped]
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2  # type: ignore[import-untyped]
from in_toto_attestation.predicates.vsa.v1 import vsa_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1 import statement_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor  # type: ignore[import-untyped]
from in_toto_attestation.v1.statement import Statement as Theirs  # type: ignore[import-untyped]

SAID = [
    *(statement(TEST_RESULT, **each.to_predicate()) for each in RESULTS),
    statement(APPROVAL, **APPROVED.to_predicate()),
    statement(SUMMARY, **VERIFIED.to_predicate()),
    statement(PROVENANCE, **made(source=EXPORTED, prepared=PREPARED, onnx=ONNX).to_predicate()),
    statement(PROVENANCE, **made({"git": "0123-dirty"}).to_predicate()),
]
_MESSAGES: dict[str, Any] = {
    TEST_RESULT: test_result_pb2.TestResult,
    SUMMARY: vsa_pb2.VerificationSummary,
    PROVENANCE: provenance_pb2.Provenance,
}


def _descriptors(message: Any) -> list[Any]:  # noqa: ANN401 - protobuf messages have no types here
    match message.DESCRIPTOR.name:
        case "TestResult":
            return [*message.configuration]
        case "Provenance":
            details = message.run_details
            return [*message.build_definition.resolved_dependencies, *details.byproducts]
    return []


def validate(said: Statement) -> None:
    """ParseError for a field that the schemas do not have, ValueError for one that is wrong."""
    message = json_format.Parse(said.to_bytes(), statement_pb2.Statement())
    Theirs.copy_from_pb(message).validate()
    schema = _MESSAGES.get(said.predicate_type)
    if schema is not None:
        raw = dict(said.predicate)
        if said.predicate_type == SUMMARY:
            # By the specification a list; the message of 0.9.3 has one string there.
            assert all(isinstance(each, str) for each in raw.pop("verifiedLevels"))
        predicate = json_format.ParseDict(raw, schema())
        for each in _descriptors(predicate):
            ResourceDescriptor.copy_from_pb(each).validate()


@pytest.mark.parametrize(
    "said", SAID, ids=lambda said: said.predicate_type.rpartition("/")[0][-20:]
)
def test_what_is_said_is_by_the_schema(said: Statement) -> None:
    validate(said)


def test_what_is_said_of_a_real_engine_is_by_the_schema(built: Forge) -> None:
    validate(statement(PROVENANCE, **of_built(built.cache).to_predicate()))


@pytest.mark.parametrize("said", [s for s in SAID if s.predicate_type in _MESSAGES][-3:])
def test_a_field_that_the_schema_does_not_have_would_be_seen(said: Statement) -> None:
    with pytest.raises(json_format.ParseError, match="surprise"):
        validate(statement(said.predicate_type, **said.predicate, surprise=1))
