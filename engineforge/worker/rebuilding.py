"""An entry's engine built once more from its own timing cache, and how far that one is the same.

Nothing that is reused depends on it: it tells whether builds can be repeated.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engineforge.digest import digest_file, document
from engineforge.store.local import ENGINE, Entry
from engineforge.worker.building import LAYERS, Building
from engineforge.worker.chain import Model
from engineforge.worker.job import Job
from engineforge.worker.outcome import Rebuilt, Started
from engineforge.worker.stage import Stage

# Names that TensorRT generates are numbered by where things lie in memory.
_GENERATED = re.compile(rb"__mye[0-9]+")
_CLOSE = 1e-3
"""A relative error (L2) below this is what other tactics of the same precision make."""


class Rebuilding:
    """Rebuilds and compares, for all threads of a run; StageFailed says what failed."""

    def __init__(self, stage: Stage, building: Building) -> None:
        self._stage, self._building = stage, building

    def rebuilt(self, job: Job, model: Model, entry: Entry) -> Rebuilt:
        """How far the engine that is built now agrees with the one of the entry."""
        with self._stage.session.staged() as folder:
            record = self._building.rebuilt(job, model, entry, folder)
            self._stage.tell(Started(job.variant.label, "comparing"))
            level, said = self._compared(job, entry, folder)
            return Rebuilt(
                engine=entry.manifest.key,
                level=level,
                said=said,
                seconds=record["build_seconds"],
                before=entry.manifest.record["build_seconds"],
            )

    def _compared(self, job: Job, entry: Entry, folder: Path) -> tuple[str, str]:
        """The strictest level that holds, and what there is to say of it."""
        mine, stored = folder / ENGINE, entry.file(ENGINE)
        if digest_file(mine) == digest_file(stored):
            return "bytes", "identical to the last bit"
        if not job.gpus:
            if _renumbered_digest(mine) == _renumbered_digest(stored):
                return (
                    "bytes but names",
                    "only names that TensorRT generates are numbered otherwise",
                )
            sizes = mine.stat().st_size, stored.stat().st_size
            return "none", f"other bytes ({sizes[0]} of them, before {sizes[1]}), and no GPU to run"
        compared = self._run_both(job, entry, folder)
        layers = _layers(folder, entry)
        equal = compared["equal"]
        outputs = "equal outputs" if equal else f"outputs within {compared['relative_error']:.1e}"
        before, now = compared["median_ms"]
        speed = f"median {before:.3f} ms before, {now:.3f} ms now"
        if layers is not None and equal:
            return layers, f"{outputs}; {speed}"
        if equal or compared["relative_error"] <= _CLOSE:
            other = "" if layers is None else f"same {layers}, "
            return "outputs", f"{other}{outputs}; {speed}"
        return "none", f"{outputs}; {speed}"

    def _run_both(self, job: Job, entry: Entry, folder: Path) -> Mapping[str, Any]:
        backend = job.variant.target.toolchain.backend
        plugins = [*job.plugins]
        with self._building.leased(job) as lease, self._stage.session.staged() as scratch:
            other = {
                "engine": folder / ENGINE,
                "sha256": digest_file(folder / ENGINE),
                "backend": backend,
                "recipe": document(job.key.engine),
                "plugins": plugins,
            }
            request = {"op": "compare", "engine": entry.path, "plugins": plugins, "other": other}
            return self._stage.ask(
                job,
                "engine",
                request,
                scratch / "compare.log",
                lease=lease,
            )


def _layers(folder: Path, entry: Entry) -> str | None:
    """`layers and tactics` or `layers` where both engines have the same; None where they differ."""
    if LAYERS not in entry.manifest.files or not (folder / LAYERS).exists():
        return None
    one, other = (
        json.loads(path.read_text(encoding="utf-8"))["layers"]
        for path in (entry.file(LAYERS), folder / LAYERS)
    )
    if one == other:
        told = any("tactic" in each or "tactic_value" in each for each in one)
        return "layers and tactics" if told else "layers"
    names = [[each["name"] for each in layers] for layers in (one, other)]
    return "layers" if names[0] == names[1] else None


def _renumbered_digest(path: Path) -> str:
    """Of the bytes with generated names numbered in the order in which they first come."""
    numbers: dict[bytes, int] = {}
    sha = hashlib.sha256()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        at = 0
        for match in _GENERATED.finditer(data):
            number = numbers.setdefault(match[0], len(numbers))
            sha.update(data[at : match.start()])
            sha.update(b"__mye%d" % number)
            at = match.end()
        sha.update(data[at:])
    return sha.hexdigest()
