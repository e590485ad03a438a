"""A spec whose variants are all up to date, found so without reading it: every file that it
depends on has the stat that it had when it was hashed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from engineforge import __version__
from engineforge.digest import Digest, digest_bytes
from engineforge.plan.planner import UpToDate
from engineforge.project.plans import PlannedVariant
from engineforge.spec.model import PackageSource, PathSource, Source
from engineforge.stages.sources.locate import SourceMissing, locate
from engineforge.store.index import Index, PlannedSpec, SpecFacts
from engineforge.store.local import LocalStore

# Another version may read specs otherwise, and trusts nothing that this one planned.
_READING = f"1/{__version__}"


def model_digests(index: Index, model: Path) -> tuple[dict[Path, Digest], bytes | None]:
    """The digests of a model and of its external data, and what inspecting it said (if ever).

    OSError where a file cannot be read.
    """
    digests = {model: index.digest(model)}
    interface = index.model(digests[model])
    if interface is not None:
        for location in json.loads(interface)["external"]:
            digests[model.parent / location] = index.digest(model.parent / location)
    return digests, interface


def up_to_date(
    store: LocalStore, index: Index, file: Path, name: str, targets: Digest
) -> list[PlannedVariant] | None:
    """The variants of a spec; None unless all are up to date and nothing has to be read to know."""
    fingerprint = _fingerprint(name, index.digest(file), targets)
    facts = index.spec(fingerprint)
    if facts is None:
        return None
    try:
        model = locate(_source(facts), file.parent)
        digests, _ = model_digests(index, model)
    except (SourceMissing, OSError):
        return None
    planned = index.planned(_with_model(fingerprint, digests))
    if planned is None:
        return None
    variants = []
    for variant, target, key in zip(planned.variants, planned.targets, planned.keys, strict=True):
        engine = index.engine_of(key)
        if engine is None:
            return None
        digest = Digest(f"sha256:{engine}")
        if not index.entry_is_known("engine", engine, store.entry_path("engine", digest)):
            return None
        variants.append(
            PlannedVariant(
                spec=name,
                variant=variant,
                target=target,
                plan=Digest(f"sha256:{key}"),
                state=UpToDate(digest),
            )
        )
    return variants


def remember(
    index: Index,
    *,
    name: str,
    spec: Digest,
    targets: Digest,
    source: Source,
    digests: Mapping[Path, Digest],
    variants: list[PlannedVariant],
) -> None:
    """Let the next run find what this one planned. Only for specs without problems."""
    fingerprint = _fingerprint(name, spec, targets)
    package = source.package if isinstance(source, PackageSource) else ""
    index.know_spec(fingerprint, SpecFacts(package, source.path))
    index.know_planned(
        _with_model(fingerprint, digests),
        PlannedSpec(
            [each.variant for each in variants],
            [each.target for each in variants],
            [each.plan.hex for each in variants],
        ),
    )


def _source(facts: SpecFacts) -> Source:
    if facts.package:
        return PackageSource(package=facts.package, path=facts.path)
    return PathSource(path=facts.path)


def _fingerprint(name: str, spec: Digest, targets: Digest) -> str:
    return digest_bytes(f"{_READING}\0{name}\0{spec}\0{targets}".encode()).hex


def _with_model(fingerprint: str, digests: Mapping[Path, Digest]) -> str:
    return digest_bytes("\0".join([fingerprint, *digests.values()]).encode()).hex
