"""What a project has to promote: the engines that its plan is up to date with, what its cache knows
of them, and what an environment that they come from has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engineforge.digest import Digest
from engineforge.errors import EngineForgeError, PromotionRefused, UsageError
from engineforge.plan.planner import Stale
from engineforge.project.folder import spec_files, spec_name
from engineforge.project.last import LastChecks
from engineforge.project.plans import PlannedVariant, Selection
from engineforge.project.project import Project
from engineforge.project.results import Predicate, results
from engineforge.promotion import candidate as said
from engineforge.promotion.artifact import Artifact, of_entry, read_artifact
from engineforge.promotion.attest import provenance
from engineforge.promotion.attest.attestation import (
    Attestation,
    read_attestation,
    sign_attestation,
)
from engineforge.promotion.attest.keys import SigningKey
from engineforge.promotion.attest.statement import Statement, of_engine
from engineforge.promotion.environment import Opened, open_environment
from engineforge.promotion.ledger import Listed, Origin
from engineforge.promotion.oci.copying import copy_artifact, push_artifact
from engineforge.promotion.promoting import Offered
from engineforge.promotion.state import State
from engineforge.spec.environments import Environment, read_environments
from engineforge.spec.validate import did_you_mean
from engineforge.store.local import ENGINE
from engineforge.target import Target

ENVIRONMENTS = "environments.yaml"


class Environments:
    """The environments that a file names, each opened when it is asked for."""

    def __init__(self, file: Path, environ: Mapping[str, str], told: Callable[[str], None]) -> None:
        self._all = read_environments(file)
        self._root, self._environ, self._told = file.parent, environ, told
        self._opened: dict[str, Opened] = {}

    @property
    def names(self) -> list[str]:
        return list(self._all)

    @property
    def first(self) -> list[str]:
        """Those that take engines from the local store."""
        return [name for name, each in self._all.items() if each.source is None]

    def open(self, name: str) -> Opened:
        """UsageError for one that the file does not name."""
        if name not in self._all:
            raise UsageError(
                f"there is no environment '{name}'", hint=did_you_mean(name, self._all)
            )
        if name not in self._opened:
            self._opened[name] = open_environment(
                self._all[name], root=self._root, environ=self._environ, said=self._told
            )
        return self._opened[name]

    def source_of(self, environment: Environment) -> Opened | None:
        """Where its engines come from; None: from the local store."""
        return None if environment.source is None else self.open(environment.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """The engines of one spec that may be promoted, and where they come from. `keeps` says of an
    engine that an environment has whether the spec still names it; `notes` are what is left out."""

    spec: str
    offered: tuple[Offered, ...]
    origin: Origin | None
    keeps: Callable[[Listed], bool]
    notes: tuple[str, ...] = ()


class Promoter:
    """Finds what of the specs in `paths` can be promoted; everything is signed with `key`."""

    def __init__(
        self,
        project: Project,
        paths: Sequence[Path],
        selection: Selection,
        *,
        environments: Environments,
        key: SigningKey | None,
    ) -> None:
        self._project, self._selection = project, selection
        self._environments, self._key = environments, key
        self._files = {spec_name(file, project.root): file for file in spec_files(paths)}
        self.plan = project.plan(paths, selection, checks=True, data_may_miss=True)
        self._last = LastChecks(self.plan, project.store)
        self._targets: Mapping[str, Target] = project.targets()

    @property
    def specs(self) -> list[str]:
        return list(self._files)

    def offers(self, spec: str, to: Environment) -> Offers:
        """What may be promoted to an environment. PromotionRefused where there is nothing, or not
        all that was asked for."""
        destination = self._environments.open(to.name)
        source = self._environments.source_of(to)
        if source is None:
            return self._from_store(spec, destination)
        state = source.state(spec)
        if state is None:
            raise PromotionRefused(
                f"{source.environment.name} has nothing of '{spec}'",
                hint=f"engineforge promote {self._files[spec]} --to {source.environment.name}",
            )
        return self._from_environment(spec, destination, source, state)

    def in_source(self, spec: str, to: Environment) -> list[tuple[Opened, Listed]]:
        """The engines of a spec, as far as they are selected, where `to` takes them from.
        UsageError where that is the local store: to what is nowhere yet nothing can be attached."""
        source = self._environments.source_of(to)
        if source is None:
            raise UsageError(
                f"{to.name} takes engines from the local store, and nothing can be attached there",
                hint="what the checks came to is signed when they are promoted; an approval needs "
                "an environment to come `from`",
            )
        state = source.state(spec)
        if state is None:
            raise PromotionRefused(f"{source.environment.name} has nothing of '{spec}'")
        return [(source, each) for each in state.engines if self._takes(each)]

    def known_here(self, spec: str, engine: Listed) -> list[Statement]:
        """What the checks of this cache came to for just this engine of an environment: by its
        bytes. One that was built here by the same recipe may have others, and its own speed."""
        variant = self.plan.all.get((spec, engine.variant, engine.target))
        if variant is None or variant.engine is None:
            return []
        entry = self._project.store.get("engine", variant.engine)
        if entry is None or entry.manifest.files[ENGINE].sha256 != engine.engine:
            return []
        made = results(self._project.store, self._last, variant, entry.manifest)
        return [
            _statement(predicate, engine.name, engine.manifest, engine.engine) for predicate in made
        ]

    def _takes(self, engine: Listed) -> bool:
        chosen = self._selection
        return (not chosen.variants or engine.variant in chosen.variants) and (
            not chosen.targets or engine.target in chosen.targets
        )

    def _planned(self, spec: str) -> dict[tuple[str, str], PlannedVariant]:
        return {
            (each.variant, each.target): each
            for each in (*self.plan.variants, *self.plan.others)
            if each.spec == spec
        }

    def _keeps(self, spec: str) -> Callable[[Listed], bool]:
        planned = self._planned(spec)
        # A spec that cannot be planned is not one that names nothing.
        return lambda engine: not planned or (engine.variant, engine.target) in planned

    def _from_store(self, spec: str, destination: Opened) -> Offers:
        offered, notes, missing = [], [], []
        for variant in self.plan.variants:
            if variant.spec != spec:
                continue
            if variant.engine is None or variant.plan is None:
                if variant.unfit is not None:
                    notes.append(f"{variant.label} is left out: {variant.unfit}")
                else:
                    missing.append(variant.label)
                continue
            offered.append(self._built(variant, destination))
        if missing:
            raise PromotionRefused(
                f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not built, or not "
                "up to date",
                hint=f"engineforge build {self._files[spec]}",
            )
        if not offered:
            raise PromotionRefused(
                f"there is no engine of '{spec}' to promote" + "".join(f"; {n}" for n in notes)
            )
        return Offers(
            spec=spec,
            offered=tuple(offered),
            origin=None,
            keeps=self._keeps(spec),
            notes=tuple(notes),
        )

    def _built(self, variant: PlannedVariant, destination: Opened) -> Offered:
        store = self._project.store
        entry = None if variant.engine is None else store.get("engine", variant.engine)
        record = None if variant.plan is None else store.plan_record(variant.plan)
        if entry is None or record is None:
            raise EngineForgeError(f"{variant.label} was removed meanwhile", hint="run again")
        artifact = of_entry(
            entry,
            plan=record.key,
            spec=variant.spec,
            variant=variant.variant,
            target=variant.target,
        )
        before = {
            stage: found.manifest
            for stage, key in record.entries.items()
            if stage != "engine" and (found := store.get(stage, key)) is not None
        }
        about = provenance.of_entry(entry.manifest, record, before)
        read = read_artifact(artifact.manifest)
        statements = [
            _statement(
                predicate, f"{variant.variant}@{variant.target}", read.digest, read.engine.digest
            )
            for predicate in (
                (provenance.PROVENANCE, about.to_predicate()),
                *results(self._project.store, self._last, variant, entry.manifest),
            )
        ]
        listed = self._there(destination, variant, artifact)
        known = () if listed is None else destination.attestations(listed)
        return Offered(
            candidate=self._candidate(
                variant.spec,
                variant.variant,
                variant.target,
                read.digest,
                engine=read.engine.digest,
                plan=record.key,
                key=entry.manifest.key,
            ),
            descriptor=artifact.descriptor,
            attestations=self._counted(destination, known, statements),
            source=said.NotInSource("it comes from the local store"),
            freshness=said.Fresh(),
            send=partial(_push, artifact),
        )

    def _there(
        self, destination: Opened, variant: PlannedVariant, artifact: Artifact
    ) -> Listed | None:
        state = destination.state(variant.spec)
        listed = None if state is None else state.engine(variant.variant, variant.target)
        same = listed is not None and listed.manifest == artifact.descriptor.digest
        return listed if same else None

    def _from_environment(
        self, spec: str, destination: Opened, source: Opened, state: State
    ) -> Offers:
        planned = self._planned(spec)
        offered = []
        for engine in state.engines:
            if not self._takes(engine):
                continue
            variant = planned.get((engine.variant, engine.target))
            statements = self.known_here(spec, engine)
            known = source.attestations(engine, destination.keys)
            offered.append(
                Offered(
                    candidate=self._candidate(
                        spec,
                        engine.variant,
                        engine.target,
                        engine.manifest,
                        engine=engine.engine,
                        plan=engine.plan,
                        key=engine.key,
                    ),
                    descriptor=source.describe(spec, engine),
                    attestations=self._counted(destination, known, statements),
                    source=said.InSource(environment=source.environment.name, since=engine.since),
                    freshness=freshness(variant, engine),
                    send=partial(_copy, engine.manifest, source),
                    still=partial(_is_there, source, spec, engine),
                )
            )
        if not offered:
            raise PromotionRefused(
                f"{source.environment.name} has no such engine of '{spec}'",
                hint=f"it has {', '.join(each.name for each in state.engines)}",
            )
        return Offers(
            spec=spec,
            offered=tuple(offered),
            origin=Origin(environment=source.environment.name, number=state.number),
            keeps=self._keeps(spec),
        )

    def _counted(
        self, destination: Opened, known: Sequence[Attestation], statements: Sequence[Statement]
    ) -> tuple[Attestation, ...]:
        """What is known already, and what we add to it: not what we said before."""
        if self._key is None:
            return tuple(known)
        mine = {name for name, key in destination.keys.items() if key == self._key.public}
        there = {each.statement.to_bytes() for each in known if mine & each.signed_by}
        # What no key of the destination signed says nothing there.
        added = [
            read_attestation(sign_attestation(each, self._key), destination.keys)
            for each in statements
            if mine and each.to_bytes() not in there
        ]
        return (*known, *added)

    def _candidate(
        self,
        spec: str,
        variant: str,
        target: str,
        manifest: Digest,
        *,
        engine: Digest,
        plan: Digest,
        key: Digest,
    ) -> said.Candidate:
        if target not in self._targets:
            raise PromotionRefused(
                f"{spec}/{variant}@{target} is for a target that targets.yaml does not name",
                hint="promote the others with --target, or name it again",
            )
        where = self._targets[target]
        return said.Candidate(
            spec=spec,
            file=str(self._files[spec]),
            variant=variant,
            target=target,
            manifest=manifest,
            engine=engine,
            plan=plan,
            key=key,
            gpu=where.gpu,
            compute_capabilities=where.compute_capabilities,
            driver=where.driver,
        )


def freshness(variant: PlannedVariant | None, engine: Listed) -> said.Freshness:
    """Whether an engine of an environment is what its spec asks for today."""
    if variant is None:
        return said.Stale("the spec does not name it")
    if variant.plan is None:
        return said.Unknown("its model is not made here: engineforge build")
    if engine.plan == variant.plan or engine.key == variant.engine:
        return said.Fresh()
    why = ""
    if isinstance(variant.state, Stale):
        why = "; ".join(str(each) for each in variant.state.reasons)
    return said.Stale(why or "the specs ask for another engine by now")


def _push(artifact: Artifact, to: Any, told: Any) -> None:  # noqa: ANN401
    push_artifact(artifact, to, told)


def _is_there(source: Opened, spec: str, engine: Listed) -> bool:
    state = source.state(spec)
    there = None if state is None else state.engine(engine.variant, engine.target)
    return there is not None and there.manifest == engine.manifest


def _copy(manifest: Digest, source: Opened, to: Any, told: Any) -> None:  # noqa: ANN401
    copy_artifact(manifest, source.repository, to, told)


def _statement(predicate: Predicate, name: str, manifest: Digest, engine: Digest) -> Statement:
    kind, said_of_it = predicate
    return of_engine(kind, said_of_it, label=name, manifest=manifest, engine=engine)
