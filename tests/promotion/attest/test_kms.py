from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from engineforge.promotion.attest.attestation import read_attestation, sign_attestation
from engineforge.promotion.attest.keys import BadKey, open_public_key, open_signing_key
from engineforge.promotion.attest.kms import KmsUnavailable
from tests.promotion.attest.samples import statement

pytest.importorskip("securesystemslib", reason="python -m pip install 'engineforge[kms]'")
pytest.importorskip("cryptography", reason="python -m pip install 'engineforge[promotion]'")
boto3 = pytest.importorskip("boto3", reason="python -m pip install 'engineforge[kms]'")
server = pytest.importorskip("moto.server", reason="python -m pip install 'engineforge[test]'")

from cryptography.hazmat.primitives.asymmetric import ec, ed25519  # noqa: E402 - when it is there
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed  # noqa: E402
from cryptography.hazmat.primitives.hashes import SHA256  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """AWS's KMS, as moto plays it."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def kms(address: str, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401
    # AWS's library reads the environment by itself.
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return boto3.client("kms")


def _made(kms: Any, spec: str) -> str:  # noqa: ANN401
    made = kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec=spec)
    return f"awskms:{made['KeyMetadata']['KeyId']}"


Answer = Callable[[str, dict[str, Any]], Any]


@contextlib.contextmanager
def playing(answer: Answer) -> Iterator[str]:
    """The address of a KMS that answers so; `answer` gets a path or target, and what is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            asked = json.loads(self.rfile.read(length) or b"{}")
            body = json.dumps(answer(self.headers.get("X-Amz-Target", self.path), asked)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST  # noqa: N815 - http.server's names

        def log_message(self, *words: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.fixture
def signing(kms: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:  # noqa: ANN401
    """AWS's KMS with one key, "awskms:it". moto signs the digest that it is given as if that were
    the message, which AWS does not."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def answer(target: str, asked: dict[str, Any]) -> object:
        assert asked.pop("KeyId") == "it"
        if target == "TrentService.GetPublicKey":
            return {"PublicKey": _text(der), "SigningAlgorithms": ["ECDSA_SHA_256"]}
        assert target == "TrentService.Sign"
        digest = base64.b64decode(asked.pop("Message"))
        assert asked == {"MessageType": "DIGEST", "SigningAlgorithm": "ECDSA_SHA_256"}
        return {"Signature": _text(key.sign(digest, ec.ECDSA(Prehashed(SHA256()))))}

    with playing(answer) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        yield "awskms:it"


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """HashiCorp Vault with a key in two versions, of which the second is "hv:it/2"."""
    pytest.importorskip("hvac", reason="python -m pip install 'engineforge[kms]'")
    keys = {str(n): ed25519.Ed25519PrivateKey.generate() for n in (1, 2)}

    def answer(path: str, asked: dict[str, Any]) -> object:
        if path == "/v1/transit/keys/it":
            raw = {n: key.public_key().public_bytes_raw() for n, key in keys.items()}
            return {"data": {"keys": {n: {"public_key": _text(each)} for n, each in raw.items()}}}
        assert path.startswith("/v1/transit/sign/it")
        made = keys[str(asked["key_version"])].sign(base64.b64decode(asked["input"]))
        return {"data": {"signature": f"vault:v2:{_text(made)}"}}

    with playing(answer) as address:
        monkeypatch.setenv("VAULT_ADDR", address)
        monkeypatch.setenv("VAULT_TOKEN", "x")
        yield "hv:it/2"


@pytest.mark.parametrize("uri", ["hv:it/2", "hv:it"])
def test_a_key_in_vault_signs_what_its_public_half_verifies(
    vault: str, tmp_path: Path, uri: str
) -> None:
    key = open_signing_key(uri, root=tmp_path)
    public = open_public_key(vault, root=tmp_path)
    assert (public.kind, key.public) == ("ed25519", public)
    data = sign_attestation(statement(), key)
    assert read_attestation(data, {"ci": public}).statement == statement()


@pytest.mark.usefixtures("vault")
def test_an_older_version_of_a_key_is_not_taken_for_the_newest(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match=r"'hv:it/1' is not the newest version .* is 'hv:it/2'"):
        open_public_key("hv:it/1", root=tmp_path)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_key_in_a_kms_signs_what_its_public_half_verifies(signing: str, tmp_path: Path) -> None:
    key = open_signing_key(signing, root=tmp_path)
    public = open_public_key(signing, root=tmp_path)
    assert (public.kind, key.public, key.notes) == ("ecdsa-p256", public, ())
    data = sign_attestation(statement(), key)
    assert read_attestation(data, {"ci": public}).statement == statement()


def test_its_public_half_may_as_well_be_a_file(signing: str, tmp_path: Path) -> None:
    (tmp_path / "it.pub").write_bytes(open_public_key(signing, root=tmp_path).to_pem())
    signature = open_signing_key(signing, root=tmp_path).sign(b"data")
    assert open_public_key("it.pub", root=tmp_path).verify(signature, b"data")


def test_a_signature_of_something_else_is_not_passed_on(kms: Any, tmp_path: Path) -> None:  # noqa: ANN401
    key = open_signing_key(_made(kms, "ECC_NIST_P256"), root=tmp_path)
    with pytest.raises(KmsUnavailable, match="a signature that is not of its public key"):
        key.sign(b"data")


@pytest.mark.parametrize("spec", ["RSA_2048", "ECC_NIST_P384", "ECC_SECG_P256K1"])
def test_a_key_of_another_kind_is_refused(kms: Any, tmp_path: Path, spec: str) -> None:  # noqa: ANN401
    uri = _made(kms, spec)
    with pytest.raises(BadKey, match=uri):
        open_signing_key(uri, root=tmp_path)


def test_a_key_that_the_kms_does_not_have_is_told(kms: Any, tmp_path: Path) -> None:  # noqa: ANN401
    with pytest.raises(KmsUnavailable, match=r"'awskms:none' cannot be used: .*NotFound"):
        open_public_key("awskms:none", root=tmp_path)


def test_a_key_that_was_deleted_signs_nothing(kms: Any, tmp_path: Path) -> None:  # noqa: ANN401
    uri = _made(kms, "ECC_NIST_P256")
    key = open_signing_key(uri, root=tmp_path)
    kms.schedule_key_deletion(KeyId=uri.partition(":")[2])
    with pytest.raises(KmsUnavailable):
        key.sign(b"data")


def test_a_kms_that_does_not_answer_is_told(
    kms: Any,  # noqa: ANN401
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(KmsUnavailable, match="'awskms:x' cannot be used: Could not connect"):
        open_public_key("awskms:x", root=tmp_path)


@pytest.mark.parametrize(
    "uri",
    [
        "hv:",
        "awskms:///alias/x",
        "gcpkms://projects/x",
        "azurekms://vault/keys/k",
        "azurekms://a.evil.com/keys/k",
        "azurekms:x",
    ],
)
def test_what_is_no_uri_of_a_key_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(BadKey, match="is no URI of a key"):
        open_public_key(uri, root=tmp_path)


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("securesystemslib", "python -m pip install 'engineforge[kms]'"),
        ("cryptography", "python -m pip install 'engineforge[promotion]'"),
    ],
)
def test_without_its_library_a_key_says_what_to_install(missing: str, hint: str) -> None:
    program = f"""
import sys
sys.modules[{missing!r}] = None
from pathlib import Path
from engineforge.errors import HostUnfit
from engineforge.promotion.attest import keys
try:
    if {missing!r} == "cryptography":
        keys.generate("ed25519")
    else:
        keys.open_public_key("awskms:x", root=Path())
except HostUnfit as error:
    print(error.hint)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == hint, done.stderr


def test_a_kms_whose_own_library_is_missing_says_what_to_install() -> None:
    program = """
import sys
sys.modules["boto3"] = None
from pathlib import Path
from engineforge.errors import HostUnfit
from engineforge.promotion.attest.keys import open_public_key
try:
    open_public_key("awskms:x", root=Path())
except HostUnfit as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("'awskms:x': "), done.stderr
    assert done.stdout.strip().endswith("hint: python -m pip install 'engineforge[kms]'")
