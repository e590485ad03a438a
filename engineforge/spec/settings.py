"""What holds for all specs of a folder: `engineforge.yaml` beside `targets.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from engineforge.spec.load import Document

Push = Literal["always", "ci", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSettings:
    """A store that several machines share, and who adds to it: every build, those in CI, or none.

    `url` is as the file has it: s3://, gs://, az://, https://, file:// or a folder.
    """

    url: str
    push: Push = "ci"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    remote: RemoteSettings | None = None


def parse_settings(document: Document) -> Settings:
    """The settings of a valid settings file."""
    raw = cast("dict[str, dict[str, Any]]", document.value)
    remote = raw.get("remote")
    return Settings(remote=None if remote is None else RemoteSettings(**remote))
