"""Attestations: statements with the names of the keys that signed them. Nothing unsigned becomes
one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import EngineForgeError, Untrusted
from engineforge.promotion.attest.bundle import Bundle
from engineforge.promotion.attest.dsse import Envelope, verify
from engineforge.promotion.attest.keys import PublicKey, SigningKey
from engineforge.promotion.attest.statement import PAYLOAD_TYPE, Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """`data` is the bundle as it was read, and `digest` the sha256 of that."""

    statement: Statement
    signed_by: frozenset[str]
    digest: Digest
    data: bytes


def read_attestation(data: bytes, keys: Mapping[str, PublicKey]) -> Attestation:
    """The attestation of a Sigstore bundle that one of these keys signed; Untrusted for any other,
    and for what is none."""
    bundle = Bundle.from_bytes(data)
    envelope = bundle.envelope
    if envelope.payload_type != PAYLOAD_TYPE:
        raise Untrusted(f"the envelope holds a '{envelope.payload_type}', not '{PAYLOAD_TYPE}'")
    signed_by = verify(envelope, keys)
    if not signed_by:
        names = ", ".join(f"'{name}'" for name in sorted(keys)) or "none, for there are no keys"
        hinted = [name for name, key in sorted(keys.items()) if key.hint == bundle.hint]
        said = f"; it says that it is of '{hinted[0]}'" if hinted else ""
        raise Untrusted(f"the signature is by none of the keys that count here: {names}{said}")
    return Attestation(
        statement=Statement.from_bytes(envelope.payload),
        signed_by=signed_by,
        digest=digest_bytes(data),
        data=data,
    )


def sign_attestation(statement: Statement, key: SigningKey) -> bytes:
    """The Sigstore bundle of a statement; EngineForgeError for one too large to be read again."""
    try:
        envelope = Envelope.sign(statement.to_bytes(), PAYLOAD_TYPE, key)
        return Bundle(envelope=envelope, hint=key.public.hint).to_bytes()
    except ValueError as error:
        raise EngineForgeError(f"the statement cannot be signed: {error}") from error
