"""Signed envelopes, by DSSE 1.0.2 (github.com/secure-systems-lab/dsse): some bytes, what they are,
and signatures of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engineforge.errors import Untrusted
from engineforge.promotion.attest.keys import PublicKey, SigningKey
from engineforge.promotion.attest.strict import (
    Fields,
    base64_text,
    read_base64,
)

_MOST_SIGNATURES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """`payload` are the very bytes that the signatures are of, beside its type."""

    payload: bytes
    payload_type: str
    signatures: tuple[bytes, ...]

    @classmethod
    def sign(cls, payload: bytes, payload_type: str, *keys: SigningKey) -> Envelope:
        signed = pae(payload, payload_type)
        return cls(
            payload=payload,
            payload_type=payload_type,
            signatures=tuple(key.sign(signed) for key in keys),
        )

    def to_json(self) -> dict[str, Any]:
        # No `keyid`: what Go programs such as cosign make of a key is none that is named there, and
        # with another one they pass the signature by.
        return {
            "payload": base64_text(self.payload),
            "payloadType": self.payload_type,
            "signatures": [{"sig": base64_text(each)} for each in self.signatures],
        }

    @classmethod
    def from_json(cls, raw: object) -> Envelope:
        """Untrusted for what is none. A signature's `keyid` is only a hint, and not looked at."""
        fields = Fields(raw, "the envelope")
        payload = read_base64(fields.text("payload"), "the payload of the envelope")
        payload_type = fields.text("payloadType")
        given = fields.each("signatures")
        fields.done()
        if not 1 <= len(given) <= _MOST_SIGNATURES:
            raise Untrusted(
                f"the envelope has {len(given)} signatures, expected 1 to {_MOST_SIGNATURES}"
            )
        signatures = []
        for each in given:
            signatures.append(read_base64(each.text("sig"), "a signature of the envelope"))
            if each.has("keyid"):
                each.text("keyid")
            each.done()
        return cls(payload=payload, payload_type=payload_type, signatures=tuple(signatures))


def pae(payload: bytes, payload_type: str) -> bytes:
    """What is signed: the pre-authentication encoding, with lengths in bytes."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def verify(envelope: Envelope, keys: Mapping[str, PublicKey]) -> frozenset[str]:
    """The names of the keys of which it has a signature. Untrusted where the key of one has two
    names: it could be taken for two signers."""
    signed = pae(envelope.payload, envelope.payload_type)
    found = {
        name: key
        for name, key in keys.items()
        if any(key.verify(each, signed) for each in envelope.signatures)
    }
    names: dict[PublicKey, str] = {}
    for name, key in sorted(found.items()):
        if (other := names.setdefault(key, name)) != name:
            raise Untrusted(
                f"'{other}' and '{name}' are the same key, so nobody can tell who signed",
                hint="give each signer a key of their own",
            )
    return frozenset(found)
