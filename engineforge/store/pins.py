"""Pins: plans whose entries no collection takes, whatever the specs say by now. One a variant."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from engineforge.digest import Digest, canonical_json, digest_bytes, digest_value
from engineforge.errors import StoreCorrupt
from engineforge.store import files, gate
from engineforge.store.local import LocalStore, Session

_FOLDER = "pins"
_FORMAT = 1
_SEAL = "sha256_of_the_rest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """What the variant of this label is held at; `since` is for people."""

    label: str
    plan: Digest
    since: str

    def to_bytes(self) -> bytes:
        document = {"format": _FORMAT, "label": self.label, "plan": self.plan, "since": self.since}
        return canonical_json({**document, _SEAL: digest_value(document)}) + b"\n"


class Pins:
    """Those of one store."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self._folder = store.root / _FOLDER

    def all(self) -> list[Pin]:
        """By label. StoreCorrupt where one cannot be read: what it holds is not known then."""
        return sorted(map(_read, self._folder.glob("*.json")), key=lambda pin: pin.label)

    def add(self, pin: Pin, session: Session) -> bool:
        """Hold a plan, in place of what its variant was held at before; False where it was not
        carried out here, or what it led to is gone."""
        files.make_folder(self._folder)
        # A collection that has not seen this pin must see that its entries are used.
        with gate.using(self._store.root):
            record = self._store.plan_record(pin.plan)
            if record is None:
                return False
            if not all(session.uses(stage, key) for stage, key in record.entries.items()):
                return False
            files.replace(self._path(pin.label), pin.to_bytes(), session.folder)
        return True

    def remove(self, label: str) -> bool:
        """Hold it no longer; False where there is no such pin."""
        path = self._path(label)
        if not path.exists():
            return False
        files.remove_file(path)
        return True

    def _path(self, label: str) -> Path:
        return self._folder / f"{digest_bytes(label.encode()).hex}.json"


def _read(path: Path) -> Pin:
    try:
        data = path.read_bytes()
        raw = json.loads(data)
        pin = Pin(label=str(raw["label"]), plan=Digest(raw["plan"]), since=str(raw["since"]))
        sound = pin.to_bytes() == data
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    except OSError as error:
        raise StoreCorrupt(f"the pin '{path}' cannot be read: {error.strerror}") from error
    if not sound:
        raise StoreCorrupt(
            f"the pin '{path}' is not what was written, and what it holds is not known",
            hint="remove the file, and pin again what is to be kept",
        )
    return pin
