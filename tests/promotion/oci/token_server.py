"""A token server for docker-registry: gives those who log in what they ask for."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from tests.store.remote_servers import serving

ISSUER, SERVICE = "the tests", "the registry of the tests"


@dataclass
class TokenServer:
    realm: str
    certificate: Path
    authorization: str | None
    """What a GET has to come with; without: whoever asks."""
    identity: str = "an identity token"
    lives: int = 300
    said_lives: float | None = None
    """What it says of how long tokens live, where that is a lie."""
    scopes: list[list[str]] = field(default_factory=list)
    """Of each request that it answered with a token."""

    @property
    def config(self) -> dict[str, str]:
        return {
            "realm": self.realm,
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": str(self.certificate),
        }


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    now = datetime.now(timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )


def _written(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _token(
    key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, scopes: list[str], lives: int
) -> str:
    der = certificate.public_bytes(serialization.Encoding.DER)
    head = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
    access = []
    for scope in scopes:
        kind, rest = scope.split(":", 1)
        name, actions = rest.rsplit(":", 1)
        access.append({"type": kind, "name": name, "actions": actions.split(",")})
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": SERVICE,
        # The registry lets tokens live a minute longer than they say.
        "exp": now + lives - 60,
        "nbf": now - 600,
        "iat": now - 600,
        "jti": "1",
        "access": access,
    }
    signed = ".".join(_written(json.dumps(part).encode()) for part in (head, claims))
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{_written(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@contextlib.contextmanager
def token_server(folder: Path, authorization: str | None) -> Iterator[TokenServer]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(key)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "certificate.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made = TokenServer("", file, authorization)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            if made.authorization and self.headers.get("Authorization") != made.authorization:
                self._answer(401, {"details": f"not {self.headers.get('Authorization')}"})
            else:
                self._give(asked.get("scope", []))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            asked = parse_qs(body)
            if asked.get("refresh_token") != [made.identity]:
                self._answer(401, {})
            else:
                self._give(asked["scope"][0].split(), "access_token")

        def _give(self, scopes: list[str], name: str = "token") -> None:
            made.scopes.append(scopes)
            token = _token(key, certificate, scopes, made.lives)
            said = made.lives if made.said_lives is None else made.said_lives
            self._answer(200, {name: token, "expires_in": said})

        def _answer(self, status: int, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        made.realm = f"http://127.0.0.1:{port}/token"
        yield made
