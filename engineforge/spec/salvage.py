"""What of an invalid document can still be checked, so that one typo does not hide the next."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from engineforge.spec.load import Document, Path
from engineforge.spec.validate import nearest, validator

_ROUNDS = 10
# Without one of these, a spec would be found to lack what it merely misspells.
_NEEDED = frozenset({"inputs", "profiles", "model", "targets", "calibration"})
_WHOLE = frozenset({("defaults",), ("variants",)})


def salvage(kind: str, document: Document) -> Document | None:
    """The document without what violates its schema; None where that leaves too little."""
    value: Any = copy.deepcopy(document.value)
    for _ in range(_ROUNDS):
        errors = list(validator(kind).iter_errors(value))
        if not errors:
            return Document(document.file, value, document.marks)
        for path in {each for error in errors for each in _offending(error)}:
            removable = _removable(kind, path)
            if removable is None:
                return None
            _remove(value, removable)
    return None


def _removable(kind: str, path: Path) -> Path | None:
    """What goes with a path: a target or environment whole, and a variant whole where its shapes or
    its targets are wrong. None where too little would be left."""
    if not path or path in _WHOLE:
        return None
    if kind in ("targets", "environments"):
        return path[:1]
    if not _NEEDED & set(path):
        return path
    return path[:2] if path[0] == "variants" else None


def _offending(error: Any) -> Iterator[Path]:  # noqa: ANN401 - jsonschema's ValidationError
    path: Path = tuple(error.absolute_path)
    instance: Any = error.instance
    if error.validator == "additionalProperties" and isinstance(error.schema, dict):
        known = error.schema.get("properties", {})
        for key in instance:
            if key not in known:
                meant = nearest(key, known)
                yield (*path, meant if meant in _NEEDED else key)
        return
    if error.validator == "propertyNames":
        yield (*path, str(instance))
        return
    # A list is removed whole: its items are known by their place.
    while path and isinstance(path[-1], int):
        path = path[:-1]
    yield path


def _remove(value: Any, path: Path) -> None:  # noqa: ANN401 - any tree of JSON values
    for part in path[:-1]:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return  # gone with something above it
    if isinstance(value, dict):
        value.pop(path[-1], None)
