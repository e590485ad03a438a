"""Manifests and plan records: what was not written by this code is refused, byte by byte."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engineforge.digest import digest_bytes, digest_value
from engineforge.store.manifest import BadManifest, Manifest, PlanRecord, StoredFile

_KEY = {"format": 1, "model": "sha256:" + "a" * 64, "recipe": {"builder": {"tf32": True}}}
MANIFEST = Manifest(
    stage="engine",
    key=digest_value(_KEY),
    key_document=_KEY,
    files={"model.engine": StoredFile(3, digest_bytes(b"abc"))},
    record={"seconds": 0.123, "host": "bücher", "warnings": ["tab\t and \x1b escape"]},
)
RECORD = PlanRecord(
    key=digest_value(_KEY), key_document=_KEY, entries={"engine": digest_bytes(b"e")}
)
READERS = [
    pytest.param(Manifest.from_bytes, MANIFEST.to_bytes(), id="manifest"),
    pytest.param(PlanRecord.from_bytes, RECORD.to_bytes(), id="plan record"),
]
Read = Callable[[bytes], object]


def _refused(read: Read, data: bytes) -> bool:
    try:
        read(data)
    except BadManifest:
        return True
    return False


def test_what_is_written_is_read() -> None:
    assert Manifest.from_bytes(MANIFEST.to_bytes()) == MANIFEST
    assert PlanRecord.from_bytes(RECORD.to_bytes()) == RECORD


@pytest.mark.parametrize(("read", "data"), READERS)
def test_truncated_at_any_byte_is_refused(read: Read, data: bytes) -> None:
    assert [end for end in range(len(data)) if not _refused(read, data[:end])] == []


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
@pytest.mark.parametrize(("read", "data"), READERS)
def test_any_flipped_byte_is_refused(read: Read, data: bytes, mask: int) -> None:
    def flipped(at: int) -> bytes:
        return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]

    assert [at for at in range(len(data)) if not _refused(read, flipped(at))] == []


@pytest.mark.parametrize("byte", [b" ", b"\n", b"\t", b"0", b"9"])
@pytest.mark.parametrize(("read", "data"), READERS)
def test_any_byte_more_is_refused(read: Read, data: bytes, byte: bytes) -> None:
    grown = {at: data[:at] + byte + data[at:] for at in range(len(data) + 1)}
    assert [at for at, each in grown.items() if not _refused(read, each)] == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"format": 2}',
        b'{"format": 1, "sha256_of_the_rest": "sha256:0"}',
        b'{"format": 1, "record": NaN}',
        b'{"format": 1, "record": "\\ud800"}',
        b"[" * 100_000,
    ],
)
@pytest.mark.parametrize("read", [Manifest.from_bytes, PlanRecord.from_bytes])
def test_other_json_is_refused(read: Read, data: bytes) -> None:
    assert _refused(read, data)


def test_a_manifest_whose_key_is_not_that_of_its_document_is_refused() -> None:
    other = Manifest(
        stage="engine", key=digest_bytes(b"other"), key_document=_KEY, files={}, record={}
    )
    with pytest.raises(BadManifest, match="not the digest of the key document"):
        Manifest.from_bytes(other.to_bytes())


@pytest.mark.parametrize(
    "name", ["", ".", "..", "manifest.json", "a/b", "/a", "a/", "../a", "a\0b"]
)
def test_a_file_name_that_leads_elsewhere_is_refused(name: str) -> None:
    odd = dataclasses.replace(MANIFEST, files={name: StoredFile(3, digest_bytes(b"abc"))})
    with pytest.raises(BadManifest, match="is no name for a file of an entry"):
        Manifest.from_bytes(odd.to_bytes())


def test_a_file_of_less_than_no_bytes_is_refused() -> None:
    odd = dataclasses.replace(MANIFEST, files={"a": StoredFile(-1, digest_bytes(b""))})
    with pytest.raises(BadManifest, match="'a' has -1 bytes"):
        Manifest.from_bytes(odd.to_bytes())


_plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None, database=None)
@given(record=st.dictionaries(st.text(), _plain, max_size=4))
def test_any_record_comes_back_as_it_was(record: dict[str, object]) -> None:
    manifest = Manifest(
        stage="onnx", key=digest_value(_KEY), key_document=_KEY, files={}, record=record
    )
    assert Manifest.from_bytes(manifest.to_bytes()).record == record


@settings(deadline=None, database=None)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    assert _refused(Manifest.from_bytes, data)
    assert _refused(PlanRecord.from_bytes, data)
