"""A spec whose variants are all up to date, found so without reading it: every file that it
depends on has the stat that it had when it was hashed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from engineforge import __version__
from engineforge.digest import Digest, digest_bytes, digest_value
from engineforge.plan.planner import NeverBuilt, Stale, State, UpToDate
from engineforge.project.plans import PlannedVariant
from engineforge.samples import BadSamples, data_files
from engineforge.spec.model import DataSet
from engineforge.spec.sources import (
    MadeSource,
    PackageSource,
    PathSource,
    Source,
    UrlSource,
    read_source,
    write_source,
)
from engineforge.stages.sources.locate import SourceMissing, locate
from engineforge.store.index import Index, PlannedSpec, SpecFacts
from engineforge.store.local import LocalStore
from engineforge.worker.job import Files
from engineforge.worker.wire import read_data, write_data

_CAPABILITIES = Path("/dev/nvidia-caps")
"""What comes and goes with the instances of MIG."""

# Another version may read specs otherwise, and trusts nothing that this one planned.
_READING = f"3/{__version__}"


def model_files(index: Index, model: Path) -> tuple[Files, bytes | None]:
    """A model and its external data, hashed, and what inspecting it said (if ever).

    OSError where a file cannot be read.
    """
    hashed = {model: index.hashed(model)}
    interface = index.model(hashed[model][0])
    if interface is not None:
        for location in json.loads(interface)["external"]:
            hashed[model.parent / location] = index.hashed(model.parent / location)
    return hashed, interface


def up_to_date(
    store: LocalStore,
    index: Index,
    file: Path,
    name: str,
    *,
    targets: Digest,
    lock: Path,
    shown: str,
) -> list[PlannedVariant] | None:
    """The variants of a spec; None unless all are up to date and nothing has to be read to know.
    `lock` is the lock file, if there is one."""
    fingerprint = _fingerprint(name, index.digest(file), targets)
    facts = index.spec(fingerprint)
    if facts is None:
        return None
    try:
        model = _model_digests(index, facts, file.parent, lock)
        samples = _sample_digests(index, facts, file.parent)
    except (SourceMissing, BadSamples, OSError):
        return None
    planned = index.planned(_with_files(fingerprint, model, samples))
    if planned is None:
        return None
    variants = []
    for variant, target, key, why_not, stages in zip(
        planned.variants,
        planned.targets,
        planned.keys,
        planned.unfit,
        planned.stages,
        strict=True,
    ):
        state: State
        unfit = why_not if why_not and planned.host == _host(shown) else None
        # One that cannot be built here may have come from elsewhere since.
        if (built := _built(store, index, key)) is not None:
            state, unfit = UpToDate(built), None
        elif unfit is not None:
            state = Stale((NeverBuilt(),), tuple(stages))
        else:
            return None
        found = PlannedVariant(
            spec=name,
            variant=variant,
            target=target,
            plan=Digest(f"sha256:{key}"),
            state=state,
            unfit=unfit,
        )
        if unfit is None:
            index.know_history(found.label, key, None)
        variants.append(found)
    return variants


def _built(store: LocalStore, index: Index, plan: str) -> Digest | None:
    """The engine that a plan is known to have led to, where it is known to be whole."""
    if (engine := index.engine_of(plan)) is None:
        return None
    key = Digest(f"sha256:{engine}")
    known = index.entry_is_known("engine", engine, store.entry_path("engine", key))
    return key if known else None


def remember(
    index: Index,
    *,
    name: str,
    spec: Digest,
    targets: Digest,
    source: Source,
    model: Sequence[Digest],
    samples: Iterable[DataSet],
    folder: Path,
    variants: list[PlannedVariant],
    shown: str,
) -> None:
    """Let the next run find what this one planned. Only for specs without problems. `model` is what
    the plan was made with: a file that changed since then is not what it was."""
    fingerprint = _fingerprint(name, spec, targets)
    facts = _facts(source, [json.dumps(write_data(each)) for each in samples])
    index.know_spec(fingerprint, facts)
    index.know_planned(
        _with_files(fingerprint, model, _sample_digests(index, facts, folder)),
        PlannedSpec(
            [each.variant for each in variants],
            [each.target for each in variants],
            [each.plan.hex for each in variants if each.plan is not None],
            [each.unfit or "" if _never_built(each.state) else "" for each in variants],
            [list(each.state.stages) if isinstance(each.state, Stale) else [] for each in variants],
            _host(shown),
        ),
    )


def _never_built(state: State) -> bool:
    return isinstance(state, Stale) and state.reasons == (NeverBuilt(),)


@cache
def _host(shown: str) -> str:
    """Other when a package was installed or removed here, or a GPU came, left or was hidden: what
    makes a host unfit may be gone. `shown` are the GPUs that the environment leaves."""
    folders = [path for entry in sys.path if (path := Path(entry)).is_dir()]
    seen = [f"{path} {path.stat().st_mtime_ns}" for path in folders]
    gpus = sorted(str(path) for path in (*Path("/dev").glob("nvidia*"), *_CAPABILITIES.glob("*")))
    return digest_bytes("\0".join([sys.version, *seen, *gpus, _driver(), shown]).encode()).hex


def _driver() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _facts(source: Source, samples: list[str]) -> SpecFacts:
    match source:
        case PathSource(path=path):
            return SpecFacts("", path, "", False, samples)
        case PackageSource(package=package, path=path):
            return SpecFacts(package, path, "", False, samples)
        case UrlSource(model=model, external=external):
            locked = any(each.sha256 is None for each in (model, *external))
            return SpecFacts("", "", "", locked, samples)
    return SpecFacts("", "", json.dumps(write_source(source)), False, samples)


def _model_digests(index: Index, facts: SpecFacts, folder: Path, lock: Path) -> list[Digest]:
    """What of files a spec's model depends on, beyond what the spec itself says."""
    if facts.framework:
        from engineforge.stages.sources.exporters import files_of

        source = read_source(json.loads(facts.framework))
        paths = files_of(source, folder)
        return made_of(source, folder, {path: index.digest(path) for path in paths})
    if facts.locked:
        return [index.digest(lock)]
    if not facts.path:
        return []
    found: PackageSource | PathSource = PathSource(path=facts.path)
    if facts.package:
        found = PackageSource(package=facts.package, path=facts.path)
    hashed, _ = model_files(index, locate(found, folder))
    return [digest for digest, _ in hashed.values()]


def _fingerprint(name: str, spec: Digest, targets: Digest) -> str:
    return digest_bytes(f"{_READING}\0{name}\0{spec}\0{targets}".encode()).hex


def _sample_digests(index: Index, facts: SpecFacts, folder: Path) -> list[list[Digest]]:
    """The files of each data set: a file that moves from one to another changes both."""
    return [
        [index.digest(path) for path in data_files(read_data(json.loads(data)), folder)]
        for data in facts.samples
    ]


def made_of(source: MadeSource, folder: Path, files: Mapping[Path, Digest]) -> list[Digest]:
    """What a source that is made by code depends on: its files, what they are called, and the
    packages that it names."""
    from engineforge.stages.sources.exporters import package_versions

    names = [os.path.relpath(path, folder) for path in files]
    return [*files.values(), digest_value([names, package_versions(source)])]


def _with_files(fingerprint: str, model: Sequence[Digest], samples: list[list[Digest]]) -> str:
    return digest_value([fingerprint, model, samples]).hex
