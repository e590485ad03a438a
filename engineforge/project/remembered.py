"""A spec whose variants are all up to date, found so without reading it: every file that it
depends on has the stat that it had when it was hashed."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engineforge.digest import Digest, digest_bytes, digest_value
from engineforge.plan.planner import NeverBuilt, Stale, State, UpToDate
from engineforge.project.asking import FILES, HOST, PACKAGE, host, package_folder
from engineforge.project.glance import READING
from engineforge.project.plans import PlannedVariant
from engineforge.samples import BadSamples, data_files
from engineforge.spec.model import ArrayFiles, DataSet
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
from engineforge.store.known import Known, Variant
from engineforge.store.local import LocalStore
from engineforge.store.stats import Stat
from engineforge.worker.job import Files
from engineforge.worker.wire import read_data, write_data


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
    recalled = _recalled(index, file, name, targets, lock)
    if recalled is None:
        return None
    _, planned = recalled
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
        unfit = why_not if why_not and planned.host == host(shown) else None
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


def _recalled(
    index: Index, file: Path, name: str, targets: Digest, lock: Path, *, new: bool = False
) -> tuple[_Depends, PlannedSpec] | None:
    """What a spec depends on, and what planning it came to; with `new` also in this process."""
    hashed = index.hashed(file)
    fingerprint = _fingerprint(name, hashed[0], targets)
    facts = index.spec(fingerprint, new=new)
    if facts is None:
        return None
    try:
        depends = _depends(index, facts, file.parent, lock)
    except (SourceMissing, BadSamples, OSError):
        return None
    planned = index.planned(_with_files(fingerprint, depends.model, depends.samples), new=new)
    if planned is None:
        return None
    depends.files.insert(0, (file, hashed))
    return depends, planned


def known(
    store: LocalStore,
    index: Index,
    file: Path,
    name: str,
    *,
    root: Path,
    targets: Digest,
    lock: Path,
    shown: str,
) -> Known | None:
    """What lets the next run see by stats alone that a spec is up to date; None where that is not
    so, or where the stat of one of its files would not tell that it has changed."""
    try:
        recalled = _recalled(index, file, name, targets, lock, new=True)
    except OSError:
        return None
    if recalled is None:
        return None
    depends, planned = recalled
    stats: list[Stat] = []
    for _, (digest, stat) in depends.files:
        if not index.remembers(digest, stat):
            return None
        stats.append(stat)
    variants = []
    for variant, target, key, why_not, stages in zip(
        planned.variants, planned.targets, planned.keys, planned.unfit, planned.stages, strict=True
    ):
        plan = Digest(f"sha256:{key}")
        if (built := _built(store, index, key)) is None:
            if not why_not or planned.host != host(shown) or store.plan_path(plan).exists():
                return None
            variants.append(
                Variant(
                    variant,
                    target,
                    bytes.fromhex(key),
                    unfit=why_not,
                    stages=tuple(stages),
                )
            )
            continue
        if (seen := index.stats_of(key, built.hex)) is None:
            return None
        record, entry = seen
        stats += [record, *(stat for _, stat in entry)]
        names = tuple(each for each, _ in entry)
        variants.append(
            Variant(
                variant, target, bytes.fromhex(key), engine=bytes.fromhex(built.hex), files=names
            )
        )
    folder = os.path.relpath(os.path.abspath(file.parent), os.path.abspath(root))  # noqa: PTH100
    try:
        paths = [
            path.relative_to(root).as_posix()
            if path == lock and path.is_relative_to(root)
            else _below(path, file.parent, folder)
            for path, _ in depends.files
        ]
        asks: list[tuple[object, ...]] = [*depends.packages]
        if depends.asked is not None:
            asked, samples = depends.asked
            files, extra = files_asked(asked, samples, root, folder)
            if not files:
                return None
            asks.append((FILES, asked, samples, folder, files, extra))
        if any(each.engine is None for each in variants):
            asks.append((HOST, host(shown)))
        made = Known(
            paths[0],
            json.dumps(asks) if asks else "",
            paths[1:],
            variants,
            array("q", [number for stat in stats for number in stat]),
        )
    except (ValueError, OverflowError):  # names and numbers that blocks do not hold
        return None
    return made if made.can_be_written else None


def of_known(known: Known, name: str) -> list[PlannedVariant]:
    """The variants of a spec that is as it was."""
    return [
        PlannedVariant(
            spec=name,
            variant=each.name,
            target=each.target,
            plan=Digest.of(each.plan),
            state=Stale((NeverBuilt(),), each.stages)
            if each.engine is None
            else UpToDate(Digest.of(each.engine)),
            unfit=each.unfit or None,
        )
        for each in known.variants
    ]


def _below(path: Path, folder: Path, at: str) -> str:
    """A path as it is written from the folder of the specs, where that of the spec is `at`. Never
    made shorter: what `..` means depends on links."""
    text, above = str(path), str(folder)
    if above == "." and not path.is_absolute():
        inside = text
    elif text.startswith(f"{above}/"):
        inside = text[len(above) + 1 :]
    elif path.is_absolute():
        return text
    else:
        raise ValueError(text)
    return inside if at == "." else f"{at}/{inside}"


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
    digests = [
        [index.digest(path) for path in data_files(read_data(json.loads(data)), folder)]
        for data in facts.samples
    ]
    index.know_planned(
        _with_files(fingerprint, model, digests),
        PlannedSpec(
            [each.variant for each in variants],
            [each.target for each in variants],
            [each.plan.hex for each in variants if each.plan is not None],
            [each.unfit or "" if _never_built(each.state) else "" for each in variants],
            [list(each.state.stages) if isinstance(each.state, Stale) else [] for each in variants],
            host(shown),
        ),
    )


def _never_built(state: State) -> bool:
    return isinstance(state, Stale) and state.reasons == (NeverBuilt(),)


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


@dataclass(slots=True)
class _Depends:
    """What a spec depends on beyond its own text: the digests that its plan is filed under, and
    the files that they are of. `packages` and `asked` are what has to be asked again to know which
    files those are (`asking.py`)."""

    model: list[Digest] = field(default_factory=list)
    samples: list[list[Digest]] = field(default_factory=list)
    files: list[tuple[Path, tuple[Digest, Stat]]] = field(default_factory=list)
    packages: list[tuple[str, str, str]] = field(default_factory=list)
    asked: tuple[str, list[str]] | None = None

    def add(self, path: Path, found: tuple[Digest, Stat]) -> Digest:
        self.files.append((path, found))
        return found[0]


def _depends(index: Index, facts: SpecFacts, folder: Path, lock: Path) -> _Depends:
    made, asked = _Depends(), []
    if facts.framework:
        source, paths = _made_by_code(facts.framework, folder)
        digests = {path: made.add(path, index.hashed(path)) for path in paths}
        made.model = made_of(source, folder, digests)
    elif facts.locked:
        made.model = [made.add(lock, index.hashed(lock))]
    elif facts.path:
        found: PackageSource | PathSource = PathSource(path=facts.path)
        if facts.package:
            found = PackageSource(package=facts.package, path=facts.path)
        model = locate(found, folder)
        if facts.package and (at := package_folder(facts.package)) is not None:
            made.packages.append((PACKAGE, facts.package, at))
        hashed, _ = model_files(index, model)
        made.model = [made.add(path, each) for path, each in hashed.items()]
    for data in facts.samples:
        value = read_data(json.loads(data))
        paths = data_files(value, folder)
        made.samples.append([made.add(path, index.hashed(path)) for path in paths])
        # A file that is named says all; which ones a folder has, and what code is, may change.
        if not isinstance(value, ArrayFiles) or paths != [folder / value.path]:
            asked.append(data)
    if asked or facts.framework:
        made.asked = (facts.framework, asked)
    return made


def files_asked(
    framework: str, samples: list[str], root: Path | str, folder: str
) -> tuple[list[str], str]:
    """Which files code and samples (as JSON) are, from the folder of the specs at `root`, for a
    spec in `folder` below it; and what else the code depends on. Nothing where one is missing."""
    above = Path(root) / folder
    files: list[Path] = []
    extra = ""
    try:
        if framework:
            source, files = _made_by_code(framework, above)
            extra = str(_beside_files(source, above, files))
        for data in samples:
            files += data_files(read_data(json.loads(data)), above)
        return [_below(each, above, folder) for each in files], extra
    except (SourceMissing, BadSamples, OSError, ValueError):
        return [], ""


def _made_by_code(framework: str, folder: Path) -> tuple[MadeSource, list[Path]]:
    from engineforge.stages.sources.exporters import files_of

    source = read_source(json.loads(framework))
    return source, files_of(source, folder)


def _fingerprint(name: str, spec: Digest, targets: Digest) -> str:
    return digest_bytes(f"{READING}\0{name}\0{spec}\0{targets}".encode()).hex


def made_of(source: MadeSource, folder: Path, files: Mapping[Path, Digest]) -> list[Digest]:
    """What a source that is made by code depends on: its files, what they are called, and the
    packages that it names."""
    return [*files.values(), _beside_files(source, folder, files)]


def _beside_files(source: MadeSource, folder: Path, files: Iterable[Path]) -> Digest:
    from engineforge.stages.sources.exporters import package_versions

    names = [os.path.relpath(path, folder) for path in files]
    return digest_value([names, package_versions(source)])


def _with_files(fingerprint: str, model: Sequence[Digest], samples: list[list[Digest]]) -> str:
    return digest_value([fingerprint, model, samples]).hex
