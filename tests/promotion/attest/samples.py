"""Keys and a statement to try things with."""

from __future__ import annotations

from engineforge.digest import digest_bytes
from engineforge.promotion.attest.keys import Kind, PrivateKey, generate, read_private_key
from engineforge.promotion.attest.statement import Statement, of_engine


def new_key(kind: Kind = "ed25519") -> PrivateKey:
    return read_private_key(generate(kind)[0], called="a new key", password=None)


MANIFEST, ENGINE = digest_bytes(b"manifest"), digest_bytes(b"engine")


def statement(predicate_type: str = "https://example.com/p/v1", **predicate: object) -> Statement:
    return of_engine(
        predicate_type,
        predicate or {"said": "ok"},
        label="fp32@ada",
        manifest=MANIFEST,
        engine=ENGINE,
    )
