"""The JSON files of the store: manifests of entries, and plan records. Each carries the sha256 of
the rest of itself, so that no changed byte goes unseen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engineforge.digest import Digest, digest_bytes, digest_value

FORMAT = 1
_SEAL = "sha256_of_the_rest"
_NOT_FILES = frozenset({"", ".", "..", "manifest.json"})


class BadManifest(ValueError):
    """The bytes are not what was written; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    size: int
    sha256: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an entry is: the key and all that went into it, every file, and what happened.

    `record` is for people and for later decisions (times, host, warnings); it is in no key.
    """

    stage: str
    key: Digest
    key_document: Mapping[str, Any]
    files: Mapping[str, StoredFile]
    record: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        return _seal(
            {
                "format": FORMAT,
                "stage": self.stage,
                "key": self.key,
                "key_document": self.key_document,
                "files": {
                    name: {"size": file.size, "sha256": file.sha256}
                    for name, file in sorted(self.files.items())
                },
                "record": self.record,
            }
        )

    @classmethod
    def of_entry(cls, stage: str, key: Digest, data: bytes) -> Manifest:
        """The same of just this entry; BadManifest for that of another, too."""
        manifest = cls.from_bytes(data)
        if (manifest.stage, manifest.key) != (stage, key):
            raise BadManifest("it is the manifest of another entry")
        return manifest

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """BadManifest for anything that `to_bytes` did not write."""
        raw = _unseal(data)
        try:
            manifest = cls(
                stage=raw["stage"],
                key=Digest(raw["key"]),
                key_document=raw["key_document"],
                files={
                    name: StoredFile(int(file["size"]), Digest(file["sha256"]))
                    for name, file in raw["files"].items()
                },
                record=raw["record"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadManifest(f"a field is missing or of the wrong kind: {error}") from error
        # Not inside the `try`: a BadManifest is a ValueError, and would be told as another fault.
        for name, file in manifest.files.items():
            if name in _NOT_FILES or "/" in name or "\0" in name:
                raise BadManifest(f"'{name}' is no name for a file of an entry")
            if file.size < 0:
                raise BadManifest(f"'{name}' has {file.size} bytes")
        if digest_value(manifest.key_document) != manifest.key:
            raise BadManifest("the key is not the digest of the key document")
        return manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """That a plan was carried out: its key document, and the entry of each stage."""

    key: Digest
    key_document: Mapping[str, Any]
    entries: Mapping[str, Digest]

    def to_bytes(self) -> bytes:
        return _seal(
            {
                "format": FORMAT,
                "key": self.key,
                "key_document": self.key_document,
                "entries": dict(sorted(self.entries.items())),
            }
        )

    @classmethod
    def of_plan(cls, key: Digest, data: bytes) -> PlanRecord:
        """The same of just this plan; BadManifest for that of another, too."""
        record = cls.from_bytes(data)
        if record.key != key:
            raise BadManifest("it is the record of another plan")
        return record

    @classmethod
    def from_bytes(cls, data: bytes) -> PlanRecord:
        """BadManifest for anything that `to_bytes` did not write."""
        raw = _unseal(data)
        try:
            return cls(
                key=Digest(raw["key"]),
                key_document=raw["key_document"],
                entries={stage: Digest(key) for stage, key in raw["entries"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadManifest(f"a field is missing or of the wrong kind: {error}") from error


def _seal(document: Mapping[str, Any]) -> bytes:
    # json.dumps, not canonical JSON: people read these files, and records hold fractions.
    rest = json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    sealed = {**document, _SEAL: digest_bytes(rest.encode())}
    text = json.dumps(sealed, indent=1, ensure_ascii=False, sort_keys=True, allow_nan=False)
    return (text + "\n").encode()


def _unseal(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadManifest(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadManifest("not a JSON object")
    document.pop(_SEAL, None)
    if document.get("format") != FORMAT:
        # Fail closed: a later version may mean other things by the same names.
        raise BadManifest(f"format {document.get('format')!r}, and this version reads {FORMAT}")
    try:
        unchanged = _seal(document) == data
    except ValueError:  # what JSON may spell and `_seal` never writes: NaN, a lone surrogate
        unchanged = False
    if not unchanged:
        raise BadManifest("its bytes were changed after they were written")
    return document
