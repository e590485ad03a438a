from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from engineforge.promotion.attest.keys import (
    KINDS,
    BadKey,
    Kind,
    generate,
    open_public_key,
    open_signing_key,
)

pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")

WORD = "pässword"
MAKE = "make a key with `engineforge attest key`"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture
def pair(tmp_path: Path, kind: Kind) -> Path:
    """A folder with a key, `it.key` and `it.pub`."""
    private, public = generate(kind)
    (tmp_path / "it.key").write_bytes(private)
    (tmp_path / "it.key").chmod(0o600)
    (tmp_path / "it.pub").write_bytes(public)
    return tmp_path


def test_what_a_key_signs_its_public_half_verifies(pair: Path, kind: Kind) -> None:
    private = open_signing_key("it.key", root=pair)
    public = open_public_key("it.pub", root=pair)
    assert private.public == public
    assert public.kind == kind
    signature = private.sign(b"data")
    assert public.verify(signature, b"data")
    assert not public.verify(signature, b"date")
    assert private.notes == ()


def test_no_two_new_keys_are_the_same(kind: Kind) -> None:
    assert generate(kind) != generate(kind)


def test_a_path_may_be_absolute(pair: Path) -> None:
    assert open_public_key(str(pair / "it.pub"), root=Path("/")).to_pem()


def test_a_public_key_is_written_as_openssl_writes_it(pair: Path) -> None:
    command = ["openssl", "pkey", "-in", str(pair / "it.key"), "-pubout"]
    pem = subprocess.run(command, check=True, capture_output=True).stdout
    assert open_public_key("it.pub", root=pair).to_pem() == pem


def test_the_hint_is_base64_of_the_sha256_of_the_der(pair: Path) -> None:
    body = "".join((pair / "it.pub").read_text().splitlines()[1:-1])
    digest = hashlib.sha256(base64.b64decode(body)).digest()
    assert open_public_key("it.pub", root=pair).hint == base64.b64encode(digest).decode()


def test_ecdsa_signatures_are_der_as_openssl_verifies_them(tmp_path: Path) -> None:
    private, public = generate("ecdsa-p256")
    (tmp_path / "it.key").write_bytes(private)
    (tmp_path / "it.pub").write_bytes(public)
    (tmp_path / "data").write_bytes(b"data")
    key = open_signing_key("it.key", root=tmp_path)
    (tmp_path / "signature").write_bytes(key.sign(b"data"))
    command = ["openssl", "dgst", "-sha256", "-verify", "it.pub", "-signature", "signature", "data"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0


def test_neither_half_is_shown(pair: Path) -> None:
    key = open_signing_key("it.key", root=pair)
    body = (pair / "it.key").read_text().splitlines()[1]
    assert body not in repr(key)
    assert "der" not in repr(key.public)


def test_an_encrypted_key_is_opened_with_its_password(tmp_path: Path, kind: Kind) -> None:
    private, public = generate(kind, password=WORD)
    (tmp_path / "it.key").write_bytes(private)
    assert b"ENCRYPTED PRIVATE KEY" in private
    key = open_signing_key("it.key", root=tmp_path, password=WORD)
    assert key.public.to_pem() == public


@pytest.mark.parametrize(
    ("password", "why"), [(None, "no password was given"), ("other", "the password is wrong")]
)
def test_an_encrypted_key_is_not_opened_without_it(
    tmp_path: Path, password: str | None, why: str
) -> None:
    (tmp_path / "it.key").write_bytes(generate("ed25519", password=WORD)[0])
    with pytest.raises(BadKey, match=why) as caught:
        open_signing_key("it.key", root=tmp_path, password=password)
    assert caught.value.hint == (
        "give the password that it was encrypted with: $ENGINEFORGE_KEY_PASSWORD"
    )


def test_an_empty_password_is_not_taken_for_none(kind: Kind) -> None:
    with pytest.raises(BadKey, match="an empty password encrypts nothing"):
        generate(kind, password="")


def test_a_password_does_no_harm_to_a_key_without_one(pair: Path) -> None:
    assert open_signing_key("it.key", root=pair, password=WORD).sign(b"data")


@pytest.mark.parametrize(("mode", "who"), [(0o644, "everybody"), (0o640, "its group")])
def test_a_private_key_that_others_can_read_is_told_of(pair: Path, mode: int, who: str) -> None:
    (pair / "it.key").chmod(mode)
    key = open_signing_key("it.key", root=pair)
    assert key.notes == (f"'it.key' is a private key, and {who} can read it: chmod 600 it.key",)
    assert key.sign(b"data")


def _openssl(*words: str) -> bytes:
    return subprocess.run(["openssl", *words], check=True, capture_output=True).stdout


def _rsa() -> bytes:
    return _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")


def _p384() -> bytes:
    return _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384")


def _x25519() -> bytes:
    return _openssl("genpkey", "-algorithm", "X25519")


def _public(private: bytes) -> bytes:
    command = ["openssl", "pkey", "-pubout"]
    return subprocess.run(command, check=True, capture_output=True, input=private).stdout


def _certificate() -> bytes:
    both = _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-subj", "/CN=x", "-keyout", "/dev/null"),
    )
    return both[both.index(b"-----BEGIN CERTIFICATE") :]


def _foreign(label: str) -> Callable[[], bytes]:
    return f"-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n".encode


@pytest.mark.parametrize(
    ("make", "why", "hint"),
    [
        (_certificate, "'k' is a certificate, expected a public key", "openssl x509 -in k"),
        (lambda: generate("ed25519")[0], "is a private key, expected a public", "-pubout"),
        (lambda: generate("ed25519", password=WORD)[0], "is a private key", "-pubout"),
        (lambda: _public(_rsa()), "is an RSA key", "P-256, or Ed25519"),
        (lambda: _public(_p384()), "over secp384r1, expected P-256", "P-256, or Ed25519"),
        (lambda: _public(_x25519()), "is a key for X25519", "P-256, or Ed25519"),
        (lambda: generate("ed25519")[1] * 2, "'PUBLIC KEY', 'PUBLIC KEY', expected one", MAKE),
        (lambda: generate("ed25519")[1][:60], "no PEM file|is a broken public key", MAKE),
        (_foreign("PUBLIC KEY"), "is a broken public key", MAKE),
        (lambda: b"\x00\x01garbage", "is no PEM file", MAKE),
        (lambda: b"", "is no PEM file", MAKE),
        (lambda: b"x" * 70_000, "is too large for a key", MAKE),
    ],
    ids=range(12),
)
def test_what_is_no_public_key_is_refused(
    tmp_path: Path, make: Callable[[], bytes], why: str, hint: str
) -> None:
    (tmp_path / "k").write_bytes(make())
    with pytest.raises(BadKey, match=why) as caught:
        open_public_key("k", root=tmp_path)
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("make", "why", "hint"),
    [
        (_certificate, "is a 'certificate', expected a private key", MAKE),
        (lambda: generate("ed25519")[1], "is a public key, expected a private key", MAKE),
        (_rsa, "is an RSA key", "P-256, or Ed25519"),
        (_p384, "over secp384r1, expected P-256", "P-256, or Ed25519"),
        (_foreign("PRIVATE KEY"), "is a broken private key", MAKE),
        (_foreign("ENCRYPTED SIGSTORE PRIVATE KEY"), "expected PKCS #8", "cosign alone reads"),
        (_foreign("OPENSSH PRIVATE KEY"), "'openssh private key'", "ssh-keygen -p -m pkcs8"),
        (lambda: b"garbage", "is no PEM file", MAKE),
    ],
    ids=range(8),
)
def test_what_is_no_private_key_is_refused(
    tmp_path: Path, make: Callable[[], bytes], why: str, hint: str
) -> None:
    (tmp_path / "k").write_bytes(make())
    with pytest.raises(BadKey, match=why) as caught:
        open_signing_key("k", root=tmp_path)
    assert hint in str(caught.value.hint)
    assert caught.value.exit_code == 2


def test_what_openssl_wrote_before_pkcs8_is_read(tmp_path: Path) -> None:
    (tmp_path / "k").write_bytes(_openssl("ecparam", "-name", "prime256v1", "-genkey"))
    assert open_signing_key("k", root=tmp_path).public.kind == "ecdsa-p256"


@pytest.mark.parametrize("opened", [open_public_key, open_signing_key])
def test_a_key_that_is_not_there_is_told(tmp_path: Path, opened: Callable[..., object]) -> None:
    with pytest.raises(BadKey, match=r"'none\.key' cannot be read: No such file"):
        opened("none.key", root=tmp_path)
