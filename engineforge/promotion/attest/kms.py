"""Keys that never leave a KMS: AWS's, Google's, Azure's and HashiCorp Vault's, through
securesystemslib, whose URIs they have. Credentials are where each KMS's own library looks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from engineforge.errors import EngineForgeError, HostUnfit
from engineforge.promotion.attest.keys import BadKey, PublicKey, read_public_key

_AZURE = re.compile(r"azurekms://([^./]+)\.vault\.azure\.net/keys/([^/]+)(?:/[^/]+)?")


class KmsUnavailable(EngineForgeError):
    """A KMS that does not answer, does not let us in, or has no such key; in its own words."""


@dataclass(frozen=True, slots=True)
class KmsKey:
    """A private key in a KMS."""

    uri: str
    public: PublicKey
    _signer: Any = field(repr=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, uri: str) -> KmsKey:
        """BadKey for a key or URI that will not do, HostUnfit without the KMS's library."""
        real, key = _imported(uri)
        library = _library()
        signer = _asked(uri, lambda: library.Signer.from_priv_key_uri(real, key))
        return cls(uri, _public(uri, key), signer)

    def sign(self, data: bytes) -> bytes:
        signature = _asked(self.uri, lambda: self._signer.sign(data))
        made = bytes.fromhex(signature.signature)
        # Somebody may have put another key in its place since it was opened.
        if not self.public.verify(made, data):
            raise KmsUnavailable(f"'{self.uri}' gave a signature that is not of its public key")
        return made


def public_key(uri: str) -> PublicKey:
    """The public half of a key in a KMS."""
    return _public(uri, _imported(uri)[1])


_ED25519 = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of such a key in its DER (RFC 8410)."""


def _imported(uri: str) -> tuple[str, Any]:
    """A key's URI as its signer wants it, and its public half as securesystemslib has that."""
    library = _library()
    scheme, _, name = uri.partition(":")
    if name.startswith("//") and scheme != "azurekms":
        _no_uri(uri, f"{scheme}:NAME, without slashes before the name")
    match scheme:
        case "awskms":
            found = _asked(uri, lambda: library.AWSSigner.import_(name))
        case "gcpkms":
            found = _asked(uri, lambda: library.GCPSigner.import_(name))
        case "azurekms":
            if (match := _AZURE.fullmatch(uri)) is None:
                _no_uri(uri, "azurekms://VAULT.vault.azure.net/keys/KEY/VERSION")
            found = _asked(uri, lambda: library.AzureSigner.import_(*match.groups()))
        case "hv" if name:
            found = _asked(uri, lambda: library.VaultSigner.import_(name.partition("/")[0]))
        case _:
            _no_uri(uri, "awskms:KEY, gcpkms:NAME, azurekms://… or hv:NAME/VERSION")
    real, key = found
    # Azure and Vault give the newest version, whichever was asked for.
    if real != uri and real.rpartition("/")[0] != uri:
        raise BadKey(
            f"'{uri}' is not the newest version of that key, which is '{real}'",
            hint="name that; to verify with an older one, name a PEM file of its public key",
        )
    return real, key


def _public(uri: str, key: Any) -> PublicKey:  # noqa: ANN401 - a key of securesystemslib
    value = str(key.keyval["public"])
    if key.keytype == "ed25519":  # 32 bytes in hexadecimal, unlike the others' PEM
        return PublicKey(_ED25519 + bytes.fromhex(value), "ed25519")
    return read_public_key(value.encode(), called=uri)


def _asked(uri: str, ask: Callable[[], Any]) -> Any:  # noqa: ANN401 - what is asked for
    from securesystemslib.exceptions import UnsupportedAlgorithmError, UnsupportedLibraryError

    try:
        return ask()
    except UnsupportedLibraryError as error:
        raise HostUnfit(f"'{uri}': {error}", hint=_INSTALL) from error
    except UnsupportedAlgorithmError as error:
        raise BadKey(f"'{uri}': {error}", hint=_KINDS) from error
    except Exception as error:
        if type(error).__name__ == "UnsupportedKeyType":  # Azure's own, in a module with its SDK
            raise BadKey(f"'{uri}': {error}", hint=_KINDS) from error
        raise KmsUnavailable(
            f"'{uri}' cannot be used: {error}",
            hint="are its address and credentials where the KMS's own tools look for them?",
        ) from error


def _no_uri(uri: str, expected: str) -> NoReturn:
    raise BadKey(f"'{uri}' is no URI of a key", hint=f"expected {expected}")


_INSTALL = "python -m pip install 'engineforge[kms]'"
_KINDS = "make a key for signing with ECDSA over P-256 and SHA-256, or Ed25519"


def _library() -> Any:  # noqa: ANN401 - securesystemslib.signer, which exports nothing by name
    try:
        from securesystemslib import signer
    except ImportError as error:
        message = "keys in a KMS need the package 'securesystemslib'"
        raise HostUnfit(message, hint=_INSTALL) from error
    return signer
