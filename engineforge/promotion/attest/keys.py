"""Keys that sign and verify: ECDSA over P-256 with SHA-256 (signatures in DER, as cosign has them)
and Ed25519, from PEM files, or in a KMS (kms.py)."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from engineforge.digest import digest_bytes
from engineforge.errors import HostUnfit, UsageError
from engineforge.promotion.attest.strict import base64_text

Kind = Literal["ecdsa-p256", "ed25519"]
KINDS: tuple[Kind, ...] = ("ecdsa-p256", "ed25519")

KMS_SCHEMES = ("awskms:", "gcpkms:", "azurekms:", "hv:")
"""How the URIs of keys in a KMS begin."""

_MOST_BYTES = 64 << 10
_LABEL = re.compile(rb"^-----BEGIN ([A-Z0-9 ]+)-----\s*$", re.MULTILINE)


class BadKey(UsageError):
    """Not the kind of key that is asked for; the hint says how to come by one."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """`der` is its SubjectPublicKeyInfo, so that two are equal where the keys are."""

    der: bytes = field(repr=False)
    kind: Kind

    @property
    def hint(self) -> str:
        """How Sigstore bundles call a plain key: base64 of the sha256 of its DER."""
        return base64_text(bytes.fromhex(digest_bytes(self.der).hex))

    def to_pem(self) -> bytes:
        text = base64_text(self.der)
        lines = [text[at : at + 64] for at in range(0, len(text), 64)]
        return "\n".join(
            ["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""]
        ).encode()

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether that is a signature of the data by this key."""
        _cryptography()
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519

        key = serialization.load_der_public_key(self.der)
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, data)
            elif isinstance(key, ec.EllipticCurvePublicKey):
                key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
            else:
                raise RuntimeError(f"a {type(key).__name__} in place of a key of {KINDS}")
        except InvalidSignature:
            return False
        return True


class SigningKey(Protocol):
    """A private key, wherever it is."""

    @property
    def public(self) -> PublicKey: ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What its owner should hear of it, a line each."""
        ...

    def sign(self, data: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """One in this process's memory."""

    _key: Any = field(repr=False)
    public: PublicKey
    notes: tuple[str, ...] = ()

    def sign(self, data: bytes) -> bytes:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        if self.public.kind == "ed25519":
            return bytes(self._key.sign(data))
        return bytes(self._key.sign(data, ec.ECDSA(hashes.SHA256())))


def open_signing_key(text: str, *, root: Path, password: str | None = None) -> SigningKey:
    """The key of a PEM file, as a path from the folder `root` on, or of a KMS by its URI.

    BadKey says what is wrong with it, `KmsUnavailable` (kms.py) that the KMS does not answer. The
    KMS's own library reads credentials where it always does, from this process's environment.
    """
    if text.startswith(KMS_SCHEMES):
        from engineforge.promotion.attest.kms import KmsKey

        return KmsKey.open(text)
    path = root / text
    key = read_private_key(_bytes_of(path, text), called=text, password=password)
    if not (open_to := _open_to(path)):
        return key
    note = f"'{text}' is a private key, and {open_to} can read it: chmod 600 {text}"
    return PrivateKey(key._key, key.public, (note,))


def open_public_key(text: str, *, root: Path) -> PublicKey:
    """The same of a public key; that of a KMS is asked for."""
    if text.startswith(KMS_SCHEMES):
        from engineforge.promotion.attest.kms import public_key

        return public_key(text)
    return read_public_key(_bytes_of(root / text, text), called=text)


def read_public_key(data: bytes, *, called: str) -> PublicKey:
    """A public key in PEM; BadKey for anything else, by what it is `called`."""
    _cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    labels = _labels(data, called)
    if labels == ["CERTIFICATE"]:
        raise BadKey(
            f"'{called}' is a certificate, expected a public key",
            hint=f"take the key out of it: openssl x509 -in {called} -pubkey -noout",
        )
    if any("PRIVATE KEY" in label for label in labels):
        raise BadKey(
            f"'{called}' is a private key, expected a public one",
            hint=f"keep it to yourself, and name its public half: openssl pkey -in {called} "
            "-pubout",
        )
    if labels != ["PUBLIC KEY"]:
        kinds = ", ".join(f"'{label}'" for label in labels)
        raise BadKey(f"'{called}' holds {kinds}, expected one 'PUBLIC KEY'", hint=_MAKE)
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadKey(f"'{called}' is a broken public key: {error}", hint=_MAKE) from error
    return _public(key, called)


def read_private_key(data: bytes, *, called: str, password: str | None) -> PrivateKey:
    """A private key in PEM (PKCS #8, or what OpenSSL wrote before that); BadKey for anything else,
    and where the password is wrong."""
    _cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    labels = _labels(data, called)
    if not any("PRIVATE KEY" in label for label in labels):
        what = "a public key" if labels == ["PUBLIC KEY"] else f"a '{labels[0].lower()}'"
        raise BadKey(f"'{called}' is {what}, expected a private key", hint=_MAKE)
    for label, hint in _FOREIGN.items():
        if any(label in each for each in labels):
            raise BadKey(f"'{called}' is an '{label.lower()}', expected PKCS #8", hint=hint)
    encrypted = b"ENCRYPTED" in data
    if encrypted and password is None:
        raise BadKey(f"'{called}' is encrypted, and no password was given", hint=_PASSWORD)
    try:
        given = password.encode() if encrypted and password is not None else None
        key = serialization.load_pem_private_key(data, given)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            message = f"'{called}' cannot be decrypted: the password is wrong, or the file broken"
            raise BadKey(message, hint=_PASSWORD) from error
        raise BadKey(f"'{called}' is a broken private key: {error}", hint=_MAKE) from error
    return PrivateKey(key, _public(key.public_key(), called))


def generate(kind: Kind, *, password: str | None = None) -> tuple[bytes, bytes]:
    """A new key: PEM of the private one (PKCS #8, encrypted where there is a password), and of the
    public one. BadKey for an empty password."""
    _cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    if kind == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    else:
        key = ec.generate_private_key(ec.SECP256R1())
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        if not password:
            raise BadKey("an empty password encrypts nothing", hint="give one, or none at all")
        encryption = serialization.BestAvailableEncryption(password.encode())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    return private, _public(key.public_key(), "the new key").to_pem()


_MAKE = "make a key with `engineforge attest key`"
_PASSWORD = "give the password that it was encrypted with: $ENGINEFORGE_KEY_PASSWORD"  # noqa: S105
_COSIGN = "cosign alone reads that: make a key with `engineforge attest key`, and cosign verifies "
_FOREIGN = {
    "SIGSTORE PRIVATE KEY": _COSIGN + "with its public half",
    "COSIGN PRIVATE KEY": _COSIGN + "with its public half",
    "OPENSSH PRIVATE KEY": "write a copy of it in the other format: ssh-keygen -p -m pkcs8 -f COPY",
}


def _public(key: object, called: str) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    hint = "make one with `engineforge attest key`: ECDSA over P-256, or Ed25519"
    match key:
        case ed25519.Ed25519PublicKey():
            kind: Kind = "ed25519"
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1()):
            kind = "ecdsa-p256"
        case ec.EllipticCurvePublicKey():
            message = f"'{called}' is an elliptic curve key over {key.curve.name}, expected P-256"
            raise BadKey(message, hint=hint)
        case rsa.RSAPublicKey():
            raise BadKey(f"'{called}' is an RSA key, which signs nothing here", hint=hint)
        case _:
            name = type(key).__name__.removesuffix("PublicKey").lstrip("_")
            raise BadKey(f"'{called}' is a key for {name}, which signs nothing here", hint=hint)
    # Written anew: the same key has the same bytes, whoever wrote its file.
    return PublicKey(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), kind)


def _labels(data: bytes, called: str) -> list[str]:
    labels = [label.decode() for label in _LABEL.findall(data)]
    if not labels:
        raise BadKey(f"'{called}' is no PEM file, so there is no key in it", hint=_MAKE)
    return labels


def _bytes_of(path: Path, called: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BadKey(f"'{called}' cannot be read: {error.strerror}", hint=_MAKE) from error
    if len(data) > _MOST_BYTES:
        raise BadKey(f"'{called}' is too large for a key", hint=_MAKE)
    return data


def _open_to(path: Path) -> str | None:
    """Who but its owner can read a file; None for nobody."""
    mode = path.stat().st_mode
    if mode & stat.S_IROTH:
        return "everybody"
    return "its group" if mode & stat.S_IRGRP else None


def _cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise HostUnfit(
            "signatures need the package 'cryptography'",
            hint="python -m pip install 'engineforge[promotion]'",
        ) from error
