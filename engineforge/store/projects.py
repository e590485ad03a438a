"""Which folders of specs build into a store, and the plans that each came to last: what one of
them needs, a collection on behalf of another must not take."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engineforge.digest import Digest, digest_bytes
from engineforge.errors import StoreCorrupt
from engineforge.store import files

_FOLDER = "projects"
_LOCK = Path("staging", "locks", "projects.lock")
_FORMAT = 1
_SEAL = "sha256_of_the_rest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A folder of specs, by its absolute path; `plans` by the labels of their variants, for when
    the folder itself can no longer be asked."""

    path: Path
    plans: Mapping[str, Digest]

    def to_bytes(self) -> bytes:
        # There may be very many: no canonical JSON, and no objects, of a no-op build's time.
        plans = json.dumps(self.plans, sort_keys=True).encode()
        head = {"format": _FORMAT, "path": os.fspath(self.path), _SEAL: digest_bytes(plans)}
        return json.dumps(head).encode() + b"\n" + plans + b"\n"


class Projects:
    """Those of the store in a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def all(self) -> list[Registered]:
        """By path. StoreCorrupt where one cannot be read: what it needs is not known then."""
        found = []
        for file in (self._root / _FOLDER).glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # forgotten meanwhile
                found.append(_read(file))
        return sorted(found, key=lambda each: each.path)

    def record(self, specs: Path) -> Path:
        """The file that names the plans of a folder of specs; replaced whole, never changed."""
        return self._file(_absolute(specs))

    def register(self, specs: Path, plans: Mapping[str, Digest]) -> None:
        """A folder of specs came to these plans; those of its other variants are what they were.
        Writes only what is not there yet. OSError where it cannot be written."""
        at = _absolute(specs)
        file = self._file(at)
        if _has(file, at, plans):
            return
        with files.lock(self._root / _LOCK, f"PID {os.getpid()}"):
            known: Mapping[str, Digest] = {}
            # What is not sound is written anew: that this folder builds here matters most.
            with contextlib.suppress(StoreCorrupt, FileNotFoundError):
                known = _read(file).plans
            made = Registered(path=at, plans={**known, **plans})
            files.make_folder(file.parent)
            files.replace(file, made.to_bytes(), self._root / "staging")

    def forget(self, specs: Path) -> bool:
        """Until it builds here again; False where it is not registered."""
        file = self._file(_absolute(specs))
        if not file.exists():
            return False
        files.remove_file(file)
        return True

    def _file(self, at: Path) -> Path:
        return self._root / _FOLDER / _name(at)


def _has(file: Path, at: Path, plans: Mapping[str, Digest]) -> bool:
    try:
        data = file.read_bytes()
        if data == Registered(path=at, plans=plans).to_bytes():
            return True
        return _parsed(data, file)[1].items() >= plans.items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - links stay: they may lead elsewhere later


def _name(at: Path) -> str:
    return f"{digest_bytes(os.fsencode(at)).hex}.json"


def _parsed(data: bytes, file: Path) -> tuple[Path, dict[str, str]]:
    head, _, rest = data.partition(b"\n")
    found = json.loads(head)
    at, plans = Path(found["path"]), json.loads(rest)
    whole = {"format": _FORMAT, "path": os.fspath(at), _SEAL: digest_bytes(rest[:-1])}
    if file.name != _name(at) or json.dumps(whole).encode() != head or rest[-1:] != b"\n":
        raise ValueError("it is not what was written")
    return at, plans


def _read(file: Path) -> Registered:
    try:
        at, plans = _parsed(file.read_bytes(), file)
        return Registered(path=at, plans={label: Digest(plan) for label, plan in plans.items()})
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreCorrupt(f"'{file}' cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreCorrupt(
            f"'{file}' is not what was written, and what that project needs is not known",
            hint="remove the file, and build that project again",
        ) from error
