"""What a translation comes to: a spec as values, and what has to be said about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from engineforge.errors import UsageError

Effect = Literal[
    "to do",  # the spec cannot be built before somebody has done something
    "left out",  # asked for, and not in the spec
    "differs",  # in the spec, and means something else in a way
    "elsewhere",  # another command or EngineForge itself does it
    "measuring",  # in the command that measures
    "nothing",  # it would change nothing
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What became of one flag, without dashes, that is not simply in the spec."""

    flag: str
    effect: Effect
    text: str

    def __str__(self) -> str:
        dashes = "" if self.flag.startswith("-") or not self.flag else "--"
        return f"{dashes}{self.flag}: {self.text}" if self.flag else self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A spec: its `name`, its values in the order in which people write them, the command that it
    is `of`, notes, and the arguments of `engineforge bench` that measure as the command did."""

    name: str
    values: Mapping[str, Any]
    of: str
    notes: Sequence[Note] = ()
    measuring: Sequence[str] | None = None


class Untranslated(UsageError):
    """A command of which no spec can be made: `reasons` has every flag that stands in the way."""

    def __init__(self, reasons: Sequence[Note], *, hint: str | None = None) -> None:
        super().__init__("; ".join(map(str, reasons)), hint=hint)
        self.reasons = tuple(reasons)


@dataclass(slots=True)
class Findings:
    """Notes as they are found, and what makes a translation impossible."""

    notes: list[Note] = field(default_factory=list)
    refused: list[Note] = field(default_factory=list)

    def note(self, flag: str, effect: Effect, text: str) -> None:
        found = Note(flag=flag, effect=effect, text=text)
        if found not in self.notes:
            self.notes.append(found)

    def refuse(self, flag: str, text: str) -> None:
        self.refused.append(Note(flag=flag, effect="left out", text=text))
