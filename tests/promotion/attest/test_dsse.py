from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engineforge.errors import Untrusted
from engineforge.promotion.attest.dsse import Envelope, pae, verify
from engineforge.promotion.attest.keys import KINDS, Kind, read_public_key
from tests.promotion.attest.samples import new_key

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

# From the DSSE specification's protocol.md: its test vector, signed with ECDSA over P-256.
TYPE, BODY = "http://example.com/HelloWorld", b"hello world"
X = 46950820868899156662930047687818585632848591499744589407958293238635476079160
Y = 5640078356564379163099075877009565129882514886557779369047442380624545832820
SIGNATURE = (
    "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
)


def test_what_is_signed_is_that_of_the_specification() -> None:
    assert pae(BODY, TYPE) == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_lengths_are_in_bytes() -> None:
    assert pae("π".encode(), "ü") == b"DSSEv1 2 \xc3\xbc 2 \xcf\x80"


def test_the_signature_of_the_specification_verifies() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    point = ec.EllipticCurvePublicNumbers(X, Y, ec.SECP256R1()).public_key()
    pem = point.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    raw = base64.b64decode(SIGNATURE)  # r and s; ours are DER, as cosign has them
    signature = encode_dss_signature(*(int.from_bytes(raw[at : at + 32], "big") for at in (0, 32)))
    envelope = Envelope(payload=BODY, payload_type=TYPE, signatures=(signature,))
    assert verify(envelope, {"spec": read_public_key(pem, called="spec")}) == {"spec"}


@pytest.mark.parametrize("kind", KINDS)
def test_who_signed_is_told_by_name(kind: Kind) -> None:
    ann, bob, eve = new_key(kind), new_key(kind), new_key(kind)
    envelope = Envelope.sign(BODY, TYPE, ann, bob)
    keys = {"ann": ann.public, "bob": bob.public, "eve": eve.public}
    assert verify(envelope, keys) == {"ann", "bob"}


def test_a_key_is_not_taken_for_two_signers() -> None:
    key = new_key()
    envelope = Envelope.sign(BODY, TYPE, key)
    with pytest.raises(Untrusted, match="'ann' and 'bob' are the same key"):
        verify(envelope, {"ann": key.public, "bob": key.public})


def test_signing_twice_counts_once() -> None:
    key = new_key("ecdsa-p256")
    assert verify(Envelope.sign(BODY, TYPE, key, key), {"ann": key.public}) == {"ann"}


@pytest.mark.parametrize(
    ("payload", "payload_type"), [(b"hello worlds", TYPE), (BODY, TYPE + "s"), (b"", TYPE)]
)
def test_a_signature_is_of_the_payload_and_its_type(payload: bytes, payload_type: str) -> None:
    key = new_key()
    signed = Envelope.sign(BODY, TYPE, key)
    swapped = Envelope(payload=payload, payload_type=payload_type, signatures=signed.signatures)
    assert verify(swapped, {"ann": key.public}) == frozenset()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("signature", [b"", b"x", bytes(64), b"\x30\x06\x02\x01\x00\x02\x01\x00"])
def test_garbage_is_nobodys_signature(kind: Kind, signature: bytes) -> None:
    envelope = Envelope(payload=BODY, payload_type=TYPE, signatures=(signature,))
    assert verify(envelope, {"ann": new_key(kind).public}) == frozenset()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(payload=st.binary(max_size=200), payload_type=st.text(max_size=20).filter(bool))
def test_what_was_written_is_read(payload: bytes, payload_type: str) -> None:
    try:
        payload_type.encode()
    except UnicodeEncodeError:
        return
    envelope = Envelope(payload=payload, payload_type=payload_type, signatures=(b"one", b"two"))
    assert Envelope.from_json(envelope.to_json()) == envelope


GOOD: dict[str, Any] = {
    "payload": "aGVsbG8=",
    "payloadType": "text/plain",
    "signatures": [{"sig": "eA=="}],
}


def test_the_identity_of_a_key_is_only_a_hint() -> None:
    told = {**GOOD, "signatures": [{"sig": "eA==", "keyid": "whatever"}]}
    assert Envelope.from_json(told) == Envelope.from_json(GOOD)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ([], "expected an object"),
        ({**GOOD, "more": 1}, "there is 'more'"),
        ({**GOOD, "payload": 3}, "expected a string"),
        ({**GOOD, "payload": "aGVsbG8"}, "no base64"),
        ({**GOOD, "payload": "aGVsbG8=\n"}, "no base64"),
        ({**GOOD, "payload": "aGVsbG9="}, "in another way"),
        ({**GOOD, "payload": "-_8="}, "no base64"),
        ({**GOOD, "payload": "ä"}, "no base64"),
        ({**GOOD, "payloadType": None}, "expected a string"),
        ({**GOOD, "signatures": []}, "0 signatures"),
        ({**GOOD, "signatures": [{"sig": "eA=="}] * 33}, "33 signatures"),
        ({**GOOD, "signatures": ["eA=="]}, "expected an object"),
        ({**GOOD, "signatures": [{}]}, "'sig' is missing"),
        ({**GOOD, "signatures": [{"sig": "eA==", "cert": ""}]}, "there is 'cert'"),
        ({**GOOD, "signatures": [{"sig": "eA==", "keyid": 1}]}, "expected a string"),
        ({"payload": ""}, "'payloadType' is missing"),
    ],
)
def test_what_is_no_envelope_is_refused(bad: object, why: str) -> None:
    with pytest.raises(Untrusted, match=why):
        Envelope.from_json(bad)


class TestAgainstSecuresystemslib:
    """An implementation that is not ours."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_it_verifies_what_we_sign(self, kind: Kind) -> None:
        from cryptography.hazmat.primitives.serialization import load_der_public_key
        from securesystemslib.dsse import Envelope as Other
        from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

        key = new_key(kind)
        theirs = SSlibKey.from_crypto(load_der_public_key(key.public.der))
        envelope = Envelope.sign(BODY, TYPE, key)
        raw = json.loads(json.dumps(envelope.to_json()))
        raw["signatures"][0]["keyid"] = theirs.keyid  # which it does not do without
        other = Other.from_dict(raw)
        assert other.pae() == pae(BODY, TYPE)
        assert list(other.verify([theirs], 1)) == [theirs.keyid]

    @pytest.mark.parametrize("kind", KINDS)
    def test_we_verify_what_it_signs(self, kind: Kind) -> None:
        from securesystemslib.dsse import Envelope as Other
        from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

        private = new_key(kind)
        signer = CryptoSigner(private._key)
        other = Other(BODY, TYPE, {})
        other.sign(signer)
        envelope = Envelope.from_json(json.loads(json.dumps(other.to_dict())))
        assert verify(envelope, {"other": private.public}) == {"other"}
