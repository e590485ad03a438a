"""in-toto statements, version 1 (github.com/in-toto/attestation): what is said, of which files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engineforge.digest import Digest
from engineforge.errors import Untrusted
from engineforge.promotion.attest.strict import Fields, read_object, written

TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
"""What envelopes call their payload that is a statement."""

ENGINE_FILE = "model.engine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    name: str
    digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """`predicate` is plain JSON, and what it means is said by `predicate_type`. ValueError without
    a subject, a type or anything said."""

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not self.subjects or not self.predicate_type or not self.predicate:
            raise ValueError("a statement has a subject, a predicate type and a predicate")

    @property
    def subject_digests(self) -> frozenset[Digest]:
        return frozenset(each.digest for each in self.subjects)

    def to_bytes(self) -> bytes:
        """Always the same for the same statement; ValueError for one too large to be read."""
        return written(
            {
                "_type": TYPE,
                "subject": [
                    {"name": each.name, "digest": {"sha256": each.digest.hex}}
                    for each in self.subjects
                ],
                "predicateType": self.predicate_type,
                "predicate": self.predicate,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Statement:
        """Untrusted for what is none, and for subjects without just a sha256."""
        fields = Fields(read_object(data, "the statement"), "the statement")
        if (kind := fields.text("_type")) != TYPE:
            raise Untrusted(f"the statement is a '{kind}', expected '{TYPE}'")
        subjects = []
        for each in fields.each("subject"):
            name = each.text("name") if each.has("name") else ""
            subjects.append(Subject(name=name, digest=each.sha256()))
            each.done()
        predicate_type, predicate = fields.text("predicateType"), fields.mapping("predicate")
        fields.done()
        try:
            return cls(subjects=tuple(subjects), predicate_type=predicate_type, predicate=predicate)
        except ValueError as error:
            raise Untrusted(f"no statement: {error}") from error


def of_engine(
    predicate_type: str,
    predicate: Mapping[str, Any],
    *,
    label: str,
    manifest: Digest,
    engine: Digest,
) -> Statement:
    """What is said of an engine: of its artifact by the digest of the `manifest`, under its `label`
    (`variant@target`), and of the `engine` file itself, wherever it is found."""
    return Statement(
        subjects=(
            Subject(name=label, digest=manifest),
            Subject(name=ENGINE_FILE, digest=engine),
        ),
        predicate_type=predicate_type,
        predicate=predicate,
    )


def predicate_of(statement: Statement, predicate_type: str) -> Fields:
    """The predicate, to be read; Untrusted where it is of another type, or another version."""
    if statement.predicate_type != predicate_type:
        raise Untrusted(f"the statement is a '{statement.predicate_type}'")
    return Fields(statement.predicate, "the predicate")
