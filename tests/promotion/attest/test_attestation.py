from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from engineforge.digest import digest_bytes
from engineforge.errors import EngineForgeError, Untrusted
from engineforge.promotion.attest.attestation import read_attestation, sign_attestation
from engineforge.promotion.attest.bundle import MEDIA_TYPE, Bundle
from engineforge.promotion.attest.dsse import Envelope
from engineforge.promotion.attest.keys import KINDS, Kind
from engineforge.promotion.attest.statement import PAYLOAD_TYPE
from engineforge.promotion.attest.strict import MOST_BYTES
from tests.promotion.attest.samples import new_key, statement

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_signed_is_read(kind: Kind) -> None:
    key, other = new_key(kind), new_key()
    data = sign_attestation(statement(), key)
    read = read_attestation(data, {"ci": key.public, "ann": other.public})
    assert read.statement == statement()
    assert read.signed_by == {"ci"}
    assert (read.data, read.digest) == (data, digest_bytes(data))


def test_ed25519_signs_the_same_statement_with_the_same_bytes() -> None:
    key = new_key("ed25519")
    assert sign_attestation(statement(), key) == sign_attestation(statement(), key)


def test_a_statement_too_large_to_be_read_again_is_not_signed() -> None:
    with pytest.raises(EngineForgeError, match="cannot be signed"):
        sign_attestation(statement(said="x" * MOST_BYTES), new_key())


def test_a_bundle_too_large_to_be_read_again_is_not_written() -> None:
    with pytest.raises(EngineForgeError, match="cannot be signed"):
        sign_attestation(statement(said="x" * (MOST_BYTES * 7 // 8)), new_key())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flip", [0x01, 0x04, 0x20, 0x80, 0xFF])
def test_no_flipped_byte_makes_another_statement_of_it(kind: Kind, flip: int) -> None:
    key = new_key(kind)
    data = sign_attestation(statement(), key)
    keys, refused = {"ci": key.public}, 0
    for at in range(len(data)):
        flipped = data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]
        try:
            read = read_attestation(flipped, keys)
        except Untrusted:
            refused += 1
            continue
        assert read.statement == statement(), at
        assert read.signed_by == {"ci"}
    # The rest is the hint, which proves nothing.
    assert refused > len(data) - 50


def test_no_shorter_bundle_is_read() -> None:
    key = new_key()
    data = sign_attestation(statement(), key)
    for length in range(len(data)):
        with pytest.raises(Untrusted):
            read_attestation(data[:length], {"ci": key.public})


def test_the_signature_of_another_key_is_refused() -> None:
    data = sign_attestation(statement(), new_key())
    with pytest.raises(Untrusted, match=r"by none of the keys that count here: 'ann', 'ci'$"):
        read_attestation(data, {"ci": new_key().public, "ann": new_key("ecdsa-p256").public})


def test_without_keys_nothing_is_trusted() -> None:
    with pytest.raises(Untrusted, match="there are no keys"):
        read_attestation(sign_attestation(statement(), new_key()), {})


def _edited(data: bytes, **fields: Any) -> bytes:  # noqa: ANN401
    raw = json.loads(data)
    raw["dsseEnvelope"] |= fields
    return json.dumps(raw).encode()


def test_a_swapped_payload_is_refused_though_it_says_whose_it_is() -> None:
    key = new_key()
    data = sign_attestation(statement(), key)
    payload = base64.b64encode(statement(said="other").to_bytes()).decode()
    with pytest.raises(Untrusted, match="it says that it is of 'ci'"):
        read_attestation(_edited(data, payload=payload), {"ci": key.public})


def test_the_signature_of_another_statement_is_refused() -> None:
    key = new_key()
    one, two = (sign_attestation(statement(said=each), key) for each in ("one", "two"))
    signatures = json.loads(two)["dsseEnvelope"]["signatures"]
    with pytest.raises(Untrusted, match="none of the keys"):
        read_attestation(_edited(one, signatures=signatures), {"ci": key.public})


def test_a_signed_payload_of_another_type_is_no_statement() -> None:
    key = new_key()
    envelope = Envelope.sign(statement().to_bytes(), "application/json", key)
    data = Bundle(envelope=envelope, hint=key.public.hint).to_bytes()
    with pytest.raises(Untrusted, match=f"not '{PAYLOAD_TYPE}'".replace("+", r"\+")):
        read_attestation(data, {"ci": key.public})


def test_a_signed_payload_with_a_name_twice_is_no_statement() -> None:
    key = new_key()
    payload = statement().to_bytes()[:-1] + b',"predicateType":"https://example.com/p/v2"}'
    envelope = Envelope.sign(payload, PAYLOAD_TYPE, key)
    data = Bundle(envelope=envelope, hint=key.public.hint).to_bytes()
    with pytest.raises(Untrusted, match="'predicateType' occurs twice"):
        read_attestation(data, {"ci": key.public})


def test_a_bundle_with_a_name_twice_is_refused() -> None:
    key = new_key()
    data = sign_attestation(statement(), key)
    twice = data[:-1] + b',"dsseEnvelope":{}}'
    with pytest.raises(Untrusted, match="'dsseEnvelope' occurs twice"):
        read_attestation(twice, {"ci": key.public})


def test_a_bundle_is_as_cosign_writes_it_for_a_plain_key() -> None:
    key = new_key("ecdsa-p256")
    raw = json.loads(sign_attestation(statement(), key))
    assert raw["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json" == MEDIA_TYPE
    assert raw["verificationMaterial"] == {
        "publicKey": {"hint": key.public.hint},
        "tlogEntries": [],
    }
    assert raw["dsseEnvelope"]["payloadType"] == PAYLOAD_TYPE
    # cosign compares a `keyid` with one of its own making: there must be none.
    assert [sorted(each) for each in raw["dsseEnvelope"]["signatures"]] == [["sig"]]


@pytest.mark.parametrize("kind", KINDS)
def test_sigstores_own_models_read_a_bundle(kind: Kind) -> None:
    from sigstore_models.bundle.v1 import Bundle as Theirs

    key = new_key(kind)
    data = sign_attestation(statement(), key)
    read = Theirs.from_json(data)
    assert read.media_type == MEDIA_TYPE
    assert read.verification_material.public_key is not None
    assert read.verification_material.public_key.hint == key.public.hint
    assert read.dsse_envelope is not None
    assert read.dsse_envelope.payload == statement().to_bytes()


def _with(**fields: Any) -> Any:  # noqa: ANN401
    key = new_key()
    return {**json.loads(sign_attestation(statement(), key)), **fields}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.2"}, "version=0.2"),
        ({"mediaType": None}, "expected a string"),
        ({"messageSignature": {}}, "there is 'messageSignature'"),
        ({"verificationMaterial": {}}, "not signed by a plain key"),
        ({"verificationMaterial": {"certificate": {"rawBytes": ""}}}, "not signed by a plain key"),
        ({"verificationMaterial": {"publicKey": {"hint": "?"}}}, "hint of the bundle is no base64"),
        ({"verificationMaterial": {"publicKey": {"rawBytes": ""}}}, "there is 'rawBytes'"),
        ({"verificationMaterial": {"publicKey": {}, "certificate": {}}}, "there is 'certificate'"),
        ({"dsseEnvelope": None}, "expected an object"),
    ],
)
def test_what_is_no_bundle_of_ours_is_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(Untrusted, match=why):
        Bundle.from_bytes(json.dumps(_with(**fields)).encode())


def test_entries_of_transparency_logs_are_passed_over() -> None:
    material = {"publicKey": {"hint": ""}, "tlogEntries": [{}], "timestampVerificationData": {}}
    read = Bundle.from_bytes(json.dumps(_with(verificationMaterial=material)).encode())
    assert read.hint == ""


def test_a_bundle_has_one_signature() -> None:
    envelope = Envelope.sign(b"{}", PAYLOAD_TYPE, new_key(), new_key())
    with pytest.raises(Untrusted, match="2 signatures, expected 1"):
        Bundle.from_bytes(Bundle(envelope=envelope, hint="").to_bytes())
