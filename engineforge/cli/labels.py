"""A variant as people name it: SPEC/VARIANT@TARGET, as plans print it, or SPEC:VARIANT@TARGET."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from engineforge.errors import EngineForgeError, UsageError
from engineforge.project.plans import Selection

_LABEL = re.compile(r"(?P<spec>[^@]+)[:/](?P<variant>[^@:/]+)@(?P<target>[^@:/]+)")


@dataclass(frozen=True, slots=True)
class Label:
    spec: str
    variant: str
    target: str

    def __str__(self) -> str:
        return f"{self.spec}/{self.variant}@{self.target}"

    @property
    def selection(self) -> Selection:
        return Selection(variants=frozenset([self.variant]), targets=frozenset([self.target]))

    def file(self, specs: Path) -> Path:
        """That of its spec, in the folder `specs`; UsageError where there is none."""
        files = [specs / f"{self.spec}{suffix}" for suffix in (".yaml", ".yml")]
        file = next((each for each in files if each.is_file()), None)
        if file is None:
            raise UsageError(
                f"there is no '{files[0]}' that '{self}' could be a variant of",
                hint="--specs names the folder of the specs",
            )
        return file

    def not_built(self, file: Path) -> EngineForgeError:
        return EngineForgeError(
            f"{self} is not built, or not up to date",
            hint=f"`engineforge build {file}` builds it; an older engine is named by its key's "
            "digits",
        )


def label(text: str) -> Label | None:
    """None for what is no label."""
    found = _LABEL.fullmatch(text)
    return None if found is None else Label(**found.groupdict())
