"""Installed packages that are not there: a module and its metadata, in a folder on the path."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


def install(
    folder: Path,
    name: str,
    text: str = "",
    *,
    version: str = "1.0",
    requires: Sequence[str] = (),
    editable: bool = False,
) -> None:
    """A distribution `name` of one module, which is called like it."""
    module = name.replace("-", "_")
    about = folder / f"{module}-{version}.dist-info"
    about.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    (about / "METADATA").write_text("\n".join(lines) + "\n")
    (about / "top_level.txt").write_text(f"{module}\n")
    (about / "RECORD").write_text(f"{module}.py,,\n")
    if editable:
        told = {"url": "file:///somewhere", "dir_info": {"editable": True}}
        (about / "direct_url.json").write_text(json.dumps(told))
    (folder / f"{module}.py").write_text(text)
