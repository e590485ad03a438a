"""JSON that somebody else may have written: read one way or not at all, each field by its kind, and
none left over. Whatever is amiss is Untrusted."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NoReturn

from engineforge.digest import Digest
from engineforge.errors import Untrusted

MOST_BYTES = 4 << 20
"""Of a bundle, an envelope or a statement: what is larger is neither written nor read."""

_TIME = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?Z", re.ASCII)


def read_object(data: bytes, called: str) -> dict[str, Any]:
    """A JSON object in UTF-8 in which no name occurs twice and every number is finite."""
    if len(data) > MOST_BYTES:
        raise Untrusted(f"{called} has {len(data)} bytes, and at most {MOST_BYTES} are read")
    try:
        raw = json.loads(
            data.decode(),
            object_pairs_hook=_once,
            parse_float=_finite,
            parse_constant=_no_constant,
        )
        # Escapes spell lone surrogates, which no UTF-8 has: what is read could not be written.
        json.dumps(raw, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Untrusted(f"{called} is no JSON that is read one way: {error}") from error
    if not isinstance(raw, dict):
        raise Untrusted(f"{called} is no JSON object")
    return raw


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{twice}' occurs twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is more than a number can be")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def written(raw: Mapping[str, Any]) -> bytes:
    """The one way in which this room writes JSON: names sorted, no white space. Not canonical JSON
    (digest.py), which has no fractions. ValueError for what `read_object` would refuse."""
    text = json.dumps(
        raw, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )
    data = text.encode()
    if len(data) > MOST_BYTES:
        raise ValueError(f"{len(data)} bytes, and at most {MOST_BYTES} are read")
    return data


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def read_base64(text: str, called: str) -> bytes:
    """Standard base64 as it is written: no other alphabet, no white space, no bits left over."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise Untrusted(f"{called} is no base64: {error}") from error
    if base64_text(data) != text:
        raise Untrusted(f"{called} is no base64: it is written in another way than one writes it")
    return data


def time_text(time: datetime) -> str:
    """By RFC 3339, in UTC; ValueError without a time zone."""
    if time.tzinfo is None:
        raise ValueError(f"a time without a time zone: {time}")
    return time.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


class Fields:
    """The fields of one object, each taken once and by its kind; `done` refuses what is left."""

    def __init__(self, raw: object, called: str) -> None:
        if not isinstance(raw, Mapping):
            raise Untrusted(f"{called}: expected an object, found {_short(raw)}")
        self._left, self._called = dict(raw), called

    @property
    def names(self) -> tuple[str, ...]:
        """Those that were not taken yet."""
        return tuple(self._left)

    def has(self, name: str) -> bool:
        """Whether the field is there and not yet taken."""
        return name in self._left

    def take(self, name: str) -> Any:  # noqa: ANN401 - whatever is there
        if name not in self._left:
            raise Untrusted(f"{self._called}: '{name}' is missing")
        return self._left.pop(name)

    def null(self, name: str) -> bool:
        """Whether it is null; taken, if it is."""
        if name in self._left and self._left[name] is None:
            del self._left[name]
            return True
        return False

    def drop(self, *names: str) -> None:
        """Leave fields unread that may be there, and on which nothing is built."""
        for name in names:
            self._left.pop(name, None)

    def text(self, name: str) -> str:
        value = self.take(name)
        return value if isinstance(value, str) else self._wrong(name, "a string", value)

    def flag(self, name: str) -> bool:
        value = self.take(name)
        return value if isinstance(value, bool) else self._wrong(name, "true or false", value)

    def number(self, name: str) -> float:
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._wrong(name, "a number", value)
        try:
            return float(value)
        except OverflowError:
            self._wrong(name, "a number that is not as large", value)

    def whole(self, name: str) -> int:
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self._wrong(name, "a whole number from 0 on", value)
        return value

    def time(self, name: str) -> datetime:
        """A time by RFC 3339 in UTC; of its fraction, microseconds count."""
        text = self.text(name)
        match = _TIME.fullmatch(text)
        if match is None:
            self._wrong(name, "a time such as 2026-07-01T12:00:00Z", text)
        try:
            time = datetime.fromisoformat(match[1] + "+00:00")
        except ValueError:
            self._wrong(name, "a time such as 2026-07-01T12:00:00Z", text)
        return time.replace(microsecond=int((match[2] or "").ljust(6, "0")[:6]))

    def one_of(self, name: str, *words: str) -> str:
        value = self.take(name)
        if value not in words:
            self._wrong(name, " or ".join(f"'{word}'" for word in words), value)
        return str(value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self.take(name)
        return value if isinstance(value, Mapping) else self._wrong(name, "an object", value)

    def fields(self, name: str) -> Fields:
        return Fields(self.take(name), f"{self._called}.{name}")

    def several(self, name: str) -> tuple[Any, ...]:
        value = self.take(name)
        return tuple(value) if isinstance(value, list) else self._wrong(name, "a list", value)

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.several(name)
        for value in values:
            if not isinstance(value, str):
                self._wrong(name, "a list of strings", value)
        return values

    def all_texts(self) -> dict[str, str]:
        """All that is left, which has to be strings."""
        return {name: self.text(name) for name in tuple(self._left)}

    def each(self, name: str) -> list[Fields]:
        """A list of objects."""
        return [
            Fields(value, f"{self._called}.{name}[{i}]")
            for i, value in enumerate(self.several(name))
        ]

    def sha256(self, name: str = "digest") -> Digest:
        """An in-toto digest set (`{"sha256": hexadecimal}`) of just this one digest."""
        given = self.fields(name)
        value = given.text("sha256")
        given.done()
        try:
            return Digest(f"sha256:{value}")
        except ValueError:
            self._wrong(name, "64 hexadecimal digits of a sha256", value)

    def done(self) -> None:
        if self._left:
            names = ", ".join(f"'{name}'" for name in sorted(self._left))
            raise Untrusted(
                f"{self._called}: there is {names}, and this version does not know what that means"
            )

    def _wrong(self, name: str, expected: str, found: object) -> NoReturn:
        raise Untrusted(f"{self._called}.{name}: expected {expected}, found {_short(found)}")


_SHORT = 60


def _short(found: object) -> str:
    text = repr(found)
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"
