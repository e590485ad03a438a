"""Sigstore bundles, version 0.3 (github.com/sigstore/protobuf-specs, sigstore_bundle.proto), as
cosign writes them for a plain key: an envelope, and a hint which key it is of."""

from __future__ import annotations

from dataclasses import dataclass

from engineforge.errors import Untrusted
from engineforge.promotion.attest.dsse import Envelope
from engineforge.promotion.attest.strict import Fields, read_base64, read_object, written

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """`hint` is base64 of the sha256 of the public key's DER, as cosign has it. It says which key
    to try, and proves nothing."""

    envelope: Envelope
    hint: str

    def to_bytes(self) -> bytes:
        """Always the same for the same envelope; ValueError for one too large to be read."""
        return written(
            {
                "mediaType": MEDIA_TYPE,
                # Empty, and yet there: sigstore's Python models ask for it.
                "verificationMaterial": {"publicKey": {"hint": self.hint}, "tlogEntries": []},
                "dsseEnvelope": self.envelope.to_json(),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Bundle:
        """Untrusted for what is none, or one of a certificate: only plain keys are known here.

        Entries of transparency logs and time stamps may be there and are not looked at.
        """
        fields = Fields(read_object(data, "the bundle"), "the bundle")
        if (media_type := fields.text("mediaType")) != MEDIA_TYPE:
            raise Untrusted(f"the bundle is a '{media_type}', expected '{MEDIA_TYPE}'")
        material = fields.fields("verificationMaterial")
        if not material.has("publicKey"):
            raise Untrusted(
                "the bundle is not signed by a plain key",
                hint="sign with a key (`cosign … --key`): certificates are not read",
            )
        key = material.fields("publicKey")
        hint = key.text("hint") if key.has("hint") else ""
        read_base64(hint, "the hint of the bundle")
        key.done()
        material.drop("tlogEntries", "timestampVerificationData")
        material.done()
        envelope = Envelope.from_json(fields.take("dsseEnvelope"))
        fields.done()
        if len(envelope.signatures) != 1:
            raise Untrusted(
                f"the envelope in the bundle has {len(envelope.signatures)} signatures, expected 1"
            )
        return cls(envelope=envelope, hint=hint)
