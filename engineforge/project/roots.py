"""What specs hold in a store: the current plan of each variant, and what was made for it so far.

Environments will hold theirs here, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from engineforge.digest import Digest
from engineforge.errors import SpecError, UsageError
from engineforge.plan.planner import Stale
from engineforge.project.folder import spec_files
from engineforge.project.plans import PlannedVariant, Selection
from engineforge.project.project import Project
from engineforge.store.gc import Root
from engineforge.store.local import LocalStore
from engineforge.store.manifest import Manifest
from engineforge.store.uses import Ref
from engineforge.worker.chain import planned
from engineforge.worker.job import Job
from engineforge.worker.latency import LATENCY
from engineforge.worker.measured import CHECKS, ENGINE_CHECKS, SENSITIVITY
from engineforge.worker.parcel import PARCEL


def all_given(root: Path, paths: Sequence[Path]) -> None:
    """UsageError unless these are all specs of their folder: the entries of the others would be
    held by nothing."""
    given = {os.path.abspath(each) for each in spec_files(paths)}  # noqa: PTH100 - links stay
    there = {os.path.abspath(each) for each in spec_files([root])}  # noqa: PTH100
    if missing := sorted(there - given):
        raise UsageError(
            f"only {len(given)} of the {len(given | there)} specs in '{root}' were given, and what "
            f"only others need would go, such as that of '{os.path.relpath(missing[0])}'",
            hint=f"give '{root}'; or --partial, if these specs are all that counts",
        )


def spec_roots(project: Project, paths: Sequence[Path]) -> Iterator[Root]:
    """What the specs named or contained in `paths` hold. SpecError where one of them has problems:
    then it is not known."""
    plan = project.plan(paths, Selection(), jobs=True)
    if plan.problems:
        raise SpecError(plan.problems)
    for variant in plan.variants:
        yield from _of_variant(project, variant)


def _of_variant(project: Project, variant: PlannedVariant) -> Iterator[Root]:
    made = () if variant.job is None else tuple(_made(project.store, variant.job))
    yield Root(by=f"plan of {variant.label}", plan=variant.plan, entries=made)
    if isinstance(variant.state, Stale):
        # Until its successor is built the last one serves, and says what changed.
        last = project.index.history(variant.label)
        if last is not None and (variant.plan is None or last.plan != variant.plan.hex):
            plan = Digest(f"sha256:{last.plan}")
            yield Root(by=f"last plan of {variant.label}, which is stale", plan=plan)


def _made(store: LocalStore, job: Job) -> Iterator[Ref]:
    """The entry of each stage of a job, as far as they are there: a plan has no record before its
    engine is built."""

    def manifest_of(stage: str, key: Digest) -> Manifest | None:
        entry = store.get(stage, key)
        return None if entry is None else entry.manifest

    return planned(job, manifest_of)


def about(manifest: Manifest) -> Sequence[Digest] | None:
    """Which files, by content, an entry was measured of; none for those of plans, and None for a
    stage that this version does not know."""
    document = manifest.key_document
    match manifest.stage:
        case "source" | "prepared" | "onnx" | "typed" | "engine":
            return ()
        case _ if manifest.stage == PARCEL:  # of a node's cache, which belongs to no project
            return ()
        case _ if manifest.stage in (CHECKS, SENSITIVITY):
            # The first is the model; its external data is in no entry.
            return (Digest(document["source"][0]), Digest(document["typed"][0]))
        case _ if manifest.stage in (ENGINE_CHECKS, LATENCY):
            return (Digest(document["engine"]),)
        case _:
            return None
