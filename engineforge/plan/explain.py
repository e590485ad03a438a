"""How two key documents differ, leaf by leaf, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_DIGEST = "sha256:"
_SHOWN_DIGITS = 12
_NO_NAMES: Mapping[str, str] = {}
# Where leaves of a plan's document come from, as the author of a spec knows it.
_WORDS = (
    ("onnx.model", "model"),
    ("onnx.external", "external data"),
    ("onnx.canonical", "canonical form"),
    ("engine.", ""),
    ("typed.", ""),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One leaf that differs; a value that is not there is None, and so is the value null."""

    leaf: str
    before: object
    after: object

    def __str__(self) -> str:
        before, after = _shown(self.before), _shown(self.after)
        if str(self.before).startswith(_DIGEST) and str(self.after).startswith(_DIGEST):
            return f"{self.leaf} changed ({before} → {after})"
        return f"{self.leaf} {before} → {after}"


def changes(before: object, after: object, names: Mapping[str, str] = _NO_NAMES) -> list[Change]:
    """Every leaf in which two key documents differ, by path.

    `names` says what a leaf is of which a key has only a digest: "model 'net.onnx'".
    """
    old, new = dict(_leaves(before, "")), dict(_leaves(after, ""))
    return [
        Change(
            leaf=names.get(path) or _words(path),
            before=old.get(path),
            after=new.get(path),
        )
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)  # null is what is not there
    ]


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and value:
        for i, item in enumerate(value):
            yield from _leaves(item, f"{path}[{i}]")
    else:
        yield path, [] if isinstance(value, tuple) else value


def _words(path: str) -> str:
    for prefix, words in _WORDS:
        if path.startswith(prefix):
            return words + path[len(prefix) :]
    return path


def _shown(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str() if value.startswith(_DIGEST):
            return value[len(_DIGEST) :][:_SHOWN_DIGITS]
    return str(value)
